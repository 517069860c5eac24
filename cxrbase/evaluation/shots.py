"""Draws a few labelled patients with and without each class, or a share of the patients, from the training images."""

import math

import numpy as np
import numpy.typing as npt

from cxrbase.evaluation.cohort import Cohort

SHOTS = (1, 2, 4, 8, 16, 32)
FRACTIONS = (0.01, 0.1)


def k_shot(train: Cohort, k: int, *, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Images of k patients with and k patients without each class.

    Every class is drawn by itself and sees no label but its own 2 k, so the number of labels is exact also where images
    have several. One image per patient and class. With one seed, the draw for a small k is part of that for a large k.

    Args:
        train: The images to draw from.
        k: Patients per class and label, at least 1.
        seed: Of the draw.

    Returns:
        Rows of the images, (M,) rising, and their labels, (M, K), NaN where a class did not draw the image. A class
        with fewer than k patients of a label has no label at all: it is undefined at this k.

    Raises:
        ValueError: If k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    count, classes = train.labels.shape
    labels = np.full((count, classes), np.nan)
    for column in range(classes):
        drawn = {value: _patients_first(train, column, value, seed)[:k] for value in (1.0, 0.0)}
        if min(len(rows) for rows in drawn.values()) == k:
            for value, rows in drawn.items():
                labels[rows, column] = value
    rows = np.flatnonzero(~np.isnan(labels).all(1))
    return rows, labels[rows]


def most_shots(train: Cohort, *, exclusive: bool = False) -> int:
    """Largest k for which some class has k patients with and k without it.

    Args:
        train: The images to draw from.
        exclusive: Whether those without a class are the k of another one, as where an image has exactly one class.
    """
    with_it, without = (
        [len(np.unique(train.patients[column == value].astype(str))) for column in train.labels.T]
        for value in (1.0, 0.0)
    )
    both = [min(pair) for pair in zip(with_it, without, strict=True)]
    return max(sorted(both)[:-1] if exclusive else both, default=0)


def fraction(train: Cohort, share: float, *, seed: int) -> npt.NDArray[np.int64]:
    """Rows of all images of a share of the patients, at least one; small shares are part of large ones of one seed.

    Args:
        train: The images to draw from.
        share: In (0, 1].
        seed: Of the draw.

    Raises:
        ValueError: If the share is out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    names = np.unique(train.patients.astype(str))
    chosen = np.random.default_rng(seed).permutation(names)[: math.ceil(share * len(names))]
    return np.flatnonzero(np.isin(train.patients.astype(str), chosen))


def _patients_first(train: Cohort, column: int, value: float, seed: int) -> npt.NDArray[np.int64]:
    """One image of each patient with that label, in random order."""
    rows = np.flatnonzero(train.labels[:, column] == value)
    rows = np.random.default_rng([seed, column, int(value)]).permutation(rows)
    _, first = np.unique(train.patients[rows].astype(str), return_index=True)
    return np.asarray(rows[np.sort(first)], np.int64)
