"""The shadow of an ellipsoid in a point source: which rays meet it, and where along them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cxrbase.data.phantom_geometry import Geometry
from cxrbase.data.phantom_shapes import Ellipsoids, Floats, join


@dataclass(frozen=True)
class Shadows:
    """What the rays of a point source see of N ellipsoids.

    Stretch space so that an ellipsoid is the unit ball, with the source at o and the pixel at o + d. The ray is inside
    from (nearest - root) to (nearest + root) in units of square, where square = d.d, nearest = -o.d and the root's
    square is depth = (o.d)^2 - (o.o - 1) d.d. All three are polynomials in the columns x and rows y between the pixel
    and the middle of the shadow. There they are no differences of large numbers, so that 32 bits are enough.

    Args:
        box: First and last column, and first and last row, of the shadow, shape (4, N), in 64 bits.
        middle: Column and row of its middle, where the depth is greatest, shape (2, N).
        depth: Factors of 1, x^2, x y and y^2, shape (4, N).
        square: Factors of 1, x, y, x^2, x y and y^2, shape (6, N).
        nearest: Factors of 1, x and y, shape (3, N).
    """

    box: Floats
    middle: Floats
    depth: Floats
    square: Floats
    nearest: Floats

    def __getitem__(self, index: slice) -> Shadows:
        parts = (self.box, self.middle, self.depth, self.square, self.nearest)
        return Shadows(*(values[:, index] for values in parts))

    def window(self, i: int, geometry: Geometry) -> tuple[slice, slice]:
        """Rows and columns of the pixels whose rays may meet an ellipsoid; there may be none."""
        left, right, top, bottom = self.box[:, i].tolist()
        return _span(top, bottom, geometry.height), _span(left, right, geometry.width)


def _span(low: float, high: float, size: int) -> slice:
    first = min(max(math.ceil(low), 0), size)
    return slice(first, max(min(math.floor(high) + 1, size), first))


def shadows_of(parts: Sequence[Ellipsoids], geometry: Geometry) -> Iterator[Shadows]:
    """The shadows of several sets of ellipsoids, which takes little longer together than those of one."""
    together, end = shadows(join(parts), geometry), 0
    for part in parts:
        begin, end = end, end + len(part)
        yield together[begin:end]


def shadows(shapes: Ellipsoids, geometry: Geometry) -> Shadows:
    """The shadows of ellipsoids, all of them in front of the source."""
    square, approach, clearance = _forms(shapes, geometry)
    depth = approach[:, None] * approach - clearance * square
    (d, dx, dy), (_, dxx, dxy), (_, _, dyy) = depth
    # The outline is the conic on which the depth is zero, and its middle is where the depth has no slope.
    area = dxx * dyy - dxy * dxy
    x, y = (dxy * dy - dyy * dx) / area, (dxy * dx - dxx * dy) / area
    peak = d + dx * x + dy * y
    half_x, half_y = np.sqrt(-peak * dyy / area), np.sqrt(-peak * dxx / area)
    (q, qx, qy), (_, qxx, qxy), (_, _, qyy) = square
    slope_x, slope_y = qx + qxx * x + qxy * y, qy + qxy * x + qyy * y
    a, ax, ay = approach
    return Shadows(
        box=np.array([x - half_x, x + half_x, y - half_y, y + half_y]),
        middle=np.array([x, y], np.float32),
        depth=np.array([peak, dxx, 2 * dxy, dyy], np.float32),
        square=np.array(
            [q + (qx + slope_x) * x + (qy + slope_y) * y, 2 * slope_x, 2 * slope_y, qxx, 2 * qxy, qyy], np.float32
        ),
        nearest=-np.array([a + ax * x + ay * y, ax, ay], np.float32),
    )


def _forms(shapes: Ellipsoids, geometry: Geometry) -> tuple[Floats, Floats, Floats]:
    """In (1, x, y): d.d as a form (3, 3, N) and o.d as factors (3, N); and o.o - 1, shape (N,)."""
    stretch = np.ascontiguousarray(shapes.shape.transpose(1, 0, 2))
    both = np.empty((4, 3, len(shapes)))
    both[0] = np.einsum("inj,nj->in", stretch, geometry.source - shapes.centre)
    both[1:] = (geometry.frame.T @ stretch.reshape(-1, 3).T).reshape(3, 3, -1)
    products = np.einsum("ain,bin->abn", both, both)
    return products[1:, 1:], products[0, 1:], products[0, 0] - 1


def outline(shapes: Ellipsoids, geometry: Geometry) -> Floats:
    """Box around each ellipsoid's shadow: (N, 4) as u_low, u_high, v_low and v_high, in -1..1 across the image."""
    size = np.array([geometry.width, geometry.width, geometry.height, geometry.height])
    return np.asarray((shadows(shapes, geometry).box.T + 0.5) * (2 / size) - 1)
