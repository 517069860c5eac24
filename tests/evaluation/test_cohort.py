"""What a task may not be: patients in two splits, nothing to learn, an empty split; and what it says of its classes."""

import numpy as np
import pytest

from cxrbase.errors import ManifestError
from cxrbase.evaluation.cohort import Cohort, Splits, age_bands
from evaluation.worlds import CLASSES, cohort, world


def splits(**changes):
    parts = {name: cohort(name)[1] for name in ("train", "val", "test")} | changes
    return Splits(CLASSES, **parts, checksum="")


def test_a_planted_patient_leak_is_refused_without_naming_the_patient():
    _, train = cohort("train")
    patients = cohort("test")[1].patients.copy()
    patients[5] = train.patients[0]
    leaking = Cohort(cohort("test")[1].labels, patients)
    with pytest.raises(ManifestError, match="1 in both train and test") as caught:
        splits(test=leaking)
    assert "train-0" not in str(caught.value)


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_a_task_without_both_labels_in_train_is_refused(value):
    train = cohort("train")[1]
    broken = Cohort(np.full(train.labels.shape, value), train.patients)
    with pytest.raises(ManifestError, match="no class can be learnt"):
        splits(train=broken)


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_an_empty_split_is_refused(name):
    with pytest.raises(ManifestError, match=f"the {name} split must hold labelled images"):
        splits(**{name: cohort(name)[1].take(np.arange(0))})


def test_a_broken_label_column_is_reported_with_the_split_where_it_breaks():
    _, good = world()
    test = good.test.labels.copy()
    test[:, 1] = 0
    assert splits(test=Cohort(test, good.test.patients)).undefined() == {"nodule": "only negatives in test"}
    test[:, 1] = np.nan
    assert splits(test=Cohort(test, good.test.patients)).undefined() == {"nodule": "no known label in test"}
    assert good.undefined() == good.undecided() == {}
    train = np.where([True, False], good.train.labels, 1)
    broken = splits(train=Cohort(train, good.train.patients), test=Cohort(test, good.test.patients))
    assert broken.undefined() == {"nodule": "only positives in train"}
    assert good.counts()["test"]["patients"] == 120
    assert good.counts()["test"]["positive"]["effusion"] == int(good.test.labels[:, 0].sum())


def test_what_validation_cannot_choose_is_not_undefined():
    val = cohort("val")[1]
    labels = val.labels.copy()
    labels[:, 1] = 0
    found = splits(val=Cohort(labels, val.patients))
    assert found.undefined() == {}
    assert found.undecided() == {"nodule": "only negatives in val"}


def test_patients_become_numbers_and_parts_must_fit():
    codes = cohort("test")[1].codes()
    assert codes.dtype == np.int64
    assert len(np.unique(codes)) == 120
    with pytest.raises(ValueError, match="must be \\(N, K\\)"):
        Cohort(np.zeros((3, 2)), np.array(["a", "b"]))
    with pytest.raises(ValueError, match="must have 2 columns"):
        Splits(CLASSES, *(Cohort(np.ones((1, 1)), np.array([name])) for name in "abc"), checksum="")


def test_ages_become_bands():
    bands = age_bands([np.nan, 0, 19.9, 20, 39, 55, 79.5, 80, 101])
    assert bands.tolist() == ["", "0-19", "0-19", "20-39", "20-39", "40-59", "60-79", "80+", "80+"]
