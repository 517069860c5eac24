"""Adds findings with known place and extent to a phantom chest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cxrbase.data.anatomy import Chest, Lung
from cxrbase.data.patient import LUNG, METAL, SIDES, SOFT, Patient
from cxrbase.data.phantom_shapes import Ellipsoids, Floats, ellipsoid, join, tube

FINDINGS = (
    "pneumonia",
    "covid19",
    "tuberculosis",
    "effusion",
    "cardiomegaly",
    "nodule",
    "pneumothorax",
    "foreign_object",
)
PREVALENCE = (0.2, 0.18, 0.18, 0.22, 0.22, 0.22, 0.18, 0.2)
# Middle of each lobe in the unit ball of the pleural cavity, x away from the midline.
_LOBES = np.array([[0.1, 0.45, 0.1], [0.05, -0.05, 0.45], [0.15, -0.05, -0.45]])
_SOFT_CHORD = 16 / 15


def add_findings(chest: Chest, patient: Patient) -> Chest:
    """The chest with the patient's findings; cardiomegaly is already in the size of the heart.

    Args:
        chest: A chest before it is brought to the patient's size.
        patient: Whose findings are added, the same for each of their images.
    """
    lungs, marks, details = list(chest.lungs), {}, chest.details
    for number, name in enumerate(FINDINGS):
        if name not in patient.findings:
            continue
        rng, severity = patient.stream(20 + number), patient.findings[name]
        if name in _IN_LUNG:
            parts = _IN_LUNG[name](rng, severity, (lungs[0], lungs[1]))
            lungs = [replace(lung, content=join([lung.content, new])) for lung, new in zip(lungs, parts, strict=True)]
            marks[name] = join(parts)
        elif name == "foreign_object":
            marks[name] = _foreign_object(rng)
            details = join([details, marks[name]])
        elif name == "cardiomegaly":
            marks[name] = lungs[0].solids[1:3]
        elif name == "effusion":
            for i in _sides(rng, both=0.3):
                lungs[i] = replace(lungs[i], level=_level(lungs[i], severity * rng.uniform(0.7, 1.0)))
        else:
            for i in _sides(rng, both=0.0):
                lungs[i] = _collapse(lungs[i], severity)
    return Chest(chest.skin, chest.muscle, (lungs[0], lungs[1]), details, marks)


def _sides(rng: np.random.Generator, *, both: float) -> list[int]:
    return [0, 1] if rng.random() < both else [int(rng.integers(2))]


def _free(points: Floats, lung: Lung) -> Floats:
    """The points that lie in the aerated part of a lung."""
    return points[lung.aerated(points, within=0.98, beyond=1.02)]


def _patch(rng: np.random.Generator, lung: Lung, centre: Floats, *, spread: Floats, radius: float, dose: float,
           grain: int) -> Ellipsoids:  # fmt: skip
    """A blurred opacity with patchy texture.

    Args:
        rng: Random numbers.
        lung: The lung that it lies in.
        centre: Its middle in cm, shape (3,).
        spread: Standard deviation of its grains in cm, shape (3,).
        radius: Radius of a grain in cm.
        dose: Attenuation that a ray through the middle collects.
        grain: Number of grains.
    """
    points = _free(centre + rng.normal(0, 1, (grain, 3)) * spread, lung)
    size = radius * rng.uniform(0.5, 1.3, len(points))
    # How many grains a ray through the middle meets, from the shadow of one against that of the whole.
    crowd = max(1.0, 0.35 * grain * radius**2 / (spread[0] * spread[1] + radius**2))
    density = dose * rng.gamma(2.0, 0.5, len(points)) / (crowd * _SOFT_CHORD * size)
    return ellipsoid(points, size[:, None] * rng.uniform(0.8, 1.25, (len(points), 3)), density, kind="soft")


def _pneumonia(rng: np.random.Generator, severity: float, lungs: tuple[Lung, Lung]) -> list[Ellipsoids]:
    parts = [join([]), join([])]
    i = int(rng.integers(2))
    lobe = _LOBES[rng.integers(3)] + rng.normal(0, 0.06, 3)
    centre = lungs[i].place(lobe[None] * [SIDES[i], 1, 1])[0]
    spread = rng.uniform([1.8, 1.7, 1.8], [2.9, 3.1, 3.1]) * (0.75 + 0.4 * severity)
    # Consolidated lung is as dense as soft tissue: 0.16 per cm more than air-filled, over 3 to 7 cm.
    dose = 0.45 + 0.6 * severity
    parts[i] = join([
        _patch(rng, lungs[i], centre, spread=spread, radius=2.8, dose=1.6 * dose, grain=60),
        _patch(rng, lungs[i], centre, spread=spread, radius=0.9, dose=0.4 * dose, grain=70),
    ])  # fmt: skip
    return parts


def _covid19(rng: np.random.Generator, severity: float, lungs: tuple[Lung, Lung]) -> list[Ellipsoids]:
    parts = []
    for side, lung in zip(SIDES, lungs, strict=True):
        patches = []
        for _ in range(int(rng.integers(2, 5 + round(2 * severity)))):
            angle, height = rng.uniform(-1.1, 1.1), rng.uniform(-0.08, 0.55)
            edge = 0.84 * np.sqrt(1 - height**2)
            unit = np.array([[side * edge * np.cos(angle), height, edge * np.sin(angle)]])
            spread = rng.uniform([0.8, 1.3, 1.3], [1.4, 2.6, 2.6])
            # Ground glass is about 300 HU denser than normal lung: 0.06 per cm, over 4 to 9 cm.
            dose = (0.25 + 0.35 * severity) * rng.uniform(0.6, 1.2)
            patches.append(
                _patch(rng, lung, lung.place(unit)[0], spread=spread, radius=1.9, dose=0.95 * dose, grain=24)
            )
        parts.append(join(patches))
    return parts


def _tuberculosis(rng: np.random.Generator, severity: float, lungs: tuple[Lung, Lung]) -> list[Ellipsoids]:
    parts = [join([]), join([])]
    for i in _sides(rng, both=0.3):
        lung = lungs[i]
        unit = np.array([[SIDES[i] * rng.uniform(-0.1, 0.25), rng.uniform(0.68, 0.8), rng.uniform(-0.3, 0.1)]])
        centre, dose = lung.place(unit)[0], 0.3 + 0.5 * severity
        new = [
            _patch(rng, lung, centre, spread=np.array([1.3, 1.5, 1.3]), radius=1.2, dose=0.6 * dose, grain=20),
            _patch(rng, lung, centre - [0, 0.8, 0], spread=np.array([1.6, 2.2, 1.6]), radius=0.4, dose=dose, grain=30),
        ]
        strands = centre + rng.normal(0, 1.0, (4, 3))
        new.append(tube(np.stack([strands, (strands + lung.hilum) / 2 + rng.normal(0, 0.5, (4, 3))], 1), 0.16, 0.1))
        if rng.random() < 0.55:
            outer, wall = rng.uniform(0.9, 1.7), rng.uniform(0.25, 0.4)
            new.append(ellipsoid(centre, outer, 0.9 * (SOFT - LUNG)))
            new.append(ellipsoid(centre, outer - wall, -0.9 * (SOFT - LUNG) - LUNG))
        parts[i] = join(new)
    return parts


def _nodule(rng: np.random.Generator, severity: float, lungs: tuple[Lung, Lung]) -> list[Ellipsoids]:
    parts: list[list[Ellipsoids]] = [[], []]
    left = int(rng.integers(1, 4))
    while left:
        i = int(rng.integers(2))
        unit = rng.uniform(-0.85, 0.85, (1, 3))
        points = _free(lungs[i].place(unit), lungs[i]) if (unit**2).sum() < 0.72 else unit[:0]
        if not len(points):
            continue
        # Up to 3 cm across is a nodule; more is a mass.
        radius = (0.65 + 0.75 * severity) * rng.uniform(0.9, 1.07)
        density = (SOFT - LUNG) * rng.uniform(1.0, 1.6)
        parts[i].append(ellipsoid(points, radius * rng.uniform(0.9, 1.1, 3), density))
        left -= 1
    return [join(parts[0]), join(parts[1])]


_IN_LUNG = {"pneumonia": _pneumonia, "covid19": _covid19, "tuberculosis": _tuberculosis, "nodule": _nodule}


def _level(lung: Lung, severity: float) -> Ellipsoids:
    """The ellipsoid above the fluid: its lower face is the meniscus, which climbs towards the chest wall."""
    dome = lung.solids[:1]
    side = np.sign(dome.centre[0, 0])
    level = dome.centre[0, 1] + 10.6 - 6.2 + 9.0 * severity
    return ellipsoid([side * 5.3, level + 16, 0.8], [8.9, 16, 10.4])


def _collapse(lung: Lung, severity: float) -> Lung:
    """The lung, with all that is in it, drawn back towards its root."""
    factor = np.array([0.93 - 0.24 * severity, 0.95 - 0.2 * severity, 0.98 - 0.15 * severity])
    about = lung.hilum + np.array([0, -3.0, 0])
    return replace(lung, collapsed=lung.cavity.scaled(factor, about), content=lung.content.scaled(factor, about))


def _foreign_object(rng: np.random.Generator) -> Ellipsoids:
    kind = rng.choice(["buttons", "necklace", "coin", "pacemaker"])
    if kind == "buttons":
        count = int(rng.integers(3, 7))
        row = np.stack([np.full(count, rng.normal(0, 1.0)), np.linspace(7, -12, count), np.full(count, 11.0)], 1)
        return ellipsoid(row + rng.normal(0, 0.25, row.shape), [0.6, 0.6, 0.15], rng.uniform(1.0, 4.0))
    if kind == "necklace":
        x = np.linspace(-5.5, 5.5, 29)
        fall = rng.uniform(3, 8)
        line = np.stack([x, 12 - fall * (1 - (x / 5.5) ** 2), 7 + 2 * (1 - (x / 5.5) ** 2)], 1)
        charm = ellipsoid([0, 12 - fall - 0.8, 9.2], [0.5, 0.8, 0.12], METAL)
        return join([tube(line, 0.14, 0.6 * METAL), charm])
    if kind == "coin":
        place = rng.uniform([-9, -9, 10.5], [9, 8, 11])
        return ellipsoid(place, [1.15, 1.15, 0.12], METAL)
    side = rng.choice([1, 1, -1])
    box = np.array([side * 8.5, 7.0, 9.5]) + rng.normal(0, 0.5, 3)
    lead = np.array([box, [side * 6, 9.5, 7], [side * 1.5, 7.5, 2.5], [-1.6, 3, 1.5], [-1.5, -4, 3], [3.5, -7.5, 5.5]])
    curve = np.stack([np.interp(np.linspace(0, 5, 31), np.arange(6), lead[:, axis]) for axis in range(3)], 1)
    generator = [ellipsoid(box, [2.2, 2.5, 0.4], 0.45 * METAL), ellipsoid(box + [0, 1.6, 0], [1.2, 0.8, 0.3], 2.0)]
    return join([*generator, tube(curve, 0.16, 0.5 * METAL)])
