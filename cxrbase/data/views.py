"""The single crop that MAE may take on the CPU, so that fewer bytes go to the device."""

import math

import numpy as np
from numpy.typing import NDArray

from cxrbase.sizes import Size, aspect, height_width

_TRIES = 10  # as torchvision's RandomResizedCrop


class CPUCrop:
    """Random resized crop of an 8-bit image, keyed by (seed, epoch, image id).

    Area-averaged, because linear interpolation aliases (35.5 against 40.6 dB on radiographs). It holds no state, so any
    number of threads may share it; albumentations' own crop needs a new seed for every image, which takes longer than
    the crop.

    Args:
        size: Side, or height and width, of the output in pixels.
        scale: Smallest and largest share of the image's area, in (0, 1].
        ratio: Smallest and largest width / height, relative to that of the output.
    """

    def __init__(self, size: Size, *, scale: tuple[float, float], ratio: tuple[float, float]) -> None:
        self.size, self.scale = height_width(size), scale
        self.ratio = (ratio[0] * aspect(size), ratio[1] * aspect(size))

    def __call__(self, image: NDArray[np.uint8], key: tuple[int, int, int]) -> NDArray[np.uint8]:
        """Crops (H, W) to the size; the same key gives the same pixels in any worker."""
        import cv2

        top, left, height, width = self.box(image.shape, key)
        part = image[top : top + height, left : left + width]
        high, wide = self.size
        return np.asarray(cv2.resize(part, (wide, high), interpolation=cv2.INTER_AREA), np.uint8)

    def box(self, shape: tuple[int, ...], key: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """Top, left, height and width of the crop that a key draws, distributed as torchvision's."""
        rows, columns = shape
        draws = np.random.Generator(np.random.PCG64(list(key))).random((4, _TRIES))
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        # Plain numbers, because the first try nearly always fits and arrays of ten take longer.
        for share, shape_, top, left in draws.T.tolist():
            area = rows * columns * (self.scale[0] + (self.scale[1] - self.scale[0]) * share)
            ratio = math.exp(low + (high - low) * shape_)
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 1 <= width <= columns and 1 <= height <= rows:
                return int(top * (rows - height + 1)), int(left * (columns - width + 1)), height, width
        return self._largest(rows, columns)

    def _largest(self, rows: int, columns: int) -> tuple[int, int, int, int]:
        """The largest central part of an allowed ratio, for images that no try fits."""
        ratio = min(max(columns / rows, self.ratio[0]), self.ratio[1])
        height, width = min(rows, max(1, round(columns / ratio))), min(columns, max(1, round(rows * ratio)))
        return (rows - height) // 2, (columns - width) // 2, height, width
