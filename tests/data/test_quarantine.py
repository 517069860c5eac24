"""What is entered in the quarantine, with which reason, and how much of it ends a run."""

import numpy as np
import pytest

from cxrbase.data.quarantine import Quarantine
from cxrbase.errors import ShardError


def made(*, limit):
    return Quarantine(10, limit=limit, names=lambda rows: [f"image {row}" for row in rows])


def test_a_run_ends_above_what_is_allowed_and_not_at_it():
    quarantine = made(limit=0.2)
    for row in (3, 7):
        quarantine.add(np.array([row]), "damaged")
        quarantine.report()
    quarantine.add(np.array([5]), "missing")
    with pytest.raises(ShardError, match=r"3 of 10 images are unreadable.*max_bad=0\.2.*image 5, it or its shard"):
        quarantine.report()


def test_an_image_keeps_the_reason_it_was_entered_with_and_is_named_once(tmp_path):
    quarantine, file = made(limit=1), tmp_path / "quarantine.csv"
    quarantine.add(np.array([4]), "damaged")
    quarantine.report(file)
    quarantine.add(np.array([2, 4]), "missing")
    quarantine.report(file)
    assert file.read_text().splitlines() == ["4,image 4,damaged", "2,image 2,missing"]
    back = made(limit=1)
    back.restore(quarantine.state())
    assert [back.holds(row) for row in (2, 4)] == [False, True]
