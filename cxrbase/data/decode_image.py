"""Shared parts of the radiograph readers: the image they return, its bounds, its depth and its reduction."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

# 10,000 x 10,000; detectors have up to 25 million pixels.
MAX_PIXELS = 100_000_000
UNKNOWN_FORMAT = "it is not an image of a known format, or it is damaged"
Pixels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]


class Refused(Exception):
    """What a reader does not take, as half a sentence."""


@dataclass(frozen=True)
class Radiograph:
    """One image as its file describes it.

    Attributes:
        values: (H, W) uint8, uint16 or float32, after the modality step, of the polarity of the file.
        mirror: Bone is dark, and `mirror - values` is bright; None where it is bright already.
        padding: (H, W) bool, pixels that hold no measurement; None where there are none.
        voi: Maps values to brightness in [0, 1], float32, before the polarity; None where the file has no window.
    """

    values: Pixels
    mirror: float | None = None
    padding: NDArray[np.bool_] | None = None
    voi: Callable[[Pixels], NDArray[np.float32]] | None = None

    def bone_bright(self) -> Pixels:
        """(H, W) in the depth of the values, with padding as dark as the darkest measurement."""
        pixels = self.values if self.mirror is None else _mirrored(self.values, self.mirror)
        if self.padding is None or self.padding.all():
            return pixels
        darkest = pixels[~self.padding].min()
        return narrow(np.where(self.padding, darkest, pixels))


def _mirrored(values: Pixels, mirror: float) -> Pixels:
    if values.dtype == np.float32 or not float(mirror).is_integer():
        return narrow(np.float32(mirror) - values.astype(np.float32))
    if 0 <= mirror < 2 ** (8 * values.dtype.itemsize) and values.max() <= mirror:
        return narrow(values.dtype.type(mirror) - values)
    return narrow(int(mirror) - values.astype(np.int64))


def check_size(width: int, height: int) -> None:
    """Refuses a size before its pixels are allocated."""
    if width * height > MAX_PIXELS:
        raise Refused(f"it is {width} x {height} pixels, more than {MAX_PIXELS:,}")


def narrow(values: NDArray[Any]) -> Pixels:
    """The smallest of uint8 (only from uint8), uint16 and float32 that holds all values unchanged."""
    if values.dtype in (np.uint8, np.uint16):
        return cast(Pixels, values)
    if np.issubdtype(values.dtype, np.integer):
        fits = values.size and values.min() >= 0 and values.max() < 2**16
        return values.astype(np.uint16) if fits else values.astype(np.float32)
    if not np.isfinite(values).all():
        raise Refused("it holds NaN or infinite values")
    return values.astype(np.float32, copy=False)


def luma(colour: NDArray[Any]) -> NDArray[Any]:
    """(H, W) brightness of (H, W, 3) red, green and blue integers; grey stays exactly what it was."""
    weights = np.array([19595, 38470, 7471], np.int64)  # 0.299, 0.587 and 0.114 of 2**16
    return ((colour.astype(np.int64) @ weights + 2**15) >> 16).astype(colour.dtype)


def reduction(height: int, width: int, min_side: int | None) -> int:
    """Largest power of two by which the sides can be divided so that both stay at least `min_side`."""
    if min_side is None:
        return 1
    return 1 << max(0, (min(height, width) // max(1, min_side)).bit_length() - 1)


def shrink(pixels: Pixels, min_side: int | None) -> Pixels:
    """Averages blocks of pixels, k a side as of `reduction`; (H, W) to (ceil(H / k), ceil(W / k)).

    Decoders of JPEG and JPEG 2000 round sizes up as well.
    """
    height, width = pixels.shape
    factor = reduction(height, width, min_side)
    if factor == 1:
        return pixels
    import cv2

    size = (-(-width // factor), -(-height // factor))
    return cast(Pixels, cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
