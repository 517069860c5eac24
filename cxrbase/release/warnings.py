"""Warnings about odd images, based on pixels alone, with the rules of `cxrbase audit`."""

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.audit_checks import odd_images
from cxrbase.data.grey import statistics

_WORDS = {"blank": "no contrast", "inverted": "perhaps inverted", "long": "elongated", "binary": "black and white only"}
# Fewer pixels than any encoder's input.
_SMALL = 128


def image_warnings(image: NDArray[np.uint8]) -> tuple[str, ...]:
    """Words for what a user should look at.

    On 2,302 real radiographs `perhaps inverted` was said of 0.2 % as they are and of 96 % of their negatives
    (benchmarks/results/audit_cpu.json).

    Args:
        image: (H, W) uint8, bone bright as far as its file says.

    Returns:
        Any of: no contrast, perhaps inverted, elongated, black and white only, small.
    """
    height, width = image.shape
    measured = {"height": height, "width": width, **statistics(image)}
    odd = odd_images({name: np.array([value]) for name, value in measured.items()})
    found = [word for name, word in _WORDS.items() if len(odd[name])]
    return (*found, "small") if min(height, width) < _SMALL else tuple(found)
