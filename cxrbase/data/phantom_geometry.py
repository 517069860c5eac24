"""The positions of the source and the detector for a phantom's radiograph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, floor

import numpy as np

from cxrbase.data.phantom_shapes import Floats


@dataclass(frozen=True)
class Geometry:
    """A point source and a flat detector.

    Args:
        source: Position of the source in cm, shape (3,).
        centre: Centre of the detector in cm, shape (3,).
        right: From the centre to the middle of the right edge of the image, in cm, shape (3,).
        down: From the centre to the middle of the lower edge of the image, in cm, shape (3,).
        height: Rows of the image.
        width: Columns of the image.
    """

    source: Floats
    centre: Floats
    right: Floats
    down: Floats
    height: int
    width: int

    @cached_property
    def frame(self) -> Floats:
        """Matrix from (1, x, y), the column x and the row y of a pixel, to the vector from source to pixel in cm."""
        across, along = self.right * (2 / self.width), self.down * (2 / self.height)
        corner = self.centre - self.source - self.right - self.down + (across + along) / 2
        return np.array([corner, across, along]).T

    def part(self, box: Floats) -> tuple[Geometry, tuple[slice, slice]]:
        """The smallest piece of the detector that holds a box, and its rows and columns in the whole.

        Args:
            box: u_low, u_high, v_low and v_high in -1..1, as `outline` gives them; what is outside is cut off.
        """
        left, right, top, bottom = box.tolist()
        (left, right), (top, bottom) = _cut(left, right, self.width), _cut(top, bottom, self.height)
        across = self.right * ((left + right) / self.width - 1)
        along = self.down * ((top + bottom) / self.height - 1)
        piece = Geometry(
            source=self.source,
            centre=self.centre + across + along,
            right=self.right * ((right - left) / self.width),
            down=self.down * ((bottom - top) / self.height),
            height=bottom - top,
            width=right - left,
        )
        return piece, (slice(top, bottom), slice(left, right))

    @cached_property
    def distance(self) -> Floats:
        """From the source to each pixel in cm, shape (height, width), in 32 bits."""
        form = self.frame.T @ self.frame
        x, y = np.arange(self.width), np.arange(self.height)[:, None]
        along_row = form[0, 0] + x * (2 * form[0, 1] + x * form[1, 1])
        along_column = y * (2 * form[0, 2] + y * form[2, 2])
        square = along_row.astype(np.float32) + along_column.astype(np.float32)
        square += y.astype(np.float32) * (2 * form[1, 2] * x).astype(np.float32)
        return np.asarray(np.sqrt(square, out=square))


def _cut(low: float, high: float, size: int) -> tuple[int, int]:
    """First pixel and the one after the last between two coordinates in -1..1, at least one pixel."""
    first = min(max(floor((low + 1) * size / 2), 0), size - 1)
    return first, min(max(ceil((high + 1) * size / 2), first + 1), size)
