"""The whole protocol on features of known worth, and the splits that it refuses."""

import json

import numpy as np
import pytest

from cxrbase.errors import EncoderError, ManifestError
from cxrbase.evaluation.linear import GRID, LinearProbe
from cxrbase.evaluation.probe import Labelled, compare, run_probe

CLASSES = ("effusion", "nodule")


def split(name, patients=80, *, worth=3.0, noise_seed=0, width=16):
    """Two images per patient with the same labels; `worth` is how far apart the features of the labels lie."""
    rng = np.random.default_rng([ord(name[0]), ord(name[1])])
    labels = np.repeat(rng.integers(0, 2, (patients, 2)), 2, axis=0).astype(float)
    noise = np.random.default_rng([noise_seed, ord(name[0]), ord(name[1])]).normal(size=(2 * patients, width))
    noise[:, :2] += worth * labels
    return Labelled(noise, labels, np.repeat([f"{name}{i}" for i in range(patients)], 2))


def score(*, val=True, **options):
    validation = split("val", **options) if val else None
    return run_probe(split("train", **options), validation, split("test", **options), classes=CLASSES, resamples=300)


@pytest.mark.parametrize("val", [True, False])
def test_informative_features_score_high_and_noise_at_chance(val):
    noise = score(val=val, worth=0.0)
    # Whitening takes from neighbours that the direction of the label has the most spread.
    for kind, worth in (("linear", 6.0), ("knn", 10.0)):
        good = score(val=val, worth=worth)
        assert getattr(good, kind).value > 0.98
        assert abs(getattr(noise, kind).value - 0.5) < 0.12
        assert getattr(noise, kind).low < 0.5 < getattr(noise, kind).high
        assert getattr(good, kind).low <= getattr(good, kind).value <= getattr(good, kind).high


def test_a_result_is_deterministic_and_goes_into_json():
    first, again = score(), score()
    assert first.to_dict() == again.to_dict()
    stored = json.loads(json.dumps(first.to_dict(), allow_nan=False))
    assert stored["classes"] == list(CLASSES)
    assert (stored["n_train"], stored["n_test"]) == (160, 160)
    mean = np.mean(list(stored["linear"]["per_class"].values()))
    assert stored["linear"]["value"] == pytest.approx(mean)
    for name, (low, high) in stored["linear"]["per_class_interval"].items():
        assert low < stored["linear"]["per_class"][name] < high


def test_a_paired_difference_is_narrower_than_two_intervals():
    # The second encoder sees what the first does and a little noise, so both fail on the same patients.
    parts = {name: split(name, worth=1.0) for name in ("train", "val", "test")}
    rng = np.random.default_rng(5)
    blurred = {
        name: Labelled(part.features + rng.normal(0, 0.5, part.features.shape), part.labels, part.patients)
        for name, part in parts.items()
    }
    a, b = (run_probe(p["train"], p["val"], p["test"], classes=CLASSES, resamples=500) for p in (parts, blurred))
    difference = compare(a, b)["linear"]
    assert difference.value == pytest.approx(a.linear.value - b.linear.value)
    assert difference.low <= difference.value <= difference.high
    alone = np.hypot(a.linear.high - a.linear.low, b.linear.high - b.linear.low)
    assert difference.high - difference.low < 0.8 * alone
    itself = compare(a, a)["knn"]
    assert (itself.value, itself.low, itself.high) == (0, 0, 0)
    assert set(itself.per_class.values()) == {0}


def test_only_results_on_the_same_test_images_are_compared():
    with pytest.raises(ManifestError, match="only be compared on the same test images"):
        compare(score(), score(patients=70))
    other = run_probe(split("train"), None, split("test"), classes=CLASSES, resamples=300, seed=1)
    with pytest.raises(ManifestError, match="resamples and seed"):
        compare(score(), other)


def test_a_class_of_one_label_is_none_and_not_in_the_mean():
    train, val, test = split("train"), split("val"), split("test")
    one_sided = Labelled(test.features, test.labels * [1, 0], test.patients)
    result = run_probe(train, val, one_sided, classes=CLASSES, resamples=50)
    assert result.linear.per_class["nodule"] is None
    assert result.linear.per_class_interval["nodule"] is None
    assert result.to_dict()["linear"]["per_class_interval"]["nodule"] is None
    assert result.linear.value == result.linear.per_class["effusion"]
    assert compare(result, result)["linear"].per_class["nodule"] is None
    # In training only, the class is just as undefined.
    unlearnt = Labelled(train.features, train.labels * [1, np.nan], train.patients)
    assert run_probe(unlearnt, val, test, classes=CLASSES, resamples=50).knn.per_class["nodule"] is None
    with pytest.raises(ManifestError, match="none of effusion, nodule has both"):
        run_probe(train, val, Labelled(test.features, test.labels * 0, test.patients), classes=CLASSES)


@pytest.mark.parametrize("other", ["val", "test"])
def test_patients_in_two_splits_are_refused_by_name(other):
    parts = {name: split(name) for name in ("train", "val", "test")}
    patients = parts[other].patients.copy().astype(object)
    patients[4] = "train7"
    parts[other] = Labelled(parts[other].features, parts[other].labels, patients.astype(str))
    with pytest.raises(ManifestError, match=f"1 in both train and {other}, such as 'train7'"):
        run_probe(parts["train"], parts["val"], parts["test"], classes=CLASSES)


def test_broken_features_and_shapes_are_refused():
    train, val, test = split("train"), split("val"), split("test")
    broken = test.features.copy()
    broken[3, 3] = np.inf
    with pytest.raises(EncoderError, match="features of the test split must be finite"):
        run_probe(train, val, Labelled(broken, test.labels, test.patients), classes=CLASSES)
    with pytest.raises(ManifestError, match="the train split must hold labelled images"):
        run_probe(train.take(np.zeros(len(train), bool)), val, test, classes=CLASSES)
    with pytest.raises(ValueError, match="one column for each of 3 classes"):
        run_probe(train, val, test, classes=("a", "b", "c"))
    with pytest.raises(ValueError, match="features, labels and patients must be"):
        Labelled(train.features[:3], train.labels, train.patients)


def test_without_a_validation_split_the_probe_learns_from_all_training_patients_in_the_end():
    train, test = split("train"), split("test")
    found = run_probe(train, None, test, classes=CLASSES, resamples=50).linear_scores
    judges = train.features, np.full(train.labels.shape, np.nan)
    whole = [LinearProbe(grid=[value]).fit(train.features, train.labels, *judges) for value in GRID]
    off = np.stack([np.abs(probe.scores(test.features) - found).max(0) for probe in whole])
    assert (off.min(0) < 1e-3).all()


def test_the_held_out_training_patients_are_whole_patients_and_a_single_one_is_no_obstacle(monkeypatch):
    train, asked, fit = split("train"), [], LinearProbe.fit
    mixed = train.take(np.random.default_rng(0).permutation(len(train)))
    monkeypatch.setattr(LinearProbe, "fit", lambda self, *given: (asked.append(given), fit(self, *given))[1])
    run_probe(mixed, None, split("test"), classes=CLASSES, resamples=50)
    ((rest, _, held, _),) = asked
    home = {image.tobytes(): patient for image, patient in zip(train.features, train.patients, strict=True)}
    learnt, judges = ({home[image.tobytes()] for image in part} for part in (rest, held))
    assert (len(learnt), len(judges), len(learnt | judges)) == (64, 16, 80)
    alone = Labelled(train.features, train.labels, np.full(len(train), "only"))
    result = run_probe(alone, None, split("test"), classes=CLASSES, resamples=50)
    assert result.linear.value > 0.9
