"""Variance and covariance of AUROCs in closed form, to check the bootstrap against."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DeLong:
    """Two AUROCs on the same images compared.

    Args:
        first: AUROC of the first.
        second: AUROC of the second.
        variance: Of the difference.
        z: Difference over its standard error; 0 where both order the images alike.
        p_value: Two-sided, in [0, 1].
    """

    first: float
    second: float
    variance: float
    z: float
    p_value: float


def delong_covariance(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Floats]:
    """AUROCs of several scores of the same images, and their covariance, treating images as independent.

    After DeLong et al. 1988 (https://doi.org/10.2307/2531595), by midranks (Sun and Xu 2014,
    https://doi.org/10.1109/LSP.2014.2337313). Where patients have several images, use the bootstrap over patients.

    Args:
        scores: (M, N), one row for each score.
        labels: (N,) 1 or 0.

    Returns:
        The areas (M,) and their covariance (M, M).

    Raises:
        ValueError: If shapes do not fit, a score is not finite, or fewer than two images of a label are there.
    """
    from scipy.stats import rankdata

    table, truth = np.asarray(scores, np.float64), np.asarray(labels)
    if table.ndim != 2 or table.shape[1:] != truth.shape or not np.isin(truth, (0, 1)).all():
        raise ValueError(f"scores and labels must be (M, N) and (N,) of 0 and 1, got {table.shape} and {truth.shape}")
    positive, negative = table[:, truth == 1], table[:, truth == 0]
    m, n = positive.shape[1], negative.shape[1]
    if min(m, n) < 2 or not np.isfinite(table).all():
        raise ValueError(f"at least 2 images of each label and finite scores are needed, got {m} and {n}")
    every = rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    above = (every[:, :m] - rankdata(positive, axis=1)) / n
    below = 1.0 - (every[:, m:] - rankdata(negative, axis=1)) / m
    covariance = np.atleast_2d(np.cov(above)) / m + np.atleast_2d(np.cov(below)) / n
    return above.mean(1), np.asarray(covariance, np.float64)


def delong_test(first: npt.ArrayLike, second: npt.ArrayLike, labels: npt.ArrayLike) -> DeLong:
    """Tests whether two scores of the same images have the same AUROC.

    Args:
        first: (N,) scores.
        second: (N,) scores.
        labels: (N,) 1 or 0; leave out images whose label is unknown.
    """
    areas, covariance = delong_covariance(np.stack([np.asarray(first), np.asarray(second)]), labels)
    variance = max(float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]), 0.0)
    difference = float(areas[0] - areas[1])
    # Rounding leaves about 1e-17 of variance where both order the images alike.
    z = difference / math.sqrt(variance) if variance > 1e-15 else 0.0
    return DeLong(float(areas[0]), float(areas[1]), variance, z, math.erfc(abs(z) / math.sqrt(2)))
