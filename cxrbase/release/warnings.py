"""What is odd about an image, told from its pixels alone."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Shares of the shorter side: a chest fills the middle, and air or collimation surrounds it.
_BORDER = 0.06
_MIN_SIDE = 128


def image_warnings(image: NDArray[np.uint8]) -> tuple[str, ...]:
    """Words for what a user should look at: constant, low contrast, inverted polarity, few pixels, odd shape.

    Args:
        image: (H, W) uint8, bone bright as far as its file says.

    Returns:
        Zero or more of: constant, low contrast, perhaps inverted, small, elongated. They are hints by simple rules
        and not findings; `perhaps inverted` compares the border with the middle.
    """
    height, width = image.shape
    found = []
    small = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BOX), np.float32)
    low, high = np.percentile(small, [2, 98])
    if image.min() == image.max():
        found.append("constant")
    elif high - low < 25:
        found.append("low contrast")
    elif _looks_inverted(small):
        found.append("perhaps inverted")
    if min(height, width) < _MIN_SIDE:
        found.append("small")
    if max(height, width) > 2 * min(height, width):
        found.append("elongated")
    return tuple(found)


def _looks_inverted(small: NDArray[np.float32]) -> bool:
    """Whether the outer border is brighter than nearly all of the middle.

    In a radiograph with bright bone the air beside the patient is darkest. Lungs are dark too, so the border is
    compared with the brighter part of the middle.
    """
    edge = max(1, round(_BORDER * len(small)))
    upper = np.concatenate([small[:edge].ravel(), small[edge:-edge, :edge].ravel(), small[edge:-edge, -edge:].ravel()])
    middle = small[16:-16, 16:-16]
    return bool(np.median(upper) > np.percentile(middle, 80) and np.median(upper) > 160)
