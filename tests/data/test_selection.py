"""What pretraining draws of a table of images: names in any case, and how often a source is drawn."""

import numpy as np
import pytest

from cxrbase.data.manifest import Manifest
from cxrbase.data.selection import Selection

SOURCES = ["NIH"] * 6 + ["brax"] * 4


@pytest.fixture
def table(tmp_path):
    columns = {"path": [f"{row}.png" for row in range(10)], "source": SOURCES, "view_position": ["PA", "AP"] * 5}
    return Manifest.from_columns(columns, root=tmp_path)


@pytest.mark.parametrize("name", ["NIH", "nih", "Nih"])
def test_a_source_is_named_in_any_case(table, name):
    parts = Selection(weights={name: 0.5}).parts(table, np.arange(10))
    assert {table.column("source")[part.rows[0]]: part.weight for part in parts} == {"NIH": 0.5, "brax": 1.0}
    (part,) = Selection(sources=[name], view_positions=["ap"]).parts(table, np.arange(10))
    assert part.rows.tolist() == [1, 3, 5]
