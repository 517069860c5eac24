"""Builds the chest of a patient from ellipsoids with attenuation, for one exposure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.patient import FAT, LUNG, SIDES, SOFT, Patient, Pose
from cxrbase.data.phantom_shapes import Ellipsoids, Floats, ellipsoid, join, split, squared_distance, tube
from cxrbase.data.skeleton import ribs, shoulders, spine


@dataclass(frozen=True)
class Lung:
    """One side of the chest, from outside in.

    Args:
        cavity: The pleural cavity, one ellipsoid.
        level: What lies outside of it is fluid; None without effusion.
        collapsed: What lies outside of it is free air; None without pneumothorax.
        solids: Heart, vessels and diaphragm that take space from this side.
        hilum: Root of the lung in cm, shape (3,).
        content: What adds attenuation within the lung: vessels and findings.
    """

    cavity: Ellipsoids
    solids: Ellipsoids
    hilum: Floats
    content: Ellipsoids
    level: Ellipsoids | None = None
    collapsed: Ellipsoids | None = None

    @property
    def parts(self) -> dict[str, Ellipsoids]:
        """All ellipsoids by their names here, without those that are None."""
        named = {"cavity": self.cavity, "solids": self.solids, "content": self.content}
        optional = {"level": self.level, "collapsed": self.collapsed}
        return named | {name: part for name, part in optional.items() if part is not None}

    def place(self, unit: Floats) -> Floats:
        """Points of the unit ball, shape (P, 3), as positions in the cavity in cm."""
        return np.asarray(self.cavity.centre[0] + unit @ self._from_unit)

    def aerated(self, points: Floats, *, within: float, beyond: float) -> NDArray[np.bool_]:
        """Whether points lie in the cavity and in none of the solids.

        Args:
            points: Positions in cm, shape (P, 3).
            within: Factor on the size of the cavity.
            beyond: Factor on the size of the solids.

        Returns:
            Shape (P,).
        """
        distance = squared_distance(self._walls, points)
        free: NDArray[np.bool_] = (distance[0] < within**2) & (distance[1:].min(0) >= beyond**2)
        return free

    @cached_property
    def _from_unit(self) -> Floats:
        return np.linalg.inv(self.cavity.shape[0]).T

    @cached_property
    def _walls(self) -> Floats:
        return np.concatenate([self.cavity.to_unit, self.solids.to_unit])


@dataclass(frozen=True)
class Chest:
    """A patient in a pose.

    Args:
        skin: Ellipsoids whose union along a ray is the body.
        muscle: The same for the body without its fat.
        lungs: Right and left.
        details: Whatever adds to, or takes from, the attenuation of those.
        marks: Ellipsoids around each finding that has a place of its own.
    """

    skin: Ellipsoids
    muscle: Ellipsoids
    lungs: tuple[Lung, Lung]
    details: Ellipsoids
    marks: dict[str, Ellipsoids] = field(default_factory=dict)


def layout(patient: Patient, pose: Pose) -> Chest:
    """The patient's chest without findings inside the lungs.

    Args:
        patient: Who is examined.
        pose: How they hold still.
    """
    heart = _heart(patient, pose)
    lungs = tuple(_lung(patient, pose, side, heart) for side in SIDES)
    muscle = _body(pose)
    skin = Ellipsoids(muscle.centre, _thicker(muscle, patient.fat), muscle.density, muscle.kind)
    details = [
        spine(patient),
        ribs(patient, pose),
        shoulders(patient, pose),
        _airway(),
        _gas(patient, pose),
        _breasts(patient),
        _raised_arms(pose),
    ]
    return Chest(skin, muscle, (lungs[0], lungs[1]), join(details))


def settle(chest: Chest, patient: Patient) -> Chest:
    """The chest at the patient's own size and with the curve of their spine."""
    stretch = np.array(patient.size)
    # All at once, and then taken apart again.
    parts = [chest.skin, chest.muscle, chest.details, *chest.marks.values()]
    parts += [part for lung in chest.lungs for part in lung.parts.values()]
    shapes = join(parts)
    height = shapes.centre[:, 1]
    moved = shapes.centre.copy()
    moved[:, 0] += patient.curve * np.sin((height + 2) / 7) * np.exp(-((height / 22) ** 2))
    shapes = Ellipsoids(moved * stretch, shapes.shape / stretch, shapes.density, shapes.kind)
    own = split(shapes, [len(part) for part in parts])
    skin, muscle, details = next(own), next(own), next(own)
    marks = {name: next(own) for name in chest.marks}
    right, left = (
        replace(lung, hilum=lung.hilum * stretch, **{name: next(own) for name in lung.parts}) for lung in chest.lungs
    )
    return Chest(skin, muscle, (right, left), details, marks)


