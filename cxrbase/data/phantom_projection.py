"""Project ellipsoids along the rays of a point source with closed-form chord lengths."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

# Density profiles (1 - r^2)^n inside the unit ball; a ray that passes the centre at distance sqrt(1 - w) collects
# Beta(n + 1, 1/2) * w^(n + 1/2). "rod" makes a chain of overlapping ellipsoids project like one smooth cylinder.
PROFILES = {"solid": (0.0, 2.0), "rod": (-0.25, 2.39628), "soft": (2.0, 16.0 / 15.0)}
_KINDS = tuple(PROFILES)
# Reach of the ellipsoids of a chain in segment lengths, and what a ray across the chain collects per unit density and
# radius.
_OVERLAP = 1.6
_CROSSINGS = 2.39628 * _OVERLAP * 1.74804


@dataclass(frozen=True)
class Ellipsoids:
    """N ellipsoids with attenuation.

    Args:
        centre: Centres in cm, shape (N, 3); x to the patient's left, y to the head, z to the front.
        shape: Matrices that map an offset in cm to the unit ball, shape (N, 3, 3).
        density: Attenuation difference per cm to what is around, at the centre, shape (N,).
        kind: Index into the density profiles, shape (N,).
    """

    centre: Floats
    shape: Floats
    density: Floats
    kind: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.centre)

    def __getitem__(self, index: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Ellipsoids:
        return Ellipsoids(self.centre[index], self.shape[index], self.density[index], self.kind[index])

    def contains(self, points: Floats, *, margin: float = 1.0) -> NDArray[np.bool_]:
        """Whether points lie in any of the ellipsoids.

        Args:
            points: Positions in cm, shape (P, 3).
            margin: Factor on the size of the ellipsoids.

        Returns:
            Shape (P,).
        """
        unit = np.einsum("nij,npj->npi", self.shape, points[None] - self.centre[:, None])
        inside: NDArray[np.bool_] = ((unit**2).sum(-1) < margin**2).any(0)
        return inside

    def scaled(self, factor: Floats | float, about: Floats) -> Ellipsoids:
        """The same ellipsoids after stretching space about a point.

        Args:
            factor: One factor, or one per axis.
            about: The fixed point in cm, shape (3,).
        """
        stretch = np.broadcast_to(np.asarray(factor, float), (3,))
        return Ellipsoids(about + (self.centre - about) * stretch, self.shape / stretch, self.density, self.kind)


def join(parts: Iterable[Ellipsoids]) -> Ellipsoids:
    """One set out of several."""
    parts = list(parts)
    if not parts:
        return ellipsoid(np.zeros((0, 3)), np.ones((0, 3)), 0.0)
    names = ("centre", "shape", "density", "kind")
    return Ellipsoids(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def ellipsoid(
    centre: object, radii: object, density: object = 0.0, *, kind: str = "solid", tilt: float = 0.0
) -> Ellipsoids:
    """Ellipsoids along the axes.

    Args:
        centre: Centres in cm, (3,) or (N, 3).
        radii: Semi-axes in cm, broadcast against the centres.
        density: Attenuation difference per cm, a number or (N,).
        kind: Density profile: "solid", "rod" or "soft".
        tilt: Rotation about the z axis in degrees, from x towards y.
    """
    position = np.atleast_2d(np.asarray(centre, float))
    size = np.broadcast_to(np.asarray(radii, float), position.shape)
    cos, sin = np.cos(np.deg2rad(tilt)), np.sin(np.deg2rad(tilt))
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    mass = np.broadcast_to(np.asarray(density, float), (len(position),))
    return Ellipsoids(position, turn / size[:, :, None], mass, np.full(len(position), _KINDS.index(kind)))


def tube(points: Floats, radius: object, density: object, *, flat: float = 1.0) -> Ellipsoids:
    """Tubes as chains of overlapping ellipsoids.

    Args:
        points: Nodes of T tubes in cm, shape (T, S + 1, 3) or (S + 1, 3).
        radius: Radius in cm, broadcast against (T, S).
        density: Attenuation difference per cm, broadcast against (T, S).
        flat: Thickness across the height: below 1 makes a band that stands upright, like a rib.
    """
    nodes = points if points.ndim == 3 else points[None]
    along = np.diff(nodes, axis=1)
    count = along.shape[:2]
    length = np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-6)
    axis = along / length
    side = _cross(axis, np.array([0.03, 1.0, 0.05]))
    side /= np.maximum(np.linalg.norm(side, axis=-1, keepdims=True), 1e-6)
    thick = np.broadcast_to(np.asarray(radius, float), count)[..., None]
    rows = [axis / (_OVERLAP * length), side / (thick * flat), _cross(side, axis) / thick]
    mass = np.broadcast_to(np.asarray(density, float), count) * 2.0 / _CROSSINGS
    middle = (nodes[:, 1:] + nodes[:, :-1]) / 2
    kind = np.full(mass.size, _KINDS.index("rod"))
    return Ellipsoids(middle.reshape(-1, 3), np.stack(rows, -2).reshape(-1, 3, 3), mass.reshape(-1), kind)


def _cross(first: Floats, second: Floats) -> Floats:
    """Cross product along the last axis; numpy's own spends ten times as long on checking its arguments."""
    (a, b, c), (d, e, f) = (np.moveaxis(vectors, -1, 0) for vectors in (first, second))
    return np.stack([b * f - c * e, c * d - a * f, a * e - b * d], axis=-1)


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
    direction = shapes.shape @ geometry.frame
    origin = (shapes.shape @ (geometry.source - shapes.centre)[..., None])[..., 0]
    square = np.swapaxes(direction, 1, 2) @ direction
    approach = (origin[:, None] @ direction)[:, 0]
    clearance = (origin**2).sum(-1) - 1
    return approach[:, :, None] * approach[:, None] - clearance[:, None, None] * square, square, approach


def outline(shapes: Ellipsoids, geometry: Geometry) -> Floats:
    """Box around each ellipsoid's shadow, from the dual conic: (N, 4) as u_low, u_high, v_low, v_high in -1..1."""
    dual = np.linalg.inv(_forms(shapes, geometry)[0])
    edges = []
    for axis in (1, 2):
        half = np.sqrt(np.maximum(dual[:, 0, axis] ** 2 - dual[:, 0, 0] * dual[:, axis, axis], 0)) / dual[:, 0, 0]
        middle = dual[:, 0, axis] / dual[:, 0, 0]
        edges += [middle - np.abs(half), middle + np.abs(half)]
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
    box = outline(shapes, geometry)
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
    value = _profile(over, np.searchsorted(shapes.kind[owner][span], np.arange(1, len(_KINDS))))
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
