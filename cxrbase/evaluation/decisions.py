"""Turns scores into yes or no with thresholds chosen on validation, and measures how good the decisions are."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from cxrbase.evaluation.ranking import check_scores

Floats = npt.NDArray[np.float64]
Criterion = Literal["youden", "f1", "accuracy"]


def choose_thresholds(scores: npt.ArrayLike, labels: npt.ArrayLike, *, criterion: Criterion = "youden") -> Floats:
    """The threshold of each class that is best on the given images, which must not be the test images.

    Args:
        scores: (N, K), higher means more likely present.
        labels: (N, K), 1 present, 0 absent, NaN unknown.
        criterion: What is largest at the threshold: `youden` sensitivity + specificity, `f1`, or `accuracy`.

    Returns:
        (K,): an image with at least this score is called positive. It lies midway between two neighbouring scores, or
        at an end of them; of equally good ones the lowest is taken. NaN where a class has no scores, no positive or no
        negative.

    Raises:
        ValueError: If the shapes or labels do not fit, or the criterion is unknown.
    """
    if criterion not in ("youden", "f1", "accuracy"):
        raise ValueError(f"criterion must be youden, f1 or accuracy, got {criterion!r}")
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    check_scores(scores, labels, np.ones((1, len(scores))))
    return np.array([_best(scores[:, k], labels[:, k], criterion) for k in range(scores.shape[1])], np.float64)


def decision_metrics(
    scores: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike, *, thresholds: npt.ArrayLike
) -> dict[str, Floats]:
    """Metrics of the answers at given thresholds, of each class in each resample.

    Args:
        scores: (N, K), as for `choose_thresholds`.
        labels: (N, K).
        weights: (R, N) multiplicities; ones of shape (1, N) for the images as they are.
        thresholds: (K,), NaN where the class has none.

    Returns:
        `accuracy`, `balanced_accuracy`, `f1`, `sensitivity`, `specificity`, each (R, K); NaN where the class has no
        scores or threshold, or the resample no positive or no negative.

    Raises:
        ValueError: If the shapes or labels do not fit.
    """
    scores, labels, weights = np.asarray(scores, np.float64), np.asarray(labels, np.float64), np.asarray(weights)
    check_scores(scores, labels, weights)
    limits = np.asarray(thresholds, np.float64)
    if limits.shape != scores.shape[1:]:
        raise ValueError(f"thresholds must be {scores.shape[1:]}, one per class, got {limits.shape}")
    called = scores >= limits
    hit, correct = called & (labels == 1), ~called & (labels == 0)
    counts = weighted_sums(weights, np.concatenate([labels == 1, labels == 0, hit, correct], axis=1))
    positives, negatives, hits, rejected = np.split(counts, 4, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = hits / positives, rejected / negatives
        metrics = {
            "accuracy": (hits + rejected) / (positives + negatives),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            # 2 TP / (2 TP + FP + FN), whose denominator is never 0 where there is a positive.
            "f1": 2 * hits / (hits + (negatives - rejected) + positives),
            "sensitivity": sensitivity,
            "specificity": specificity,
        }
    undefined = (positives == 0) | (negatives == 0) | np.isnan(limits) | np.isnan(scores).any(0)
    return {name: np.where(undefined, np.nan, values) for name, values in metrics.items()}


def weighted_sums(weights: npt.NDArray[np.generic], columns: npt.ArrayLike) -> Floats:
    """Sums of columns (N, M) under each row of weights (R, N), as (R, M) float64, in pieces that fit in memory."""
    table = np.asarray(columns, dtype=np.float64)
    rows = max(1, 2**22 // max(1, len(table)))
    parts = [weights[start : start + rows].astype(np.float64) @ table for start in range(0, len(weights), rows)]
    return np.concatenate(parts) if parts else np.empty((0, table.shape[1]))


def _best(scores: Floats, labels: Floats, criterion: Criterion) -> float:
    known = ~np.isnan(labels) & ~np.isnan(scores)
    scores, labels = scores[known], labels[known]
    positives, negatives = int(labels.sum()), int((1 - labels).sum())
    if not positives or not negatives:
        return float("nan")
    levels, index = np.unique(scores, return_inverse=True)
    # At level i everything from it upwards is called positive; at the last, which is above all scores, nothing.
    levels = np.append(levels, np.nextafter(levels[-1], np.inf))
    hits = np.cumsum(np.bincount(index, labels, len(levels))[::-1])[::-1]
    false = np.cumsum(np.bincount(index, 1 - labels, len(levels))[::-1])[::-1]
    value = {
        "youden": hits / positives - false / negatives,
        "f1": 2 * hits / (hits + false + positives),
        "accuracy": (hits + negatives - false) / (positives + negatives),
    }[criterion]
    best = int(value.argmax())
    ends = best in (0, len(levels) - 1)
    return float(levels[best] if ends else (levels[best - 1] + levels[best]) / 2)
