"""Finds images that look unlike the others of their set, such as photographs or other body parts."""

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.fingerprint import described

# Fewer images do not say what is usual.
FEWEST = 500
# Distance from the median image in robust standard deviations of that distance: what benchmarks/audit.py measures.
FAR = 5.0
_SHRINK = 0.1
_KEPT, _ROUNDS = 0.95, 3
_PART = 50_000


def unlike(hashes: list[str]) -> NDArray[np.int64]:
    """Finds the images of one set that lie far from all others.

    Mahalanobis distance of the coefficients of the perceptual hash, with the covariance of the nearest 95 % of the
    images (Rousseeuw 1985, in three rounds of concentration), so that odd ones do not widen it.

    Args:
        hashes: Perceptual hashes, N; "" where an image is unreadable.

    Returns:
        Rows, the farthest first, (M,); none of fewer than 500 images.
    """
    rows = np.flatnonzero([text != "" for text in hashes])
    if len(rows) < FEWEST:
        return np.zeros(0, np.int64)
    values = described([hashes[row] for row in rows.tolist()])
    away = _distances(values)
    middle = float(np.median(away))
    spread = 1.4826 * float(np.median(np.abs(away - middle)))
    if not spread:  # most are the same picture
        return np.zeros(0, np.int64)
    order = np.argsort(-away, kind="stable")
    return np.asarray(rows[order[away[order] > middle + FAR * spread]])


def _distances(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Distance of each image from the median one, (N,)."""
    values = np.asarray(values - np.median(values, axis=0), np.float32)
    kept = np.ones(len(values), bool)
    for _ in range(_ROUNDS):
        away = _away(values, _covariance(values[kept]))
        kept = away <= np.quantile(away, _KEPT)
    return np.sqrt(_away(values, _covariance(values[kept])))


def _covariance(values: NDArray[np.float32]) -> NDArray[np.float64]:
    found = np.zeros((values.shape[1],) * 2)
    for start in range(0, len(values), _PART):
        part = values[start : start + _PART].astype(np.float64)
        found += part.T @ part / len(values)
    return np.asarray((1 - _SHRINK) * found + (_SHRINK * np.trace(found) / len(found) + 1e-9) * np.eye(len(found)))


def _away(values: NDArray[np.float32], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    inverse = np.linalg.inv(covariance)
    parts = (values[start : start + _PART].astype(np.float64) for start in range(0, len(values), _PART))
    return np.concatenate([np.einsum("ij,ij->i", part @ inverse, part) for part in parts])
