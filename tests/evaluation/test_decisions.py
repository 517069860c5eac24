"""Thresholds by trying all of them, and the metrics at a threshold against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score

from cxrbase.evaluation.decisions import choose_thresholds, decision_metrics, weighted_sums
from evaluation.cases import cohort, problems


def expected(scores, labels, weight, limit):
    keep = ~np.isnan(labels) & (weight > 0)
    truth, called, weight = labels[keep], scores[keep] >= limit, weight[keep]
    if len(set(truth)) < 2:
        return dict.fromkeys(("accuracy", "balanced_accuracy", "f1", "sensitivity", "specificity"), np.nan)
    options = {"sample_weight": weight}
    return {
        "accuracy": accuracy_score(truth, called, **options),
        "balanced_accuracy": balanced_accuracy_score(truth, called, **options),
        "f1": f1_score(truth, called, **options),
        "sensitivity": recall_score(truth, called, **options),
        "specificity": recall_score(truth, called, pos_label=0, **options),
    }


@settings(max_examples=100, deadline=None)
@given(problem=problems())
def test_metrics_at_a_threshold_equal_scikit_learn(problem):
    scores, labels, weights = problem
    limits = np.array([0.25, 0.5, 0.9])
    got = decision_metrics(scores, labels, weights, thresholds=limits)
    for row, weight in enumerate(weights):
        for k in range(3):
            for name, value in expected(scores[:, k], labels[:, k], weight, limits[k]).items():
                np.testing.assert_allclose(got[name][row, k], value, rtol=0, atol=1e-9, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(problem=problems(max_images=15))
@pytest.mark.parametrize(
    ("criterion", "metric"), [("youden", "balanced_accuracy"), ("f1", "f1"), ("accuracy", "accuracy")]
)
def test_no_threshold_is_better_on_the_images_it_was_chosen_on(criterion, metric, problem):
    scores, labels, _ = problem
    once = np.ones((1, len(scores)))
    chosen = choose_thresholds(scores, labels, criterion=criterion)
    got = decision_metrics(scores, labels, once, thresholds=chosen)[metric][0]
    levels = [*np.unique(scores), 2.0]
    tried = [decision_metrics(scores, labels, once, thresholds=np.full(3, s))[metric][0] for s in levels]
    defined = ~np.isnan(chosen)
    np.testing.assert_allclose(got[defined], np.max(tried, axis=0)[defined], atol=1e-12)
    assert np.isnan(got[~defined]).all()


def test_a_threshold_lies_between_scores_so_that_rounding_does_not_move_it():
    assert choose_thresholds([[0.1], [0.2], [0.6], [0.8]], [[0], [0], [1], [1]])[0] == pytest.approx(0.4)


def test_what_does_not_fit_is_refused():
    scores, labels, _ = cohort()
    with pytest.raises(ValueError, match="criterion must be"):
        choose_thresholds(scores, labels, criterion="best")
    with pytest.raises(ValueError, match="thresholds must be"):
        decision_metrics(scores, labels, np.ones((1, len(scores))), thresholds=[0.5])


def test_weighted_sums_in_pieces_equal_one_product():
    rng = np.random.default_rng(0)
    weights, table = rng.integers(0, 3, (50, 300_000 // 3)), rng.normal(size=(100_000, 2))
    np.testing.assert_allclose(weighted_sums(weights, table), weights @ table, rtol=1e-9)
