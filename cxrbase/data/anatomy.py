"""Draw a random patient and lay out the chest as ellipsoids with attenuation, for one exposure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from cxrbase.data.phantom_projection import Ellipsoids, Floats, ellipsoid, join, tube

# Attenuation per cm near 60 keV; bone is the mean of cortex and marrow.
SOFT, FAT, LUNG, BONE, METAL = 0.205, 0.18, 0.05, 0.42, 8.0
SIDES = (-1, 1)  # patient's right, left: the sign of x


@dataclass(frozen=True)
class Patient:
    """One person: what stays the same over all of their images.

    Args:
        seed: Seed of everything that is drawn for this person.
        sex: "F" or "M".
        age: Years.
        size: Stretch of the body along x, y and z.
        fat: Thickness of the fat under the skin in cm.
        heart: Stretch of the heart.
        curve: Sideways curve of the spine in cm.
        findings: Severity in (0, 1] of each finding that is present.
    """

    seed: tuple[int, ...]
    sex: str
    age: float
    size: tuple[float, float, float]
    fat: float
    heart: float
    curve: float
    findings: dict[str, float] = field(default_factory=dict)

    def stream(self, part: int) -> np.random.Generator:
        """Random numbers for one part of the body, the same for every image of the patient."""
        return np.random.default_rng((*self.seed, 7, part))


@dataclass(frozen=True)
class Pose:
    """How the patient holds still for one exposure.

    Args:
        view: "PA", "AP" or "LATERAL".
        breath: Depth of inspiration, 0 to 1.
        arms: Position of the arms and shoulder blades, -1 to 1.
    """

    view: str
    breath: float
    arms: float


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

    def place(self, unit: Floats) -> Floats:
        """Points of the unit ball, shape (P, 3), as positions in the cavity in cm."""
        return self.cavity.centre[0] + unit @ np.linalg.inv(self.cavity.shape[0]).T


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


def draw_patient(seed: tuple[int, ...], findings: dict[str, float]) -> Patient:
    """A random adult.

    Args:
        seed: Seed of everything that is drawn for this person.
        findings: Severity in (0, 1] of each finding that is present.
    """
    rng = np.random.default_rng((*seed, 1))
    sex = "F" if rng.random() < 0.48 else "M"
    build = np.array([0.93, 0.92, 0.94]) if sex == "F" else np.array([1.0, 1.0, 1.0])
    size = build * (1 + 0.04 * rng.standard_normal()) * (1 + 0.05 * rng.standard_normal(3))
    enlarged = 1.08 + 0.32 * findings["cardiomegaly"] if "cardiomegaly" in findings else rng.uniform(0.84, 1.08)
    return Patient(
        seed=seed,
        sex=sex,
        age=float(np.round(np.clip(rng.normal(56, 18), 18, 95))),
        size=(float(size[0]), float(size[1]), float(size[2])),
        fat=float(rng.gamma(2.2, 0.75)),
        heart=float(enlarged),
        curve=float(rng.normal(0, 0.5) if rng.random() < 0.85 else rng.normal(0, 1.8)),
        findings=findings,
    )


def layout(patient: Patient, pose: Pose) -> Chest:
    """The patient's chest without findings inside the lungs.

    Args:
        patient: Who is examined.
        pose: How they hold still.
    """
    heart = _heart(patient, pose)
    lungs = tuple(_lung(patient, pose, side, heart) for side in SIDES)
    skin, muscle = _body(patient, pose)
    details = [_spine(patient), _ribs(patient, pose), _shoulders(patient, pose), _airway(), _gas(patient, pose), _breasts(patient)]
    return Chest(skin, muscle, (lungs[0], lungs[1]), join(details))


def settle(chest: Chest, patient: Patient) -> Chest:
    """The chest at the patient's own size and with the curve of their spine."""
    stretch, origin = np.array(patient.size), np.zeros(3)

    def own(shapes: Ellipsoids) -> Ellipsoids:
        shift = patient.curve * np.sin((shapes.centre[:, 1] + 2) / 7) * np.exp(-((shapes.centre[:, 1] / 22) ** 2))
        moved = shapes.centre + np.array([1.0, 0, 0]) * shift[:, None]
        return Ellipsoids(moved, shapes.shape, shapes.density, shapes.kind).scaled(stretch, origin)

    def own_lung(lung: Lung) -> Lung:
        level = None if lung.level is None else own(lung.level)
        collapsed = None if lung.collapsed is None else own(lung.collapsed)
        content = own(lung.content)
        return Lung(own(lung.cavity), own(lung.solids), lung.hilum * stretch, content, level, collapsed)

    marks = {name: own(shapes) for name, shapes in chest.marks.items()}
    lungs = own_lung(chest.lungs[0]), own_lung(chest.lungs[1])
    return Chest(own(chest.skin), own(chest.muscle), lungs, own(chest.details), marks)


