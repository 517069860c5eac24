"""Ellipsoids with attenuation, and tubes made of them: the parts of a phantom."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

# Density profiles (1 - r^2)^n inside the unit ball; a ray that passes the centre at distance sqrt(1 - w) collects
# Beta(n + 1, 1/2) * w^(n + 1/2). "rod" makes a chain of overlapping ellipsoids project like one smooth cylinder.
PROFILES = {"solid": (0.0, 2.0), "rod": (-0.25, 2.39628), "soft": (2.0, 16.0 / 15.0)}
KINDS = tuple(PROFILES)
# Reach of the ellipsoids of a chain in segment lengths, and what a ray across the chain collects per unit density and
# radius.
_OVERLAP = 1.6
_CROSSINGS = 2.39628 * _OVERLAP * 1.74804
# Cross product with the direction in which a flat tube stands upright, which no tube follows: (0.03, 1, 0.05).
_ACROSS = np.array([[0, 0.05, -1.0], [-0.05, 0, 0.03], [1.0, -0.03, 0]])


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

    @cached_property
    def to_unit(self) -> Floats:
        """Matrix from (x, y, z, 1) to the coordinates that make each ellipsoid the unit ball, shape (3 N, 4)."""
        offset = -np.einsum("nij,nj->ni", self.shape, self.centre)
        return np.concatenate([self.shape, offset[:, :, None]], axis=2).reshape(-1, 4)

    def scaled(self, factor: Floats | float, about: Floats) -> Ellipsoids:
        """The same ellipsoids after stretching space about a point.

        Args:
            factor: One factor, or one per axis.
            about: The fixed point in cm, shape (3,).
        """
        return Ellipsoids(about + (self.centre - about) * factor, self.shape / factor, self.density, self.kind)


def squared_distance(to_unit: Floats, points: Floats) -> Floats:
    """How far points lie from the centres of ellipsoids, as 1 on the surface.

    Args:
        to_unit: As of `Ellipsoids`, shape (3 N, 4).
        points: Positions in cm, shape (P, 3).

    Returns:
        Shape (N, P).
    """
    extended = np.ones((4, len(points)))
    extended[:3] = points.T
    unit = to_unit @ extended
    unit *= unit
    return np.asarray(unit.reshape(-1, 3, len(points)).sum(1))


def join(parts: Iterable[Ellipsoids]) -> Ellipsoids:
    """One set out of several."""
    parts = list(parts)
    if not parts:
        return ellipsoid(np.zeros((0, 3)), np.ones((0, 3)), 0.0)
    return Ellipsoids(
        np.concatenate([part.centre for part in parts]),
        np.concatenate([part.shape for part in parts]),
        np.concatenate([part.density for part in parts]),
        np.concatenate([part.kind for part in parts]),
    )


def split(shapes: Ellipsoids, counts: Iterable[int]) -> Iterator[Ellipsoids]:
    """Undoes a join of sets with so many ellipsoids each."""
    end = 0
    for count in counts:
        begin, end = end, end + count
        yield shapes[begin:end]


def ellipsoid(
    centre: object, radii: object, density: Floats | float = 0.0, *, kind: str = "solid", tilt: float = 0.0
) -> Ellipsoids:
    """Ellipsoids along the axes.

    Args:
        centre: Centres in cm, (3,) or (N, 3).
        radii: Semi-axes in cm, broadcast against the centres.
        density: Attenuation difference per cm, a number or (N,).
        kind: Density profile: "solid", "rod" or "soft".
        tilt: Rotation about the z axis in degrees, from x towards y.
    """
    position = np.array(centre, float, ndmin=2)
    cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    # Assigned into place, because broadcasting by name takes numpy longer than all the rest.
    shape, mass, kinds = np.empty((len(position), 3, 3)), np.empty(len(position)), np.empty(len(position), np.int64)
    shape[:] = turn / np.array(radii, float, ndmin=1)[..., None]
    mass[:] = density
    kinds[:] = KINDS.index(kind)
    return Ellipsoids(position, shape, mass, kinds)


def tube(points: Floats, radius: Floats | float, density: Floats | float, *, flat: float = 1.0) -> Ellipsoids:
    """Tubes as chains of overlapping ellipsoids.

    Args:
        points: Nodes of T tubes in cm, shape (T, S + 1, 3) or (S + 1, 3).
        radius: Radius in cm, broadcast against (T, S).
        density: Attenuation difference per cm, broadcast against (T, S).
        flat: Thickness across the height: below 1 makes a band that stands upright, like a rib.
    """
    # x, y and z come first here, because numpy is slow at long lists of three numbers.
    nodes = np.ascontiguousarray(np.moveaxis(points if points.ndim == 3 else points[None], 2, 0))
    along = nodes[:, :, 1:] - nodes[:, :, :-1]
    count = along.shape[1:]
    length = np.maximum(norm(along), 1e-6)
    axis = along / length
    side = (_ACROSS @ axis.reshape(3, -1)).reshape(axis.shape)
    side /= np.maximum(norm(side), 1e-6)
    thick, mass = np.empty(count), np.empty(count)
    thick[:], mass[:] = radius, np.asarray(density) * (2.0 / _CROSSINGS)
    shape = np.array([axis / (_OVERLAP * length), side / (thick * flat), _cross(side, axis) / thick])
    middle = (nodes[:, :, 1:] + nodes[:, :, :-1]) / 2
    return Ellipsoids(
        np.ascontiguousarray(middle.reshape(3, -1).T),
        np.ascontiguousarray(shape.reshape(3, 3, -1).transpose(2, 0, 1)),
        mass.reshape(-1),
        np.full(mass.size, KINDS.index("rod")),
    )


def norm(vectors: Floats) -> Floats:
    """Length of vectors whose components are along the first axis."""
    return np.asarray(np.sqrt((vectors * vectors).sum(0)))


def _cross(first: Floats, second: Floats) -> Floats:
    """Cross product along the first axis; numpy's own spends ten times as long on checking its arguments."""
    (a, b, c), (d, e, f) = first, second
    return np.array([b * f - c * e, c * d - a * f, a * e - b * d])
