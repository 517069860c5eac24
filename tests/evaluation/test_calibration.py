"""Brier score, calibration error, reliability and temperature against scikit-learn, torchmetrics and known truth."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_calibration_error

from cxrbase.evaluation.calibration import calibrated, calibration_metrics, fit_temperature, reliability
from cxrbase.evaluation.heads import log_odds
from cxrbase.evaluation.measure import measure, top1
from cxrbase.evaluation.metrics import auroc
from evaluation.cases import problems


def drawn(count=4000, *, confidence=1.0, seed=0):
    """Logits whose sigmoid is the true chance where confidence is 1, and too sure of itself above."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (count, 2))
    return confidence * logits, (rng.random(logits.shape) < expit(logits)).astype(float)


@settings(max_examples=100, deadline=None)
@given(problem=problems())
def test_brier_and_calibration_error_equal_other_implementations(problem):
    scores, labels, weights = problem
    chances = scores * 0.999  # torchmetrics puts exactly 1 in a bin of its own
    once = calibration_metrics(chances, labels, np.ones((1, len(chances))), bins=7)
    twice = calibration_metrics(chances, labels, weights, bins=7)
    for k in range(3):
        known = ~np.isnan(labels[:, k])
        if not known.any():
            assert np.isnan(once["brier"][0, k])
            assert np.isnan(once["ece"][0, k])
            continue
        p, y = chances[known, k], labels[known, k]
        ece = binary_calibration_error(torch.tensor(p), torch.tensor(y).long(), n_bins=7, norm="l1")
        np.testing.assert_allclose(once["ece"][0, k], float(ece), atol=1e-9)
        for row, weight in enumerate(weights[:, known]):
            if weight.any():
                want = brier_score_loss(y, p, sample_weight=weight, labels=[0, 1])
                np.testing.assert_allclose(twice["brier"][row, k], want, atol=1e-9)
                again = np.repeat(p, weight), np.repeat(y, weight)
                repeated = calibration_metrics(again[0][:, None], again[1][:, None], np.ones((1, weight.sum())), bins=7)
                np.testing.assert_allclose(twice["ece"][row, k], repeated["ece"][0, 0], atol=1e-9)


def test_reliability_equals_scikit_learn():
    logits, labels = drawn()
    curve = reliability(expit(logits[:, 0]), labels[:, 0], bins=10)
    frequency, probability = calibration_curve(labels[:, 0], expit(logits[:, 0]), n_bins=10)
    np.testing.assert_allclose(curve.frequency, frequency, atol=1e-12)
    np.testing.assert_allclose(curve.probability, probability, atol=1e-12)
    assert curve.count.sum() == len(logits)


def test_an_empty_bin_is_undefined_and_unknown_labels_are_left_out():
    curve = reliability([0.05, 0.06, 0.95], [0, np.nan, 1], bins=10)
    assert curve.count.tolist() == [1] + [0] * 8 + [1]
    assert np.isnan(curve.frequency[1:-1]).all()


@pytest.mark.parametrize("confidence", [0.5, 1.0, 4.0])
def test_temperature_finds_how_overconfident_a_head_is_and_repairs_it(confidence):
    logits, labels = drawn(confidence=confidence)
    temperature = fit_temperature(logits, labels)
    np.testing.assert_allclose(temperature, confidence, rtol=0.12)
    fresh, truth = drawn(confidence=confidence, seed=1)
    once = np.ones((1, len(fresh)))
    before = calibration_metrics(expit(fresh), truth, once)["ece"].mean()
    after = calibration_metrics(expit(fresh / temperature), truth, once)["ece"].mean()
    assert after < 0.03
    assert confidence == 1.0 or after < before / 2
    np.testing.assert_array_equal(auroc(fresh, truth), auroc(fresh / temperature, truth))


def test_temperature_minimises_the_log_loss():
    logits, labels = drawn(confidence=3.0)
    best = fit_temperature(logits, labels)[0]

    def loss(t):
        return np.mean(np.logaddexp(0, logits[:, 0] / t) - labels[:, 0] * logits[:, 0] / t)

    assert loss(best) <= min(loss(best * 0.99), loss(best * 1.01))


def test_a_class_that_validation_cannot_judge_keeps_its_temperature():
    logits, labels = drawn(100)
    labels[:, 0] = 1
    logits[:, 1] = np.nan
    np.testing.assert_array_equal(fit_temperature(logits, labels), [1.0, 1.0])


