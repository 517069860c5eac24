"""Project ellipsoids along the rays of a point source with closed-form chord lengths."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.phantom_shapes import KINDS, PROFILES, Ellipsoids, Floats


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

    @property
    def frame(self) -> Floats:
        """Matrix from (1, u, v), with u and v in -1..1 across the image, to the vector from source to pixel in cm."""
        return np.stack([self.centre - self.source, self.right, self.down], axis=1)

    def part(self, box: Floats) -> tuple[Geometry, tuple[slice, slice]]:
        """The smallest piece of the detector that holds a box, and its rows and columns in the whole.

        Args:
            box: u_low, u_high, v_low and v_high in -1..1, as `outline` gives them; what is outside is cut off.
        """
        spans = []
        for low, high, size in ((*box[2:], self.height), (*box[:2], self.width)):
            first = int(np.clip(np.floor((low + 1) * size / 2), 0, size - 1))
            spans.append((first, int(np.clip(np.ceil((high + 1) * size / 2), first + 1, size))))
        (top, bottom), (left, right) = spans
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

    def grid(self) -> tuple[Floats, Floats]:
        """Coordinates of the pixel centres: u, shape (width,), and v, shape (height,)."""
        u, v = ((np.arange(n) + 0.5) * 2 / n - 1 for n in (self.width, self.height))
        return u, v

    @cached_property
    def distance(self) -> Floats:
        """From the source to each pixel in cm, shape (height, width)."""
        u, v = self.grid()
        ray = self.frame @ np.stack(np.broadcast_arrays(1.0, u[None, :], v[:, None])).reshape(3, -1)
        return np.asarray(np.sqrt((ray**2).sum(0)).reshape(self.height, self.width))


def _forms(shapes: Ellipsoids, geometry: Geometry) -> tuple[Floats, Floats, Floats]:
    """Coefficients in (1, u, v) of a ray's reach: discriminant and squared direction (N, 3, 3), and approach (N, 3)."""
    direction = (shapes.shape.reshape(-1, 3) @ geometry.frame).reshape(-1, 3, 3)
    offset = geometry.source - shapes.centre
    origin = (shapes.shape * offset[:, None]).sum(-1)
    square = (direction[:, :, :, None] * direction[:, :, None]).sum(1)
    approach = (origin[:, :, None] * direction).sum(1)
    clearance = (origin**2).sum(-1) - 1
    return approach[:, :, None] * approach[:, None] - clearance[:, None, None] * square, square, approach


def outline(shapes: Ellipsoids, geometry: Geometry) -> Floats:
    """Box around each ellipsoid's shadow, from the dual conic: (N, 4) as u_low, u_high, v_low, v_high in -1..1."""
    return _shadow(_forms(shapes, geometry)[0])


def _shadow(reach: Floats) -> Floats:
    """Box around the conic where a form in (1, u, v) is positive, (N, 4)."""
    a, b, c, d, e, f = (reach[:, i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)))
    # The adjugate, which is the inverse up to a factor that the ratios below lose again.
    scale = d * f - e * e
    edges = []
    for cross, own in ((c * e - b * f, a * f - c * c), (b * e - c * d, a * d - b * b)):
        middle = cross / scale
        half = np.abs(np.sqrt(np.maximum(cross**2 - scale * own, 0)) / scale)
        edges += [middle - half, middle + half]
    return np.stack(edges, axis=1)


