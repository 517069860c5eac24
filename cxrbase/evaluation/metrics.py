"""AUROC under missing labels with a patient-clustered bootstrap, and two numbers that reveal collapsed features."""

import numpy as np
import numpy.typing as npt

from cxrbase.evaluation.ranking import ranked_metrics

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int16]

_CHUNK_ELEMENTS = 2**20  # of one float64 temporary: 8 MB, of which a handful are alive at once


def auroc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """Area under the ROC curve of each class; ties count one half.

    Args:
        scores: (N, K), higher means more likely present. A class whose column is NaN throughout has no scores.
        labels: (N, K), 1 present, 0 absent, NaN unknown (such images are left out for that class).

    Returns:
        (K,) in [0, 1]; NaN, never 0, where a class has no scores, no positive or no negative.

    Raises:
        ValueError: If shapes differ, a label is none of 1, 0 and NaN, or some scores of a class are NaN.
    """
    # torchmetrics' binary_auroc is not used: it divides integer counts in float32 (off by 3e-8), passes scores outside
    # [0, 1] through a sigmoid, where large ones become equal (off by 1e-3), and calls an undefined area 0.
    once = np.ones((1, len(np.asarray(scores))), dtype=np.int16)
    area: Floats = bootstrap_auroc(scores, labels, once)[0]
    return area


def macro(values: npt.ArrayLike) -> float:
    """Mean over the classes that are defined; NaN where none is.

    Args:
        values: (K,), NaN where undefined.
    """
    table = np.asarray(values, dtype=np.float64)
    return float(macro_samples(table[None], table)[0])


def macro_samples(values: npt.ArrayLike, whole: npt.ArrayLike) -> Floats:
    """Mean of each resample over the classes that are defined on the whole set.

    A resample without one of them, such as one that drew no patient with a rare finding, is undefined and not a mean
    over the others: that would be a mean of something else, and an interval over both holds neither.

    Args:
        values: (R, K), NaN where undefined.
        whole: (K,) the same on the whole set, NaN where a class does not count.

    Returns:
        (R,), NaN where a class is missing, or where none counts.
    """
    counts = ~np.isnan(np.asarray(whole, dtype=np.float64))
    table = np.asarray(values, dtype=np.float64)[:, counts]
    return table.mean(1) if counts.any() else np.full(len(table), np.nan)


def cluster_weights(patients: npt.ArrayLike, *, resamples: int, seed: int) -> Counts:
    """Draws patients with replacement, as many as there are; all images of a patient go together.

    Images of one patient are not independent, so drawing images would make intervals too narrow.

    Args:
        patients: (N,) strings. The draw depends on the set of them, not on their order.
        resamples: Number R of resamples, at least 1.
        seed: Of the draw; the same patients and seed give the same weights.

    Returns:
        (R, N): how often each image is in each resample.

    Raises:
        ValueError: If there is no patient or no resample.
    """
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    count = len(names)
    if not count or resamples < 1:
        raise ValueError(f"patients and resamples must be at least 1, got {count} patients, {resamples} resamples")
    generator = np.random.default_rng(seed)
    weights = np.empty((resamples, len(index)), dtype=np.int16)
    rows = max(1, _CHUNK_ELEMENTS // count)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = generator.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        weights[start : start + size] = counts[:, index]
    return weights


def bootstrap_auroc(scores: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike) -> Floats:
    """AUROC of each class in each resample, exact under ties.

    Args:
        scores: (N, K), as in `auroc`.
        labels: (N, K), as in `auroc`.
        weights: (R, N) non-negative multiplicities, such as `cluster_weights` gives.

    Returns:
        (R, K); NaN where the resample has no positive or no negative of the class.

    Raises:
        ValueError: As in `auroc`.
    """
    return ranked_metrics(scores, labels, weights)["auroc"]


def interval(samples: npt.ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap samples.

    Args:
        samples: (R,); NaN ones are left out. Where these are the most, as with a class of one or two patients in a
            small test set, what is left is no picture of the chance of the draw.
        level: Share of the samples inside, in (0, 1).

    Returns:
        Low and high end; NaN both where fewer than half of the samples are defined.

    Raises:
        ValueError: If the level is outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1), got {level}")
    values = np.asarray(samples, dtype=np.float64)
    known = ~np.isnan(values)
    if not known.any() or known.mean() < 0.5:
        return float("nan"), float("nan")
    low, high = np.quantile(values[known], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def rankme(features: npt.ArrayLike) -> float:
    """Effective rank: the exponential of the entropy of the singular values (RankMe, https://arxiv.org/abs/2210.02885).

    Args:
        features: (N, D).

    Returns:
        From 1 (one direction only) to min(N, D) (all directions alike); 0 where all features are zero, NaN where one
        is not finite.
    """
    table = np.asarray(features, dtype=np.float64)
    if not np.isfinite(table).all():  # what LAPACK does with these depends on the processor
        return float("nan")
    sigma = np.linalg.svd(table, compute_uv=False)
    if not sigma.sum():
        return 0.0
    share = sigma / sigma.sum() + 1e-7  # the paper's epsilon
    return float(np.exp(-(share * np.log(share)).sum()))


def feature_std(features: npt.ArrayLike) -> float:
    """Spread of the L2-normalised features: mean over dimensions of their standard deviation, times sqrt(D).

    Args:
        features: (N, D).

    Returns:
        1 where features point evenly in all directions, 0 where all point the same way (SimSiam,
        https://arxiv.org/abs/2011.10566, section 4.1).
    """
    table = np.asarray(features, dtype=np.float64)
    unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    return float(unit.std(0).mean() * np.sqrt(table.shape[1]))
