"""Builds the spine, ribs and shoulders of a phantom patient from ellipsoids and tubes."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

from cxrbase.data.patient import BONE, SIDES, SOFT, Patient, Pose
from cxrbase.data.phantom_shapes import Ellipsoids, Floats, ellipsoid, join, tube


@lru_cache(maxsize=1)
def spine(patient: Patient) -> Ellipsoids:
    """Vertebrae with their processes, and the breastbone."""
    level = np.arange(-24, 22, 2.35)
    zero = np.zeros_like(level)
    # The thoracic spine bends outwards, the cervical spine comes forward.
    back = -7.5 + 3.4 * np.clip((level - 4) / 17, 0, 1) ** 1.5 + 0.9 * (level / 24) ** 2 * (level < 0)
    body = np.stack([zero, level, back], 1)
    dense = (BONE - SOFT) * (1.1 - 0.004 * max(patient.age - 50, 0))
    parts = [ellipsoid(body, [1.75, 1.05, 1.45], 0.7 * dense), tube(body, 1.25, 0.35 * dense)]
    parts += [ellipsoid(body + [side * 1.25, 0.35, -1.6], [0.42, 0.5, 0.9], dense) for side in SIDES]
    wings = [np.stack([body + [s * 1.2, 0.2, -2.0], body + [s * 2.9, 0.5, -2.6]], 1) for s in SIDES]
    parts.append(tube(np.concatenate(wings), 0.4, dense))
    parts.append(ellipsoid(body + [0, -0.9, -3.2], [0.3, 0.8, 1.2], dense))
    front = np.stack([np.zeros(7), np.linspace(9.0, -5.0, 7), np.linspace(6.4, 9.3, 7)], 1)
    parts.append(tube(front, 1.4, 0.22 * dense, flat=0.5))
    return join(parts)


def ribs(patient: Patient, pose: Pose) -> Ellipsoids:
    """Twelve pairs of ribs, with calcified cartilage in some of the older patients."""
    rng = patient.stream(4)
    number = np.arange(12)
    start = 12.9 - 2.28 * number + 0.25 * pose.breath
    drop = np.interp(number, [0, 2, 6, 9, 11], [3.2, 6.4, 10.5, 11.5, 8.0]) + rng.normal(0, 0.5)
    end = np.interp(number, [0, 6, 7, 9, 10, 11], [138, 142, 132, 112, 88, 70])
    share = np.linspace(0, 1, 15)
    angle = np.deg2rad(12 + (end[:, None] - 12) * share)
    # Slow at first and then steeper: the back of a rib runs nearly level, the front comes down.
    height = start[:, None] + 0.5 * np.sin(np.minimum(angle, 1.6) * 2) - drop[:, None] * (angle / 2.4) ** 1.35
    wall = np.sqrt(np.clip(1 - ((height + 6.5) / 20.3) ** 2, 0.02, 1))
    parts, bones = [], []
    for side in SIDES:
        x = side * (0.6 + 12.4 * np.sin(angle) * wall**0.85 + 0.2)
        z = -0.4 - 9.1 * np.cos(angle) * wall**0.5
        nodes = np.stack([x, height, z], -1) + rng.normal(0, 0.12, (12, 1, 3))
        thick = (0.55 + 0.04 * rng.standard_normal((12, 1))) * np.interp(share[1:], [0, 0.2, 1], [0.8, 1.0, 1.05])
        bones.append((nodes, thick, np.full((12, 1), 1.25 * (BONE - SOFT))))
        bones.append((nodes, thick * 0.62, np.full((12, 1), -0.16)))
        tips = nodes[:8, -1]
        if patient.age > 45 and rng.random() < 0.6:
            spots = tips[:, None] + rng.normal(0, 0.5, (8, 3, 3)) + np.array([-side * 1.2, 0.3, 0.4])
            parts.append(ellipsoid(spots.reshape(-1, 3), rng.uniform(0.15, 0.45, (24, 1)), 0.3))
    nodes, thick, dense = (np.concatenate(values) for values in zip(*bones, strict=True))
    return join([*parts, tube(nodes, thick, dense, flat=0.62)])


def shoulders(patient: Patient, pose: Pose) -> Ellipsoids:
    """Collar bones, and unless the arms are raised for a lateral, shoulder blades and upper arms."""
    rng = patient.stream(5)
    # Arms forward turn the shoulder blades off the lungs for PA; for AP they lie over them.
    out = {"PA": 2.6 + 0.9 * pose.arms, "AP": -0.6 + 0.9 * pose.arms, "LATERAL": 1.5}[pose.view]
    rise, dense = (1.5 if pose.view == "AP" else 0.0) + rng.normal(0, 0.5), BONE - SOFT
    parts: list[Ellipsoids] = []
    lines: list[tuple[Floats, float]] = []
    for side in SIDES:

        def line(points: list[list[float]], radius: float, side: int = side) -> None:
            lines.append((_smooth(np.array(points) * [side, 1, 1]), radius))

        collar = [[1.6, 9.6 + rise, 6.0], [5.5, 10.6 + rise, 5.6], [10.5, 12.0 + rise, 1.5], [15.0, 13.6, -1.5]]
        line(collar, 0.55)
        if pose.view == "LATERAL":
            continue
        top, tip, joint = [7.2 + out, 9.5, -8.8], [8.6 + out, -2.8, -10.0], [13.2 + out / 2, 10.0, -4.5]
        line([top, [7.0 + out, 4.0, -9.6], tip], 0.32)
        line([tip, [11.0 + out, 5.0, -7.5], joint], 0.42)
        line([top, [10.0 + out, 11.6, -8.0], [15.3, 13.2, -3.0]], 0.45)
        parts.append(ellipsoid([side * (9.6 + out), 5.0, -8.6], [2.4, 6.5, 0.35], 0.55 * dense, tilt=side * 12))
        parts.append(ellipsoid([side * 16.2, 10.4, -2.0], [2.3, 2.3, 2.2], 0.8 * dense))
        elbow = 18.6 + 2.0 * pose.arms
        line([[16.6, 9.5, -2.0], [17.4, 0.0, -2.0], [elbow, -18.0, -2.0]], 1.15)
    curves, radius = np.stack([curve for curve, _ in lines]), np.array([[radius] for _, radius in lines])
    return join([*parts, tube(curves, radius, dense)])


def _smooth(nodes: Floats) -> Floats:
    """A curve of 9 nodes through the given ones."""
    return np.asarray(_interpolation(len(nodes)) @ nodes)


@cache
def _interpolation(count: int) -> Floats:
    """Matrix from evenly spaced values to the polynomial through them at 9 places."""
    powers = np.arange(count)
    given, wanted = np.linspace(0, 1, count)[:, None] ** powers, np.linspace(0, 1, 9)[:, None] ** powers
    return np.asarray(wanted @ np.linalg.inv(given))