def _descent(pose: Pose) -> float:
    """How far the diaphragm stands above full inspiration, in cm."""
    return 3.6 * (1 - pose.breath) + (1.0 if pose.view == "AP" else 0.0)


def _body(patient: Patient, pose: Pose) -> tuple[Ellipsoids, Ellipsoids]:
    reach = 15.3 + 1.6 * pose.arms if pose.view != "LATERAL" else 13.0
    raised = 2.2 if pose.view == "LATERAL" else 0.0
    parts = [
        ellipsoid([0, -13, 0], [16.0, 33, 10.2]),
        ellipsoid([0, -22, 0.5], [15.5, 24, 10.6]),
        ellipsoid([0, 21, -1.5], [5.6, 14, 5.6]),
        ellipsoid([0, 14, -2.5], [12.5, 6.0, 5.0]),
    ]
    for side in SIDES:
        parts.append(ellipsoid([side * 12.5, 11.5 + raised, -1.5], [8.0, 5.0, 5.2], tilt=-side * 24))
        if pose.view == "LATERAL":
            parts.append(ellipsoid([side * 15, 19, 6.0], [4.6, 7, 9]))
        else:
            parts.append(ellipsoid([side * (reach + 3.0), -5, -2], [3.9, 19, 4.3], tilt=side * (6 + 4 * pose.arms)))
    muscle = join(parts)
    outer = [Ellipsoids(muscle.centre, _thicker(muscle, patient.fat), muscle.density, muscle.kind)]
    return join(outer), muscle


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
        "left": ellipsoid([2.7, -5.6 + up, 2.6], [5.9, 4.5, 4.6], tilt=tilt).scaled(scale, point),
        "right": ellipsoid([-1.2, -5.0 + up, 2.2], [3.4, 4.9, 4.2]).scaled(scale, point),
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
    dome = ellipsoid([side * 6.4, -19.6 + up, 0.6], [7.6, 10.6, 9.6], tilt=-side * 5)
    cavity = ellipsoid([side * 6.9, -6.0, -0.6], [6.1, 19.3, 8.7], tilt=side * 6.5)
    names = ["left", "right", "middle", "spine", "trunk"]
    names += ["cava"] if side < 0 else ["knob", "aorta"]
    hilum = np.array([side * 3.4, 0.6 + 0.3 * up + (0.0 if side < 0 else 0.9), -0.6])
    lung = Lung(cavity, join([dome, *(heart[name] for name in names)]), hilum, join([]))
    return replace(lung, content=_vessels(patient, lung, side))


def _spine(patient: Patient) -> Ellipsoids:
    level = np.arange(-24, 22, 2.35)
    zero = np.zeros_like(level)
    back = -6.6 - 0.9 * np.cos(level / 14)
    body = np.stack([zero, level, back], 1)
    dense = (BONE - SOFT) * (1.1 - 0.004 * max(patient.age - 50, 0))
    parts = [ellipsoid(body, [1.75, 1.05, 1.45], 0.7 * dense), tube(body, 1.25, 0.35 * dense)]
    parts += [ellipsoid(body + [side * 1.25, 0.35, -1.6], [0.42, 0.5, 0.9], dense) for side in SIDES]
    parts += [tube(np.stack([body + [s * 1.2, 0.2, -2.0], body + [s * 2.9, 0.5, -2.6]], 1), 0.4, dense) for s in SIDES]
    parts.append(ellipsoid(body + [0, -0.9, -3.6], [0.3, 0.8, 1.3], dense))
    front = np.stack([np.zeros(7), np.linspace(9.0, -5.0, 7), np.linspace(6.4, 9.3, 7)], 1)
    parts.append(tube(front, 1.4, 0.22 * dense, flat=0.5))
    return join(parts)


def _ribs(patient: Patient, pose: Pose) -> Ellipsoids:
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
    parts = []
    for side in SIDES:
        x = side * (0.6 + 12.4 * np.sin(angle) * wall**0.85 + 0.2)
        z = -0.4 - 9.1 * np.cos(angle) * wall**0.5
        nodes = np.stack([x, height, z], -1) + rng.normal(0, 0.12, (12, 1, 3))
        thick = (0.55 + 0.04 * rng.standard_normal((12, 1))) * np.interp(share[1:], [0, 0.2, 1], [0.8, 1.0, 1.05])
        parts += [tube(nodes, thick, 1.25 * (BONE - SOFT), flat=0.62), tube(nodes, thick * 0.62, -0.16, flat=0.62)]
        tips = nodes[:8, -1]
        if patient.age > 45 and rng.random() < 0.6:
            spots = tips[:, None] + rng.normal(0, 0.5, (8, 3, 3)) + np.array([-side * 1.2, 0.3, 0.4])
            parts.append(ellipsoid(spots.reshape(-1, 3), rng.uniform(0.15, 0.45, (24, 1)), 0.3))
    return join(parts)


