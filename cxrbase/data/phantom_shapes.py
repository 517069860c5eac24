"""Ellipsoids with attenuation, and tubes made of them: what a phantom is built of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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
    return Ellipsoids(position, turn / size[:, :, None], mass, np.full(len(position), KINDS.index(kind)))


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
    shape = np.empty((*count, 3, 3))
    shape[..., 0, :] = axis / (_OVERLAP * length)
    shape[..., 1, :] = side / (thick * flat)
    shape[..., 2, :] = _cross(side, axis) / thick
    mass = np.broadcast_to(np.asarray(density, float), count) * 2.0 / _CROSSINGS
    middle = (nodes[:, 1:] + nodes[:, :-1]) / 2
    kind = np.full(mass.size, KINDS.index("rod"))
    return Ellipsoids(middle.reshape(-1, 3), shape.reshape(-1, 3, 3), mass.reshape(-1), kind)


def _cross(first: Floats, second: Floats) -> Floats:
    """Cross product along the last axis; numpy's own spends ten times as long on checking its arguments."""
    a, b, c = first[..., 0], first[..., 1], first[..., 2]
    d, e, f = second[..., 0], second[..., 1], second[..., 2]
    product = np.empty_like(first)
    product[..., 0] = b * f - c * e
    product[..., 1] = c * d - a * f
    product[..., 2] = a * e - b * d
    return product
