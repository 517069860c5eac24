"""Simple statistics of grey values, used to recognise odd images."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def statistics(image: NDArray[np.uint8]) -> dict[str, float]:
    """What the image checks look at.

    Args:
        image: (H, W) uint8.

    Returns:
        `std` of the grey values; `border`, how much brighter the outer rim and corners are than the middle, in shares
        of the pixels (-1 to 1); `extreme`, share of the pixels within 8 of the darkest or the brightest value.
    """
    small = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BOX), np.float32)
    ranks = np.argsort(np.argsort(small, axis=None, kind="stable"), kind="stable").reshape(64, 64) / small.size
    rim = np.concatenate([ranks[:4].ravel(), ranks[4:40, :3].ravel(), ranks[4:40, -3:].ravel()])
    low, high = int(image.min()), int(image.max())
    counts = np.bincount(image.ravel(), minlength=256) / image.size
    extreme = counts[low : low + 9].sum() + counts[max(low + 9, high - 8) : high + 1].sum()
    return {
        "std": float(image.std()),
        "border": float(np.median(rim) - np.median(ranks[16:56, 26:38])),
        "extreme": float(extreme),
    }