def _descent(pose: Pose) -> float:
    """How far the diaphragm stands above full inspiration, in cm."""
    return 3.6 * (1 - pose.breath) + (1.0 if pose.view == "AP" else 0.0)


def _body(pose: Pose) -> Ellipsoids:
    """What lies under the fat, as solid as its outline; arms raised for a lateral are left to `_raised_arms`."""
    parts = [
        ellipsoid([0, -13, -0.8], [16.0, 33, 11.0]),
        ellipsoid([0, -22, -0.2], [15.5, 24, 11.4]),
        ellipsoid([0, 21, -2.4], [5.6, 14, 6.7]),
        ellipsoid([0, 4, -3.8], [5.5, 24, 8.6]),
        ellipsoid([0, 14, -2.5], [12.5, 6.0, 5.0] if pose.view != "LATERAL" else [9.0, 6.5, 7.0]),
    ]
    if pose.view == "LATERAL":
        return join(parts)
    reach = 18.3 + 1.6 * pose.arms
    for side in SIDES:
        parts.append(ellipsoid([side * 12.5, 11.5, -1.5], [8.0, 5.0, 5.2], tilt=-side * 24))
        parts.append(ellipsoid([side * reach, -5, -2], [3.9, 19, 4.3], tilt=side * (6 + 4 * pose.arms)))
    return join(parts)


def _raised_arms(pose: Pose) -> Ellipsoids:
    """Shoulders and upper arms of a lateral: they fade into the chest because muscle thins out towards it."""
    if pose.view != "LATERAL":
        return join([])
    forward = 2.0 + 2.0 * pose.arms
    parts = []
    for side in SIDES:
        parts.append(ellipsoid([side * 12.5, 14.5, -2.0], [7.0, 9.5, 8.5], 0.55 * SOFT, kind="soft"))
        arm = np.array([[side * 15, 14.0, 0.0], [side * 16, 19.0, 3.0 + forward], [side * 16, 26.0, 7.0 + 2 * forward]])
        parts.append(tube(arm, 4.2, 0.6 * SOFT))
    return join(parts)


@lru_cache(maxsize=1)
def _breasts(patient: Patient) -> Ellipsoids:
    """Soft-edged, because an outline as sharp as the skin's is not what a standing patient casts."""
    if patient.sex != "F":
        return join([])
    rng = patient.stream(0)
    cup, low = rng.uniform(0.6, 1.15) + 0.08 * patient.fat, rng.uniform(-9.5, -5.0)
    place = [[side * rng.uniform(7.4, 8.8), low, 7.5 + 0.8 * patient.fat] for side in SIDES]
    return ellipsoid(place, np.array([8.2, 7.6, 6.0]) * cup, 0.6 * FAT, kind="soft")


def _thicker(shapes: Ellipsoids, layer: float) -> Floats:
    """Shape matrices with every semi-axis longer by a layer in cm."""
    length = 1 / np.linalg.norm(shapes.shape, axis=-1, keepdims=True)
    return np.asarray(shapes.shape * length / (length + layer))


def _heart(patient: Patient, pose: Pose) -> dict[str, Ellipsoids]:
    rng = patient.stream(1)
    up, wide, tilt = 0.45 * _descent(pose), 1 + 0.03 * _descent(pose), rng.uniform(-46, -28)
    scale, point = patient.heart * np.array([wide, 1.0, 1.0]), np.array([0.3, -3.0 + up, 2.5])
    knob = rng.uniform(0.85, 1.1) + 0.004 * (patient.age - 50)
    return {
        "left": ellipsoid([2.7, -5.5 + up, 2.8], [5.9, 4.6, 5.8], tilt=tilt).scaled(scale, point),
        "right": ellipsoid([-1.2, -6.6 + up, 4.2], [3.4, 5.0, 5.0]).scaled(scale, point),
        "trunk": ellipsoid([2.0, 1.2 + up / 2, 1.8], [2.0, 3.0, 2.3], tilt=12),
        "knob": ellipsoid([1.9, 5.4, -1.2], np.array([2.05, 1.9, 3.4]) * knob),
        "aorta": ellipsoid([1.9, -5.0, -4.6], np.array([1.5, 13, 1.5]) * knob),
        "cava": ellipsoid([-1.7, 4.5, 0.6], [1.2, 8.0, 1.4]),
        "middle": ellipsoid([0, 5.0, -0.6], [2.1, 17.0, 4.6]),
        "spine": ellipsoid([0, 0, -7.2], [2.5, 40, 3.0]),
    }


