"""Takes a radiograph of a phantom patient: what its rays pass through, and where the image shows the findings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cxrbase.data.anatomy import Chest, Lung, layout, settle
from cxrbase.data.patient import FAT, LUNG, SOFT, Patient, Pose
from cxrbase.data.phantom_detector import detect, develop
from cxrbase.data.phantom_exposure import Exposure
from cxrbase.data.phantom_findings import add_findings
from cxrbase.data.phantom_geometry import Geometry
from cxrbase.data.phantom_intervals import hull, left_over, stretches
from cxrbase.data.phantom_projection import collected
from cxrbase.data.phantom_shadow import shadows_of
from cxrbase.data.phantom_shapes import Ellipsoids, Floats, join

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Radiograph:
    """One image with its truth.

    Args:
        pixels: Brightness in 0..1 with bone bright, shape (height, width).
        boxes: x, y, width and height in pixels of each finding that the image shows.
    """

    pixels: Floats
    boxes: dict[str, Box]


def render(patient: Patient, exposure: Exposure) -> Radiograph:
    """A processed radiograph of a patient.

    Args:
        patient: Who is examined.
        exposure: How the image is taken.
    """
    path, boxes = attenuation(build_chest(patient, exposure.pose), exposure.geometry)
    rng = np.random.default_rng((*exposure.seed, 3))
    return Radiograph(develop(detect(path, exposure, rng), exposure, rng), boxes)


def build_chest(patient: Patient, pose: Pose) -> Chest:
    """The patient in a pose, findings included, at their own size."""
    return settle(add_findings(layout(patient, pose), patient), patient)


def attenuation(chest: Chest, geometry: Geometry) -> tuple[Floats, dict[str, Box]]:
    """Line integral of attenuation along each ray, and where the findings lie.

    Args:
        chest: The patient in a pose.
        geometry: Source and detector.

    Returns:
        Attenuation without unit, shape (height, width), and a box in pixels per finding.
    """
    content = join([chest.details, *(lung.content for lung in chest.lungs)])
    parts = [chest.skin, chest.muscle, *map(_walls, chest.lungs), content, *chest.marks.values()]
    skin, muscle, right, left, within, *marks = shadows_of(parts, geometry)
    path = FAT * hull(skin, geometry) + (SOFT - FAT) * hull(muscle, geometry)
    regions: dict[str, Floats] = {}
    for lung, walls in zip(chest.lungs, (right, left), strict=True):
        # A ray that misses the cavity has nothing to gain from what is in it.
        place = walls.window(0, geometry)
        taken, depths = _air(lung, *stretches(walls, geometry, place))
        path[place] -= taken
        for name, depth in depths.items():
            regions.setdefault(name, np.zeros(path.shape, np.float32))[place] += depth
    path += collected(within, content, geometry)
    boxes = {name: _region_box(depth) for name, depth in regions.items() if depth.max() > 0.3}
    boxes |= {name: _shadow_box(mark.box, geometry) for name, mark in zip(chest.marks, marks, strict=True)}
    return np.maximum(path, 0), boxes


def _walls(lung: Lung) -> Ellipsoids:
    """What bounds the air of a lung, in the order in which `_air` takes it."""
    inner = [] if lung.level is None else [lung.level]
    if lung.collapsed is not None:
        inner += [lung.collapsed, lung.collapsed.scaled(0.975, lung.collapsed.centre[0])]
    return join([lung.cavity, lung.solids, *inner])


def _air(lung: Lung, low: Floats, high: Floats) -> tuple[Floats, dict[str, Floats]]:
    """Attenuation that a lung takes off that of soft tissue, and depths in cm of the findings that are in its shape.

    Args:
        lung: A lung.
        low: Where rays enter each of its walls, shape (N, h, w).
        high: Where they leave them.
    """
    inner = 1 + len(lung.solids)
    starts, ends, further = low[1:inner], high[1:inner], zip(low[inner:], high[inner:], strict=True)
    aerated = low[0], high[0]
    regions: dict[str, Floats] = {}
    inside = left_over(*aerated, starts, ends)
    if lung.level is not None:
        aerated = _overlap(aerated, next(further))
        dry = left_over(*aerated, starts, ends)
        regions["effusion"], inside = inside - dry, dry
    taken = (SOFT - LUNG) * inside
    if lung.collapsed is not None:
        lung_inside, core = (left_over(*_overlap(aerated, part), starts, ends) for part in further)
        regions["pneumothorax"] = inside - lung_inside
        # Its edge is denser, and what it left is filled with air.
        taken += LUNG * (inside - lung_inside) - 0.5 * (SOFT - LUNG) * (lung_inside - core)
    return taken, regions


def _overlap(first: tuple[Floats, Floats], second: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    return np.maximum(first[0], second[0]), np.minimum(first[1], second[1])


def _region_box(depth: Floats) -> Box:
    rows, columns = np.nonzero(depth > 0.3)
    x, y = columns.min(), rows.min()
    return float(x), float(y), float(columns.max() + 1 - x), float(rows.max() + 1 - y)


def _shadow_box(edges: Floats, geometry: Geometry) -> Box:
    """Box in pixels around shadows whose edges are in columns and rows, (4, N)."""
    (left, _, top, _), (_, right, _, bottom) = edges.min(1), edges.max(1)
    # The first pixel reaches from 0 to 1, and its column is 0 at its middle.
    left, right = np.clip([left + 0.5, right + 0.5], 0, geometry.width)
    top, bottom = np.clip([top + 0.5, bottom + 0.5], 0, geometry.height)
    return float(left), float(top), float(right - left), float(bottom - top)


def without(patient: Patient, finding: str) -> Patient:
    """The same patient without one finding."""
    return replace(patient, findings={name: s for name, s in patient.findings.items() if name != finding})
