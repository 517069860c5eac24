"""Few images: exactly as many as asked, of different patients, nested, and none where there are not enough."""

import numpy as np
import pytest

from cxrbase.evaluation.cohort import Cohort
from cxrbase.evaluation.shots import fraction, k_shot, most_shots
from evaluation.worlds import cohort


@pytest.mark.parametrize("k", [1, 4, 32])
def test_each_class_sees_k_patients_of_each_label_and_no_other_label(k):
    train = cohort("train")[1]
    rows, labels = k_shot(train, k, seed=0)
    for column in range(2):
        for value in (0.0, 1.0):
            own = rows[labels[:, column] == value]
            assert len(np.unique(train.patients[own])) == len(own) == k
            assert (train.labels[own, column] == value).all()
    assert (np.diff(rows) > 0).all()


def test_small_draws_are_part_of_large_ones_and_seeds_differ():
    train = cohort("train")[1]
    few, more, other = (set(k_shot(train, k, seed=seed)[0]) for k, seed in ((4, 0), (8, 0), (4, 1)))
    assert few < more
    assert few != other
    small, large = (set(fraction(train, share, seed=3)) for share in (0.1, 0.5))
    assert small < large
    assert set(fraction(train, 1.0, seed=3)) == set(range(240))


def test_the_most_shots_that_a_class_has_are_found():
    train = cohort("train")[1]
    most = most_shots(train)
    assert not np.isnan(k_shot(train, most, seed=0)[1]).all()
    assert not len(k_shot(train, most + 1, seed=0)[0])


def test_of_exclusive_classes_the_most_are_those_that_two_have():
    one_of = np.eye(3)[np.repeat([0, 1, 2], [9, 5, 2])]
    train = Cohort(one_of, np.arange(len(one_of)).astype(str))
    assert most_shots(train, exclusive=True) == 5
    assert most_shots(train) == 7


def test_a_class_with_too_few_patients_gets_no_label():
    train = cohort("train")[1]
    positives = np.flatnonzero(train.labels[:, 1] == 1)
    train.labels[positives[4:], 1] = 0  # two patients are left, with two images each
    _, labels = k_shot(train, 3, seed=0)
    assert np.isnan(labels[:, 1]).all()
    assert (labels[:, 0] == 1).sum() == 3


def test_a_share_takes_whole_patients():
    train = cohort("train")[1]
    rows = fraction(train, 0.1, seed=0)
    assert len(np.unique(train.patients[rows])) == 12
    assert len(rows) == 24
    for share in (0, 1.1):
        with pytest.raises(ValueError, match="share must be"):
            fraction(train, share, seed=0)
    with pytest.raises(ValueError, match="k must be"):
        k_shot(train, 0, seed=0)