def exclusive(count, *, confidence=1.0, seed=0):
    """Logits of a softmax that is too sure of itself above 1, as log-odds, and the classes drawn; the third is rare."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(count, 3)) - [0, 0, 1.5]
    shares = torch.from_numpy(logits).softmax(1).numpy()
    labels = np.eye(3)[(rng.random((count, 1)) > shares.cumsum(1)).sum(1).clip(max=2)]
    sure = torch.from_numpy(confidence * logits)
    return sure, log_odds(sure, one_of=True).numpy(), labels


@pytest.mark.parametrize("confidence", [0.5, 1.0, 3.0])
def test_exclusive_classes_share_the_temperature_of_their_softmax(confidence):
    logits, scores, labels = exclusive(4000, confidence=confidence)
    temperatures = fit_temperature(scores, labels, one_of=True)
    assert len(set(temperatures)) == 1
    np.testing.assert_allclose(temperatures, confidence, rtol=0.12)
    chances = expit(calibrated(scores, temperatures, one_of=True))
    np.testing.assert_allclose(chances, (logits / temperatures[0]).softmax(1).numpy(), atol=1e-12)

    def loss(t):
        return float(F.cross_entropy(logits / t, torch.from_numpy(labels)))

    assert loss(temperatures[0]) <= min(loss(temperatures[0] * 0.99), loss(temperatures[0] * 1.01))


def test_a_shared_temperature_needs_images_of_two_classes_and_leaves_out_those_of_none_or_several():
    _, scores, labels = exclusive(500)
    one = np.zeros_like(labels)
    one[:, 1] = 1
    np.testing.assert_array_equal(fit_temperature(scores, one, one_of=True), np.ones(3))
    vague = np.concatenate([labels, np.zeros((9, 3)), np.ones((9, 3)), np.full((9, 3), np.nan)])
    more = np.concatenate([scores, np.full((27, 3), 9.0)])
    np.testing.assert_allclose(fit_temperature(more, vague, one_of=True), fit_temperature(scores, labels, one_of=True))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([5, 50, 300]), st.booleans())
def test_calibration_never_changes_the_answer_among_exclusive_classes(seed, count, alone):
    _, val, val_labels = exclusive(count, confidence=4.0, seed=seed)
    _, test, labels = exclusive(400, confidence=4.0, seed=seed + 1)
    if alone:  # one class against the rest each, as a linear probe scores them
        val, test = (scores * [0.5, 1.0, 2.0] - 1 for scores in (val, test))
    weights = np.ones((2, 400), np.int16)
    found = measure(val, val_labels, test, labels, weights, classes=list("abc"), kind="multiclass")
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    np.testing.assert_array_equal(found.probabilities.argmax(1), test.argmax(1))
    right = (test.argmax(1) == labels.argmax(1)).mean()
    np.testing.assert_allclose(top1(found, labels, weights, kind="multiclass")["top1_accuracy"], right)
    assert top1(found, labels, weights, kind="multilabel") == {}


def test_top1_accuracy_is_of_the_images_with_exactly_one_class():
    _, val, val_labels = exclusive(400)
    _, test, labels = exclusive(300, seed=1)
    right = test.argmax(1) == labels.argmax(1)
    labels[:40], labels[40:80], labels[80:120] = 0, 1, np.nan
    weights = np.stack([np.ones(300, np.int16), np.arange(300, dtype=np.int16) % 3])
    found = measure(val, val_labels, test, labels, weights, classes=list("abc"), kind="multiclass")
    share = top1(found, labels, weights, kind="multiclass")["top1_accuracy"]
    expected = [right[120:].mean(), right[120:].mean(), np.average(right[120:], weights=weights[1, 120:])]
    np.testing.assert_allclose(share, expected)


def test_exclusive_classes_of_which_one_has_no_scores_are_calibrated_by_themselves():
    _, val, val_labels = exclusive(400, confidence=3.0)
    _, test, labels = exclusive(300, confidence=3.0, seed=1)
    weights = np.ones((1, 300), np.int16)
    learnt, given = np.array([True, True, False]), {"classes": list("abc"), "kind": "multiclass"}
    whole = measure(val, val_labels, test, labels, weights, learnt=learnt, **given)
    # A softmax that counts the class sums to one with it, and what is left sums to less.
    assert (whole.probabilities[:, :2].sum(1) < 1).all()
    assert len(set(whole.temperatures)) == 1
    val[:, 2] = test[:, 2] = np.nan
    parts = measure(val, val_labels, test, labels, weights, **given)
    same = measure(val, val_labels, test, labels, weights, classes=list("abc"))
    np.testing.assert_array_equal(parts.probabilities, same.probabilities)
    for found in (whole, parts):
        assert np.isnan(found.probabilities[:, 2]).all()
        assert np.isnan(found.scores[:, 2]).all()
        assert top1(found, labels, weights, kind="multiclass") == {}


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="must be in \\[0, 1\\]"):
        calibration_metrics([[1.5], [0.5]], [[1], [0]], np.ones((1, 2)))
    with pytest.raises(ValueError, match="bins must be"):
        reliability([0.5], [1], bins=0)