def _shoulders(patient: Patient, pose: Pose) -> Ellipsoids:
    rng = patient.stream(5)
    # Arms forward turn the shoulder blades off the lungs for PA; for AP they lie over them.
    out = {"PA": 2.6 + 0.9 * pose.arms, "AP": -0.6 + 0.9 * pose.arms, "LATERAL": 1.5}[pose.view]
    rise, dense = (1.5 if pose.view == "AP" else 0.0) + rng.normal(0, 0.5), BONE - SOFT
    parts = []
    for side in SIDES:
        def line(points: list[list[float]], radius: float, side: int = side) -> Ellipsoids:
            return tube(_smooth(np.array(points) * [side, 1, 1]), radius, dense)

        collar = [[1.6, 9.6 + rise, 6.0], [5.5, 10.6 + rise, 5.6], [10.5, 12.0 + rise, 1.5], [15.0, 13.6, -1.5]]
        parts.append(line(collar, 0.55))
        if pose.view == "LATERAL":
            continue
        top, tip, joint = [7.2 + out, 9.5, -8.8], [8.6 + out, -2.8, -10.0], [13.2 + out / 2, 10.0, -4.5]
        parts += [line([top, [7.0 + out, 4.0, -9.6], tip], 0.32), line([tip, [11.0 + out, 5.0, -7.5], joint], 0.42)]
        parts += [line([top, [10.0 + out, 11.6, -8.0], [15.3, 13.2, -3.0]], 0.45)]
        parts.append(ellipsoid([side * (9.6 + out), 5.0, -8.6], [2.4, 6.5, 0.35], 0.55 * dense, tilt=side * 12))
        parts.append(ellipsoid([side * 16.2, 10.4, -2.0], [2.3, 2.3, 2.2], 0.8 * dense))
        elbow = 18.6 + 2.0 * pose.arms
        parts.append(line([[16.6, 9.5, -2.0], [17.4, 0.0, -2.0], [elbow, -18.0, -2.0]], 1.15))
    return join(parts)


def _smooth(nodes: Floats) -> Floats:
    """A curve of 9 nodes through the given ones."""
    share = np.linspace(0, 1, len(nodes))
    fit = np.polynomial.polynomial.polyfit(share, nodes, len(nodes) - 1)
    return np.asarray(np.polynomial.polynomial.polyval(np.linspace(0, 1, 9), fit).T)


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
    ways = np.array([[0.5, 1, 0.1], [0.9, 0.35, 0.5], [0.8, 0.2, -0.6], [0.9, -0.5, 0.3], [0.6, -1, -0.5], [0.35, -1, 0.2]])
    ways = ways * [side, 1, 1] + rng.normal(0, 0.15, ways.shape)
    tips, radius, parts = np.repeat(lung.hilum[None], len(ways), 0), rng.uniform(0.48, 0.62), []
    parts.append(ellipsoid(lung.hilum, rng.uniform([1.0, 1.5, 1.0], [1.5, 2.4, 1.5]), 0.6 * (SOFT - LUNG), kind="soft"))
    for length in (3.0, 2.6, 2.3, 2.1, 1.9):
        ways /= np.linalg.norm(ways, axis=1, keepdims=True)
        reach = tips + ways * length * rng.uniform(0.7, 1.2, (len(ways), 1))
        inside = lung.cavity.contains(reach, margin=0.97) & ~lung.solids.contains(reach, margin=1.0)
        bend = (tips + reach) / 2 + rng.normal(0, 0.12 * length, tips.shape)
        nodes = np.stack([tips, bend, reach], 1)[inside]
        parts.append(tube(nodes, radius * np.array([1.0, 0.85]), SOFT - LUNG))
        tips = np.repeat(reach[inside], 2, 0)
        ways = np.repeat(ways[inside], 2, 0) + rng.normal(0, 0.5, (2 * int(inside.sum()), 3))
        radius *= 0.66
    haze = rng.uniform(-1, 1, (90, 3))
    haze = haze[(haze**2).sum(1) < 0.8]
    parts.append(ellipsoid(lung.place(haze), rng.uniform(1.0, 2.5, (len(haze), 1)), rng.normal(0, 0.012, len(haze)), kind="soft"))
    return join(parts)
