"""AUROC, its bootstrap and the collapse measures against scikit-learn, plain resampling and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cxrbase.evaluation.metrics import (
    auroc,
    bootstrap_auroc,
    cluster_weights,
    feature_std,
    interval,
    macro,
    macro_samples,
    rankme,
)


def problem(count=300, classes=4, *, seed=0, levels=None):
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, classes)) < 0.3).astype(float)
    scores = rng.normal(0, 1, (count, classes)) + labels * np.linspace(0, 2, classes)
    return scores if levels is None else np.round(scores * levels) / levels, labels


@pytest.mark.parametrize("levels", [None, 2, 1])
def test_auroc_equals_scikit_learn_also_under_ties(levels):
    scores, labels = problem(levels=levels)
    expected = [roc_auc_score(labels[:, k], scores[:, k]) for k in range(4)]
    np.testing.assert_allclose(auroc(scores, labels), expected, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(data=st.lists(st.tuples(st.integers(-2, 2), st.sampled_from([0, 1])), min_size=2, max_size=30))
def test_auroc_is_the_share_of_pairs_in_the_right_order(data):
    scores, labels = (np.array(column, float)[:, None] for column in zip(*data, strict=True))
    high, low = scores[labels == 1], scores[labels == 0]
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in high for b in low]
    np.testing.assert_allclose(auroc(scores, labels)[0], np.mean(wins) if wins else np.nan)


def test_weighted_auroc_equals_scikit_learn_with_sample_weights():
    scores, labels = problem(levels=2)
    weights = np.random.default_rng(1).integers(0, 4, (6, 300))
    got = bootstrap_auroc(scores, labels, weights)
    for row, weight in enumerate(weights):
        expected = [roc_auc_score(labels[:, k], scores[:, k], sample_weight=weight) for k in range(4)]
        np.testing.assert_allclose(got[row], expected, atol=1e-12)


def test_unknown_labels_are_left_out():
    scores, labels = problem(levels=3)
    hidden = np.random.default_rng(2).random(labels.shape) < 0.4
    expected = [roc_auc_score(labels[~hidden[:, k], k], scores[~hidden[:, k], k]) for k in range(4)]
    np.testing.assert_allclose(auroc(scores, np.where(hidden, np.nan, labels)), expected, atol=1e-12)


def test_a_class_of_one_label_or_without_scores_is_undefined_and_not_zero():
    scores, labels = problem()
    labels[:, 0], labels[:, 1], labels[:, 2], scores[:, 3] = 1, 0, np.nan, np.nan
    assert np.isnan(auroc(scores, labels)).all()
    assert np.isnan(macro(auroc(scores, labels)))
    assert macro([0.5, np.nan, 1.0]) == 0.75


def test_a_resample_without_a_rare_class_is_no_mean_over_the_others():
    resampled = [[0.5, 1.0, np.nan], [np.nan, 1.0, np.nan]]
    np.testing.assert_array_equal(macro_samples(resampled, [0.5, 1.0, np.nan]), [0.75, np.nan])
    np.testing.assert_array_equal(macro_samples(resampled, [np.nan, 1.0, np.nan]), [1.0, 1.0])
    np.testing.assert_array_equal(macro_samples(resampled, [np.nan] * 3), [np.nan] * 2)


def test_the_interval_of_a_mean_with_a_rare_class_is_over_resamples_that_have_it():
    scores, labels = problem(400, 5)
    labels[:, 4] = np.arange(400) < 3
    scores[:, 4] = np.random.default_rng(1).normal(size=400) + 3 * labels[:, 4]
    weights = cluster_weights(np.arange(400).astype(str), resamples=500, seed=0)
    resampled = bootstrap_auroc(scores, labels, weights)
    samples = macro_samples(resampled, auroc(scores, labels))
    assert 0 < np.isnan(samples).sum() == (weights[:, :3].sum(1) == 0).sum()
    kept = resampled[~np.isnan(resampled[:, 4])].mean(1)
    assert interval(samples) == interval(kept)


def test_what_makes_no_sense_is_refused():
    scores, labels = problem()
    with pytest.raises(ValueError, match="labels must be 1, 0 or NaN"):
        auroc(scores, labels * 2)
    with pytest.raises(ValueError, match="must be \\(N, K\\)"):
        auroc(scores[:, :2], labels)
    scores[3, 1] = np.nan
    with pytest.raises(ValueError, match="all NaN"):
        auroc(scores, labels)
    with pytest.raises(ValueError, match="0 patients"):
        cluster_weights([], resamples=10, seed=0)
    with pytest.raises(ValueError, match="level must be in"):
        interval([0.1], level=1.0)


def test_images_of_a_patient_are_drawn_together_and_as_many_patients_as_there_are():
    patients = np.array(["b", "a", "c", "a", "b", "a"])
    weights = cluster_weights(patients, resamples=2000, seed=0)
    assert (weights[:, 1] == weights[:, 3]).all()
    assert (weights[:, 0] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 2]].sum(1) == 3).all()
    # Each of 3 patients is missed with probability (2 / 3)^3.
    assert (weights[:, 2] == 0).mean() == pytest.approx(8 / 27, abs=0.04)
    order = np.random.default_rng(0).permutation(6)
    np.testing.assert_array_equal(cluster_weights(patients[order], resamples=2000, seed=0), weights[:, order])
    assert (cluster_weights(patients, resamples=2000, seed=1) != weights).any()


def test_with_one_image_per_patient_it_is_the_plain_bootstrap():
    scores, labels = problem(200, 1)
    rng = np.random.default_rng(5)
    drawn = [rng.integers(200, size=200) for _ in range(800)]
    plain = np.array([roc_auc_score(labels[rows, 0], scores[rows, 0]) for rows in drawn])
    weights = cluster_weights([f"p{i}" for i in range(200)], resamples=800, seed=0)
    clustered = bootstrap_auroc(scores, labels, weights)[:, 0]
    assert clustered.std() == pytest.approx(plain.std(), rel=0.1)
    assert clustered.mean() == pytest.approx(plain.mean(), abs=0.005)
    np.testing.assert_allclose(interval(clustered), interval(plain), atol=0.015)


def test_repeated_images_of_a_patient_do_not_narrow_the_interval():
    scores, labels = problem(150, 1)
    patients = np.array([f"p{i}" for i in range(150)])
    once = bootstrap_auroc(scores, labels, cluster_weights(patients, resamples=800, seed=0))
    again = [np.concatenate([array] * 5) for array in (scores, labels, patients)]
    fivefold = bootstrap_auroc(again[0], again[1], cluster_weights(again[2], resamples=800, seed=0))
    np.testing.assert_allclose(fivefold, once, atol=1e-12)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    # N(1, 1) against N(0, 1) has an AUROC of Phi(1 / sqrt(2)); two images of a patient share most of their score.
    rng, covered = np.random.default_rng(0), 0
    truth = 0.7602499389065233
    for seed in range(100):
        labels = np.repeat(rng.random(80) < 0.5, 2)[:, None].astype(float)
        own = np.repeat(rng.normal(0, np.sqrt(0.9), 80), 2)[:, None] + rng.normal(0, np.sqrt(0.1), (160, 1))
        patients = np.repeat([f"p{i}" for i in range(80)], 2)
        weights = cluster_weights(patients, resamples=300, seed=seed)
        low, high = interval(bootstrap_auroc(own + labels, labels, weights)[:, 0])
        covered += low <= truth <= high
    assert covered >= 88


def test_interval_is_of_percentiles_and_leaves_out_undefined_resamples():
    low, high = interval(np.r_[np.arange(101.0), np.nan, np.nan], level=0.9)
    assert (low, high) == pytest.approx((5.0, 95.0))
    assert np.isnan(interval([np.nan, np.nan])).all()
    assert interval([0.2, np.nan]) == (0.2, 0.2)
    assert np.isnan(interval([0.2, np.nan, np.nan])).all()  # what most resamples lack is not told by the others


def test_rankme_of_known_matrices():
    assert rankme(np.eye(12)) == pytest.approx(12, rel=1e-4)
    assert rankme(np.outer(np.arange(1, 30), np.arange(1, 9))) == pytest.approx(1, abs=1e-4)
    assert rankme(np.zeros((5, 3))) == 0
    assert np.isnan(rankme([[1.0, np.nan], [0.0, 1.0]]))
    share = np.array([0.5, 0.3, 0.2])
    expected = np.exp(-(share * np.log(share)).sum())
    left, right = (np.linalg.qr(np.random.default_rng(s).normal(size=(n, 3)))[0] for s, n in ((0, 40), (1, 10)))
    assert rankme(left * share @ right.T) == pytest.approx(expected, rel=1e-4)


def test_feature_std_is_one_for_even_directions_and_zero_for_a_single_one():
    features = np.random.default_rng(0).normal(size=(4000, 64))
    assert feature_std(features) == pytest.approx(1, abs=0.02)
    assert feature_std(features * np.arange(1, 4001)[:, None]) == pytest.approx(feature_std(features))
    assert feature_std(np.outer(np.arange(1, 9), np.arange(1, 5))) == pytest.approx(0, abs=1e-9)
