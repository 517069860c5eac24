"""Lays a map of patches over the image it explains, at the resolution of the original."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Least and most of the map's colour over the image, in [0, 1].
_OPACITY = 0.55


def to_original(
    patches: NDArray[np.float32], shape: tuple[int, int], *, view: tuple[int, int] = (1, 1)
) -> NDArray[np.float32]:
    """The map in the pixels of the original: enlarged to the central part that the encoder saw, NaN beside it.

    Args:
        patches: (rows, columns).
        shape: Height and width of the original.
        view: Height and width of what the encoder was fed, in any unit.

    Returns:
        (H, W).
    """
    height, width = shape
    high, wide = min(height, round(width * view[0] / view[1])), min(width, round(height * view[1] / view[0]))
    large = Image.fromarray(patches.astype(np.float32)).resize((wide, high), Image.Resampling.BICUBIC)
    result = np.full(shape, np.nan, np.float32)
    top, left = (height - high) // 2, (width - wide) // 2
    result[top : top + high, left : left + wide] = np.asarray(large)
    return result


def colour_range(values: NDArray[np.float32]) -> tuple[float, float]:
    """Values of the first and the last colour of an overlay: the 2nd and the 99th percentile of the map.

    Args:
        values: Of any shape, NaN where there is no map.
    """
    seen = np.isfinite(values)
    low, high = np.percentile(values[seen], [2, 99]) if seen.any() else (0.0, 0.0)
    return float(low), float(high)


def overlay(image: NDArray[np.uint8], values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colours an image by a map, from its 2nd to its 99th percentile; what the encoder did not see stays grey and dim.

    Args:
        image: (H, W) uint8.
        values: (H, W), NaN where there is no map.

    Returns:
        (H, W, 3) uint8.
    """
    from matplotlib import colormaps

    seen = np.isfinite(values)
    low, high = colour_range(values)
    share = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1) if high > low else np.zeros(image.shape)
    colour = np.asarray(colormaps["inferno"](share))[..., :3] * 255
    grey = np.repeat(image[..., None].astype(np.float32), 3, 2)
    strength = (_OPACITY * share)[..., None]
    mixed = np.where(seen[..., None], grey * (1 - strength) + colour * strength, grey * 0.6)
    return np.asarray(np.rint(mixed), np.uint8)


def write_overlay(
    image: NDArray[np.uint8], patches: NDArray[np.float32], path: Path, *, view: tuple[int, int] = (1, 1)
) -> None:
    """Writes the overlay as a PNG of the size of the image; `view` as of `to_original`."""
    Image.fromarray(overlay(image, to_original(patches, (image.shape[0], image.shape[1]), view=view))).save(path)