def _lung(patient: Patient, pose: Pose, side: int, heart: dict[str, Ellipsoids]) -> Lung:
    rng = patient.stream(2 if side < 0 else 3)
    up = _descent(pose) + rng.uniform(-0.5, 0.5) - (0.0 if side < 0 else 1.3)
    dome = ellipsoid([side * 6.4, -19.6 + up, 1.8], [7.6, 10.6, 11.5], tilt=-side * 5)
    cavity = ellipsoid([side * 6.9, -6.0, -0.6], [6.1, 19.3, 8.7], tilt=side * 6.5)
    names = ["left", "right", "middle", "spine", "trunk"]
    names += ["cava"] if side < 0 else ["knob", "aorta"]
    hilum = np.array([side * 3.4, 0.6 + 0.3 * up + (0.0 if side < 0 else 0.9), -0.6])
    lung = Lung(cavity, join([dome, *(heart[name] for name in names)]), hilum, join([]))
    return replace(lung, content=_vessels(patient, lung, side))


@cache
def _airway() -> Ellipsoids:
    pipe = np.array([[0, 20, 0.5], [0, 14, 0.0], [0.1, 9, -1.2], [0.3, 4.2, -2.0]])
    parts = [tube(pipe, 0.85, -0.75 * SOFT)]
    parts += [tube(np.array([[0.3, 4.4, -2.0], [s * 2.2 + 0.2, 2.2, -1.8]]), 0.6, -0.6 * SOFT) for s in SIDES]
    return join(parts)


def _gas(patient: Patient, pose: Pose) -> Ellipsoids:
    rng = patient.stream(6)
    up = _descent(pose)
    bowel = rng.uniform([-9, -26, 1], [10, -17, 6], (rng.integers(0, 9), 3)) + [0, up, 0]
    parts = [ellipsoid(bowel, rng.uniform(0.7, 2.0, (len(bowel), 3)), -0.75 * SOFT)] if len(bowel) else []
    if rng.random() < 0.7:
        size = rng.uniform(0.6, 1.1)
        parts.append(ellipsoid([5.6, -12.9 + up, 2.0], np.array([3.2, 1.5, 3.0]) * size, -0.85 * SOFT))
    return join(parts)


def _vessels(patient: Patient, lung: Lung, side: int) -> Ellipsoids:
    """Two trees of tapering tubes that grow from the hilum, cut where they would leave the lung."""
    rng = patient.stream(8 + side)
    ways = np.array(
        [[0.5, 1, 0.1], [0.9, 0.35, 0.5], [0.8, 0.2, -0.6], [0.9, -0.5, 0.3], [0.6, -1, -0.5], [0.35, -1, 0.2]]
    )
    ways = ways * [side, 1, 1] + rng.normal(0, 0.15, ways.shape)
    tips, radius = np.repeat(lung.hilum[None], len(ways), 0), rng.uniform(0.48, 0.62)
    parts = [ellipsoid(lung.hilum, rng.uniform([1.0, 1.5, 1.0], [1.5, 2.4, 1.5]), 0.6 * (SOFT - LUNG), kind="soft")]
    nodes = []
    for length in (3.0, 2.6, 2.3, 2.1, 1.9):
        ways /= np.sqrt((ways * ways).sum(1, keepdims=True))
        reach = tips + ways * (length * rng.uniform(0.7, 1.2, (len(ways), 1)))
        inside = np.flatnonzero(lung.aerated(reach, within=0.97, beyond=1.0))
        bend = (tips + reach) / 2 + rng.normal(0, 0.12 * length, tips.shape)
        nodes.append(np.array([tips, bend, reach])[:, inside])
        tips = nodes[-1][2].repeat(2, 0)
        ways = ways[inside].repeat(2, 0) + rng.normal(0, 0.5, tips.shape)
    thick = np.repeat(radius * 0.66 ** np.arange(len(nodes)), [part.shape[1] for part in nodes])
    parts.append(tube(np.concatenate(nodes, 1).swapaxes(0, 1), thick[:, None] * [1.0, 0.85], SOFT - LUNG))
    haze = rng.uniform(-1, 1, (90, 3))
    haze = haze[(haze**2).sum(1) < 0.8]
    parts.append(
        ellipsoid(lung.place(haze), rng.uniform(1.0, 2.5, (len(haze), 1)), rng.normal(0, 0.012, len(haze)), kind="soft")
    )
    return join(parts)
