"""Rank metrics and their resamples against scikit-learn and torchmetrics, under ties, gaps and single-label columns."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torchmetrics.functional.classification import binary_sensitivity_at_specificity

from cxrbase.evaluation.metrics import cluster_weights
from cxrbase.evaluation.ranking import RANKED, ranked_metrics
from evaluation.cases import cohort, problems


def expected(scores, labels, weight, specificity):
    known = ~np.isnan(labels)
    scores, labels, weight = scores[known], labels[known], weight[known]
    if not (weight * (labels == 1)).any() or not (weight * (labels == 0)).any():
        return [np.nan] * 3
    false, hit, _ = roc_curve(labels, scores, sample_weight=weight, drop_intermediate=False)
    return [
        roc_auc_score(labels, scores, sample_weight=weight),
        average_precision_score(labels, scores, sample_weight=weight),
        hit[1 - false >= specificity - 1e-9].max(),
    ]


@settings(max_examples=150, deadline=None)
@given(problem=problems())
def test_every_resample_equals_scikit_learn_with_sample_weights(problem):
    scores, labels, weights = problem
    got = ranked_metrics(scores, labels, weights, specificity=0.8)
    for row, weight in enumerate(weights):
        want = np.array([expected(scores[:, k], labels[:, k], weight, 0.8) for k in range(3)]).T
        np.testing.assert_allclose([got[name][row] for name in RANKED], want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("specificity", [0.5, 0.9, 0.95])
def test_sensitivity_at_specificity_equals_torchmetrics(specificity):
    scores, labels, _ = cohort(seed=3)
    chances = 1 / (1 + np.exp(-scores))
    got = ranked_metrics(chances, labels, np.ones((1, len(scores))), specificity=specificity)
    want = [
        float(binary_sensitivity_at_specificity(torch.tensor(c), torch.tensor(y).long(), specificity)[0])
        for c, y in zip(chances.T, labels.T, strict=True)
    ]
    np.testing.assert_allclose(got["sensitivity_at_specificity"][0], want, atol=1e-6)  # torchmetrics is in float32


def test_resamples_do_not_depend_on_how_they_are_cut_into_pieces(monkeypatch):
    scores, labels, patients = cohort()
    weights = cluster_weights(patients, resamples=30, seed=0)
    whole = ranked_metrics(scores, labels, weights)
    monkeypatch.setattr("cxrbase.evaluation.ranking._CHUNK_ELEMENTS", 7 * len(scores))
    pieces = ranked_metrics(scores, labels, weights)
    for name in RANKED:
        np.testing.assert_allclose(whole[name], pieces[name], atol=1e-12)


def test_a_specificity_out_of_range_is_refused():
    scores, labels, _ = cohort()
    with pytest.raises(ValueError, match="specificity must be in"):
        ranked_metrics(scores, labels, np.ones((1, len(scores))), specificity=1.0)
