"""Finds images whose view position looks wrong: frontal ones named lateral, and the other way round."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.fingerprint import described
from cxrbase.data.manifest_columns import is_frontal, is_lateral

# Fewer of a kind do not say what the kind looks like.
FEWEST = 20
# On a scale on which the median of what an image is named is -1 and that of the other kind 1; a little beyond the
# middle, because some images lie there. Chosen on simulated radiographs with exchanged names.
_FLAGGED = 0.25
_MOST_WRONG = 0.25  # of the images of a kind
_FOLDS = 5
_SHRINK = 0.1
_PART = 50_000


@dataclass(frozen=True)
class ViewCheck:
    """What was found.

    Args:
        frontal: Number of images that are named so and have a fingerprint.
        lateral: The same of lateral ones.
        why_not: Why none is named, as half a sentence; "" where they were judged.
        wrong: Rows that look like the other kind, the clearest first, (M,).
    """

    frontal: int
    lateral: int
    why_not: str = ""
    wrong: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


def check_views(hashes: Sequence[str], views: NDArray[Any], patients: NDArray[Any]) -> ViewCheck:
    """Learns from the names themselves what frontal and lateral images look like, and names those that do not fit.

    Each image is judged by a linear discriminant (Fisher 1936) of the other patients' images, so that a wrong name does
    not vouch for itself. A few per cent of wrong names do no harm; where more than a quarter seem wrong, none is named.

    Args:
        hashes: Perceptual hashes, N; "" where an image is unreadable.
        views: View positions, (N,) of str.
        patients: Names of the patients, or of the images where they are unknown, (N,) of str.
    """
    names, codes = np.unique(views.astype(str), return_inverse=True)
    frontal, lateral = (np.array([kind(name) for name in names], bool)[codes] for kind in (is_frontal, is_lateral))
    rows = np.flatnonzero((frontal | lateral) & np.array([text != "" for text in hashes], bool))
    lateral = lateral[rows]
    counts = int((~lateral).sum()), int(lateral.sum())
    if min(counts) < FEWEST:
        return ViewCheck(*counts, f"at least {FEWEST} of both are needed to tell them apart")
    folds = np.array([zlib.crc32(str(patients[row]).encode()) % _FOLDS for row in rows.tolist()])
    place = _places(described([hashes[row] for row in rows.tolist()]), lateral, folds)
    if np.isnan(place).all():
        return ViewCheck(*counts, "they are of too few patients to judge each by those of others")
    looks_other = np.where(lateral, -place, place)
    flagged = looks_other > _FLAGGED
    if max(flagged[lateral].mean(), flagged[~lateral].mean()) > _MOST_WRONG:
        return ViewCheck(*counts, "so many look like the other kind that the names do not tell what is seen")
    order = np.argsort(-looks_other[flagged], kind="stable")
    return ViewCheck(*counts, wrong=rows[flagged][order])


def _places(values: NDArray[np.float32], lateral: NDArray[np.bool_], folds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where each image lies between the medians of frontal (-1) and lateral (1) images of other folds, (N,).

    NaN where the other folds have not both.
    """
    place = np.full(len(values), np.nan)
    for fold in np.unique(folds):
        other, own = folds != fold, folds == fold
        groups = values[other & lateral], values[other & ~lateral]
        if min(map(len, groups)) < 2:
            continue
        direction = _direction(*groups)
        high, low = (float(np.median(group @ direction)) for group in groups)
        place[own] = (values[own] @ direction - (high + low) / 2) / max((high - low) / 2, 1e-6)
    return place


def _direction(one: NDArray[np.float32], two: NDArray[np.float32]) -> NDArray[np.float64]:
    means = one.mean(0, dtype=np.float64), two.mean(0, dtype=np.float64)
    spread = np.zeros((len(means[0]),) * 2)
    for group, mean in zip((one, two), means, strict=True):
        for start in range(0, len(group), _PART):
            part = group[start : start + _PART] - mean
            spread += part.T @ part
    spread /= len(one) + len(two)
    spread += _SHRINK * (np.trace(spread) / len(spread) * np.eye(len(spread)) - spread) + 1e-9 * np.eye(len(spread))
    return np.asarray(np.linalg.solve(spread, means[0] - means[1]), np.float64)
