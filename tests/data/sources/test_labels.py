"""Codes of public data sets as columns of a manifest."""

import pytest

from cxrbase.data.sources.labels import years


def test_ages_of_days_weeks_and_months_are_in_years():
    assert years(["073D", "026W", "018M", "002Y"]) == pytest.approx([0.2, 0.5, 1.5, 2], rel=0.01)
