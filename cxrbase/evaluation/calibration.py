"""Whether probabilities mean what they say: Brier score, calibration error, reliability curve, temperature."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxrbase.evaluation.decisions import weighted_sums
from cxrbase.evaluation.ranking import check_scores

Floats = npt.NDArray[np.float64]

CALIBRATED = ("brier", "ece")
_HOTTEST = 4.0  # |log temperature|: from 1/55 to 55


@dataclass(frozen=True, eq=False)
class Reliability:
    """What happened among images of about the same probability, for one class.

    Args:
        probability: (B,) mean probability in each bin; NaN where the bin is empty.
        frequency: (B,) share of positives in it.
        count: (B,) number of images.
    """

    probability: Floats
    frequency: Floats
    count: npt.NDArray[np.int64]


def calibration_metrics(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike, *, bins: int = 15
) -> dict[str, Floats]:
    """Brier score and expected calibration error of each class in each resample.

    Args:
        probabilities: (N, K) in [0, 1]; a class whose column is NaN throughout has none.
        labels: (N, K), 1 present, 0 absent, NaN unknown.
        weights: (R, N) multiplicities.
        bins: Equally wide bins of the calibration error; 15 as in https://arxiv.org/abs/1706.04599.

    Returns:
        `brier`, the mean squared distance to the label, and `ece`, the mean over images of the distance between a
        bin's mean probability and its share of positives; each (R, K), NaN where the resample has no known label.

    Raises:
        ValueError: If shapes, labels or bins are out of range, or a probability is outside [0, 1].
    """
    chances, labels, weights = (
        np.asarray(probabilities, np.float64),
        np.asarray(labels, np.float64),
        np.asarray(weights),
    )
    _check(chances, labels, weights, bins)
    result = {name: np.full((len(weights), chances.shape[1]), np.nan) for name in CALIBRATED}
    for column in range(chances.shape[1]):
        known = np.flatnonzero(~np.isnan(labels[:, column]) & ~np.isnan(chances[:, column]))
        if not len(known):
            continue
        gap = chances[known, column] - labels[known, column]
        inside = _bin(chances[known, column], bins)[:, None] == np.arange(bins)
        table = np.concatenate([np.ones((len(known), 1)), gap[:, None] ** 2, inside * gap[:, None]], axis=1)
        sums = weighted_sums(weights[:, known], table)
        with np.errstate(invalid="ignore", divide="ignore"):
            result["brier"][:, column] = sums[:, 1] / sums[:, 0]
            # |sum of gaps in a bin| is its count times |mean probability - share of positives|.
            result["ece"][:, column] = np.abs(sums[:, 2:]).sum(1) / sums[:, 0]
    return result


def reliability(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 10) -> Reliability:
    """The reliability curve of one class.

    Args:
        probabilities: (N,) in [0, 1].
        labels: (N,), 1 present, 0 absent, NaN unknown.
        bins: Equally wide bins.

    Raises:
        ValueError: As in `calibration_metrics`.
    """
    chances, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    _check(chances[:, None], truth[:, None], np.ones((1, len(chances))), bins)
    known = ~np.isnan(truth) & ~np.isnan(chances)
    place, chances, truth = _bin(chances[known], bins), chances[known], truth[known]
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Reliability(
            np.bincount(place, chances, bins) / count, np.bincount(place, truth, bins) / count, count.astype(np.int64)
        )


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike, *, one_of: bool = False) -> Floats:
    """The temperature of each class, or the one of all, that makes the log loss on these images smallest.

    Dividing by it (https://arxiv.org/abs/1706.04599) keeps the order of the images by a class that is scored by itself,
    so AUROC does not change, and the likeliest class of an image where exactly one is true.

    Args:
        logits: (N, K) log-odds of images that were not trained on and are not the test images.
        labels: (N, K), 1 present, 0 absent, NaN unknown.
        one_of: Whether exactly one class is true, so that one temperature is shared; see `calibrated`. All classes must
            have logits.

    Returns:
        (K,) above 0; 1 where a class has no logits, no positive or no negative. K times the same where it is shared; 1
        where the images with exactly one class all have the same.

    Raises:
        ValueError: If shapes or labels do not fit.
    """
    from scipy.special import log_expit

    logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    check_scores(logits, labels, np.ones((1, len(logits))))
    if one_of:
        return np.full(logits.shape[1], _shared_temperature(log_expit(logits), labels))
    return np.array([_temperature(logits[:, k], labels[:, k]) for k in range(logits.shape[1])], np.float64)


def calibrated(logits: npt.ArrayLike, temperatures: Floats, *, one_of: bool = False) -> Floats:
    """Log-odds after division by temperatures.

    Args:
        logits: (N, K) log-odds of each class against the rest; NaN columns for classes without scores.
        temperatures: (K,) of `fit_temperature`.
        one_of: Whether exactly one class is true. What is divided are then the logits of a softmax, so that the
            probabilities of an image still sum to one. Classes that were scored one against the rest are first brought
            to that sum.

    Returns:
        (N, K); the logistic function makes probabilities of them.
    """
    from scipy.special import log_expit

    values = np.asarray(logits, np.float64)
    if not one_of:
        return np.asarray(values / temperatures, np.float64)
    # The logarithm of a softmax differs from its logits by a constant, which it does not notice.
    scaled = log_expit(values) / temperatures
    rest = [np.logaddexp.reduce(np.delete(scaled, k, axis=1), axis=1) for k in range(scaled.shape[1])]
    return np.asarray(scaled - np.stack(rest, axis=1), np.float64)


def _temperature(logits: Floats, labels: Floats) -> float:
    from scipy.special import expit

    known = ~np.isnan(labels) & ~np.isnan(logits)
    logits, labels = logits[known], labels[known]
    if not (labels == 1).any() or not (labels == 0).any():
        return 1.0

    return _where_flat(lambda inverse: float(((expit(logits * inverse) - labels) * logits).sum()))


def _shared_temperature(log_chances: Floats, labels: Floats) -> float:
    single = np.nansum(labels, axis=1) == 1
    logs, truth = log_chances[single], np.nan_to_num(labels[single])
    if (truth.sum(0) > 0).sum() < 2:
        return 1.0

    def slope(inverse: float) -> float:
        shares = np.exp(inverse * logs - np.logaddexp.reduce(inverse * logs, axis=1, keepdims=True))
        return float(((shares - truth) * logs).sum())

    return _where_flat(slope)


def _where_flat(slope: Callable[[float], float]) -> float:
    """The temperature where the slope of the loss by its inverse is 0; the loss is convex in that."""
    from scipy.optimize import brentq

    def at(log_inverse: float) -> float:
        return slope(float(np.exp(log_inverse)))

    # Where the loss falls all the way, as with classes that are told without error, the end is the best.
    if at(-_HOTTEST) >= 0 or at(_HOTTEST) <= 0:
        return float(np.exp(_HOTTEST if at(-_HOTTEST) >= 0 else -_HOTTEST))
    return float(np.exp(-brentq(at, -_HOTTEST, _HOTTEST)))


def _bin(chances: Floats, bins: int) -> npt.NDArray[np.int64]:
    # Lower edges belong to the bin, as in torchmetrics.
    edges = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    return np.searchsorted(edges, chances, side="right").astype(np.int64)


def _check(chances: Floats, labels: Floats, weights: npt.NDArray[np.generic], bins: int) -> None:
    check_scores(chances, labels, weights)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    if ((chances < 0) | (chances > 1)).any():
        raise ValueError("probabilities must be in [0, 1]: give them and not logits")