def _spans(low: Floats, high: Floats, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixel and number of pixels whose centres lie between two coordinates."""
    first = np.ceil(np.clip((low + 1) * size / 2 - 0.5, 0, size)).astype(np.int64)
    last = np.floor(np.clip((high + 1) * size / 2 - 0.5, -1, size - 1)).astype(np.int64)
    return first, np.maximum(last - first + 1, 0)


def _unroll(first: NDArray[np.int64], count: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Owner and position of every pixel of many spans."""
    owner = np.repeat(np.arange(len(count)), count)
    return owner, np.arange(len(owner)) + np.repeat(first - (np.cumsum(count) - count), count)


def line_integral(shapes: Ellipsoids, geometry: Geometry) -> Floats:
    """Attenuation that ellipsoids add along each ray.

    Args:
        shapes: Ellipsoids, all in front of the source.
        geometry: Source and detector.

    Returns:
        Sum of attenuation times length, without unit, shape (height, width).
    """
    shapes = shapes[np.argsort(shapes.kind, kind="stable")]
    reach, square, _ = _forms(shapes, geometry)
    box = _shadow(reach)
    owner, row = _unroll(*_spans(box[:, 2], box[:, 3], geometry.height))
    v = (row + 0.5) * 2 / geometry.height - 1
    above, below = (
        (form[owner, 1, 1], 2 * (form[owner, 0, 1] + v * form[owner, 1, 2]),
         form[owner, 0, 0] + v * (2 * form[owner, 0, 2] + v * form[owner, 2, 2]))
        for form in (reach, square)
    )  # fmt: skip
    root = np.sqrt(np.maximum(above[1] ** 2 - 4 * above[0] * above[2], 0)) / (2 * np.abs(above[0]))
    middle = -above[1] / (2 * above[0])
    span, column = _unroll(*_spans(middle - root, middle + root, geometry.width))
    u = (column + 0.5) * 2 / geometry.width - 1
    over = np.maximum((above[0][span] * u + above[1][span]) * u + above[2][span], 0)
    under = (below[0][span] * u + below[1][span]) * u + below[2][span]
    over /= under
    weight = shapes.density[owner] * np.array([scale for _, scale in PROFILES.values()])[shapes.kind[owner]]
    value = _profile(over, np.searchsorted(shapes.kind[owner][span], np.arange(1, len(KINDS))))
    value *= weight[span] / np.sqrt(under)
    total = np.bincount(row[span] * geometry.width + column, value, geometry.height * geometry.width)
    return total.reshape(geometry.height, geometry.width) * geometry.distance


def _profile(inside: Floats, splits: NDArray[np.int64]) -> Floats:
    """Powers of 1 - (distance from the centre)^2, for the pixels of each kind in turn."""
    solid, rod, soft = np.split(inside, splits)
    return np.concatenate([np.sqrt(solid), np.sqrt(np.sqrt(rod)), soft * soft * np.sqrt(soft)])


def intervals(shapes: Ellipsoids, geometry: Geometry) -> tuple[Floats, Floats]:
    """Where each ray enters and leaves each ellipsoid.

    Args:
        shapes: N ellipsoids, all in front of the source.
        geometry: Source and detector.

    Returns:
        Distances from the source in cm, each of shape (N, height, width); equal where the ray misses.
    """
    reach, square, approach = _forms(shapes, geometry)
    u, v = geometry.grid()
    columns = np.stack([np.ones_like(u), u, u * u])
    rows = np.stack([np.ones_like(v), v, v * v])
    # Differences of large numbers need 64 bits, what comes after does not: 32 are good for 0.0001 mm here.
    inside, length = (_quadratic(form, rows, columns).astype(np.float32) for form in (reach, square))
    nearest = -(approach[:, 0] + approach[:, 1] * u[:, None]).T[:, None, :] - approach[:, 2, None, None] * v[:, None]
    scale = geometry.distance.astype(np.float32) / length
    half = np.sqrt(np.maximum(inside, 0, out=inside), out=inside)
    half *= scale
    middle = nearest.astype(np.float32)
    middle *= scale
    return middle - half, middle + half


def _quadratic(form: Floats, rows: Floats, columns: Floats) -> Floats:
    """A quadratic form in (1, u, v) on the whole grid, shape (N, height, width), as a product of two thin matrices."""
    table = np.zeros((len(form), 3, 3))
    table[:, 0, 0], table[:, 0, 1], table[:, 0, 2] = form[:, 0, 0], 2 * form[:, 0, 1], form[:, 1, 1]
    table[:, 1, 0], table[:, 1, 1], table[:, 2, 0] = 2 * form[:, 0, 2], 2 * form[:, 1, 2], form[:, 2, 2]
    return np.asarray(rows.T @ (table @ columns))


def left_over(low: Floats, high: Floats, starts: Floats, ends: Floats) -> Floats:
    """Length of an interval that a union of other intervals leaves free.

    Args:
        low: Start of the interval, shape (H, W).
        high: Its end; below `low` means empty.
        starts: Starts of K intervals that are taken away, shape (K, H, W).
        ends: Their ends.
    """
    high = np.maximum(low, high)
    begin = [np.clip(start, low, high) for start in starts]
    stop = [np.clip(end, low, high) for end in ends]
    for values in (begin, stop):
        for last in range(len(values) - 1, 0, -1):
            for i in range(last):
                values[i], values[i + 1] = np.minimum(values[i], values[i + 1]), np.maximum(values[i], values[i + 1])
    # With starts and ends sorted apart, ray is free between the i-th end and the next start, if these do not cross.
    free = begin[0] - low + high - stop[-1]
    for end, start in zip(stop[:-1], begin[1:], strict=True):
        free += np.maximum(start - end, 0)
    return np.asarray(free)
