"""Scores by group: over the classes that all groups have, and only where a group is large enough."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxrbase.evaluation.cohort import Cohort
from cxrbase.evaluation.subgroups import FEWEST, subgroup_report


def report(*, groups, labels):
    logits = labels + np.random.default_rng(1).normal(size=labels.shape)
    patients = np.array([f"p{row}" for row in range(len(labels))])
    test = Cohort(labels, patients, {"sex": np.array(groups)})
    found = subgroup_report(logits, test, np.ones((3, len(labels)), np.int16), classes=("effusion", "nodule"))
    return logits, found["sex"]


def test_groups_are_compared_on_the_classes_that_are_defined_in_all_of_them():
    labels = np.random.default_rng(0).integers(0, 2, (120, 2)).astype(float)
    labels[:60, 1] = 0
    logits, found = report(groups=["F"] * 60 + ["M"] * 60, labels=labels)
    assert found["classes"] == ["effusion"]
    for name, rows in (("F", slice(60)), ("M", slice(60, None))):
        expected = roc_auc_score(labels[rows, 0], logits[rows, 0])
        assert found["groups"][name]["auroc"]["value"] == pytest.approx(expected)
    values = [found["groups"][name]["auroc"]["value"] for name in ("F", "M")]
    assert found["gap"]["value"] == pytest.approx(abs(values[0] - values[1]))


@pytest.mark.parametrize("few", [FEWEST - 1, FEWEST])
def test_a_group_is_scored_from_its_thirtieth_image_on(few):
    labels = np.random.default_rng(0).integers(0, 2, (60 + few, 2)).astype(float)
    _, found = report(groups=["F"] * 60 + ["M"] * few, labels=labels)
    assert found["too_few"] == ([] if few == FEWEST else ["M"])
    assert (found["gap"] is None) == (few < FEWEST)
