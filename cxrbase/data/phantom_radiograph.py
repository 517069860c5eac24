"""Take a radiograph of a phantom patient: projection, detector, and the processing of the site."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cxrbase.data.anatomy import FAT, LUNG, SOFT, Chest, Patient, Pose, layout, settle
from cxrbase.data.phantom_findings import add_findings
from cxrbase.data.phantom_projection import Floats, Geometry, intervals, left_over, line_integral, outline

VIEWS = {"PA": 0.5, "AP": 0.3, "LATERAL": 0.2}
Box = tuple[float, float, float, float]
_GLYPHS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}


@dataclass(frozen=True)
class Site:
    """How one place takes and processes its images.

    Args:
        name: Value of the manifest's `site`.
        aspect: Width by height of the image.
        detail: Range of the gain on structures up to 1 cm.
        flatten: Range of the share of broad brightness differences that is taken out.
        equalise: Range of the share of histogram equalisation.
        gamma: Range of the exponent of the tone curve.
        blur: Width of the detector's point spread in cm.
    """

    name: str
    aspect: float
    detail: tuple[float, float]
    flatten: tuple[float, float]
    equalise: tuple[float, float]
    gamma: tuple[float, float]
    blur: float


SITES = (
    Site("harbour", 1.0, (0.2, 0.8), (0.0, 0.3), (0.0, 0.4), (0.8, 1.4), 0.16),
    Site("hill", 0.82, (0.6, 1.6), (0.2, 0.5), (0.0, 0.3), (0.7, 1.2), 0.12),
    Site("market", 0.9, (0.0, 0.4), (0.0, 0.2), (0.2, 0.8), (0.8, 1.6), 0.22),
    Site("river", 1.0, (0.3, 1.2), (0.3, 0.6), (0.1, 0.6), (0.9, 1.5), 0.18),
)


@dataclass(frozen=True)
class Exposure:
    """Everything about one image that is not the patient.

    Args:
        pose: View, breath and arms.
        site: Where it was taken.
        geometry: Source and detector.
        beam: Factor on all attenuation, from the tube voltage.
        photons: Photons that reach a pixel outside of the body.
        scatter: Scattered by primary radiation, on average over the image.
        seed: Seed of noise and processing.
    """

    pose: Pose
    site: Site
    geometry: Geometry
    beam: float
    photons: float
    scatter: float
    seed: tuple[int, ...]


def draw_exposure(seed: tuple[int, ...], site: Site, view: str, *, image_size: int) -> Exposure:
    """A random exposure.

    Args:
        seed: Seed of all that is random about the image.
        site: Where it is taken.
        view: "PA", "AP" or "LATERAL".
        image_size: Long side of the image in pixels.
    """
    rng = np.random.default_rng((*seed, 2))
    breath = rng.beta(5, 2) if view != "AP" else rng.beta(3, 3)
    pose = Pose(view, float(breath), float(rng.uniform(-1, 1)))
    return Exposure(
        pose=pose,
        site=site,
        geometry=draw_geometry(rng, view, aspect=site.aspect, image_size=image_size),
        beam=float(rng.uniform(0.8, 1.15)),
        photons=float(10 ** rng.uniform(4.3, 5.6)),
        scatter=float(rng.uniform(0.3, 0.7) + (0.3 if view == "AP" else 0.0)),
        seed=seed,
    )


def draw_geometry(rng: np.random.Generator, view: str, *, aspect: float, image_size: int) -> Geometry:
    """Source and detector around a patient who stands a little askew.

    PA has the source 1.8 m behind and the detector at the chest; AP has the source about 1 m in front and the detector
    at the back, so that the heart is enlarged; the lateral has the detector at the patient's left.
    """
    gap, turn = rng.uniform(12.0, 15.0), rng.normal(0, [3.0, 5.0 if view == "AP" else 2.5, 2.0])
    reach = {"PA": 183.0, "AP": rng.uniform(95, 125), "LATERAL": 183.0}[view] - gap
    toward = {"PA": [0, 0, 1.0], "AP": [0, 0, -1.0], "LATERAL": [1.0, 0, 0]}[view]
    right = [0, 0, -1.0] if view == "LATERAL" else [1.0, 0, 0]
    half = rng.uniform(16.5, 19.5) * (1.06 if view == "AP" else 1.0)
    height, width = (image_size, round(image_size * aspect)) if aspect <= 1 else (round(image_size / aspect), image_size)
    spin = _rotation(*np.deg2rad(turn))
    middle = np.array([0, rng.normal(-0.8, 1.0), 0]) + np.array(right) * rng.normal(0, 0.7)
    axis = np.array(toward)
    return Geometry(
        source=spin @ (middle - reach * axis + [0, rng.normal(1 if view == "AP" else 0, 2.0), 0]),
        centre=spin @ (middle + (gap + (3 if view == "LATERAL" else 0)) * axis),
        right=spin @ np.array(right) * half * width / max(width, height),
        down=spin @ np.array([0, -1.0, 0]) * half * height / max(width, height),
        height=height,
        width=width,
    )


def _rotation(pitch: float, yaw: float, roll: float) -> Floats:
    """Rotation about x, then y, then z, in radians."""
    (a, b, c), (d, e, f) = np.cos([pitch, yaw, roll]), np.sin([pitch, yaw, roll])
    about_x = np.array([[1, 0, 0], [0, a, -d], [0, d, a]])
    about_y = np.array([[b, 0, e], [0, 1, 0], [-e, 0, b]])
    about_z = np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


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
    path = FAT * _hull(chest.skin, geometry) + (SOFT - FAT) * _hull(chest.muscle, geometry)
    regions: dict[str, Floats] = {}
    for lung in chest.lungs:
        low, high = intervals(lung.cavity, geometry)
        starts, ends = intervals(lung.solids, geometry)
        aerated, inside = (low[0], high[0]), left_over(low[0], high[0], starts, ends)
        if lung.level is not None:
            aerated = _overlap(aerated, intervals(lung.level, geometry))
            dry = left_over(*aerated, starts, ends)
            regions["effusion"] = regions.get("effusion", 0.0) + inside - dry
            inside = dry
        if lung.collapsed is not None:
            edge = lung.collapsed.scaled(0.975, lung.collapsed.centre[0])
            lung_inside, core = (
                left_over(*_overlap(aerated, intervals(shape, geometry)), starts, ends)
                for shape in (lung.collapsed, edge)
            )
            path += 0.5 * (SOFT - LUNG) * (lung_inside - core) - LUNG * (inside - lung_inside)
            regions["pneumothorax"] = inside - lung_inside
        path -= (SOFT - LUNG) * inside
    path += sum(line_integral(shapes, geometry) for shapes in (chest.details, *(lung.content for lung in chest.lungs)))
    boxes = {name: _region_box(depth) for name, depth in regions.items() if depth.max() > 0.3}
    boxes |= {name: _shadow_box(outline(shapes, geometry), geometry) for name, shapes in chest.marks.items()}
    return np.maximum(path, 0), boxes


def _hull(shapes, geometry: Geometry) -> Floats:  # type: ignore[no-untyped-def]
    """Length of the stretch from the first entry to the last exit."""
    low, high = intervals(shapes, geometry)
    hit = high > low
    first, last = np.where(hit, low, np.inf).min(0), np.where(hit, high, -np.inf).max(0)
    return np.asarray(np.where(last > first, last - first, 0.0))


def _overlap(inner: tuple[Floats, Floats], other: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    return np.maximum(inner[0], other[0][0]), np.minimum(inner[1], other[1][0])


def _region_box(depth: Floats) -> Box:
    rows, columns = np.nonzero(depth > 0.3)
    x, y = columns.min(), rows.min()
    return float(x), float(y), float(columns.max() + 1 - x), float(rows.max() + 1 - y)


def _shadow_box(edges: Floats, geometry: Geometry) -> Box:
    size = np.array([geometry.width, geometry.width, geometry.height, geometry.height])
    (left, _, top, _), (_, right, _, bottom) = edges.min(0), edges.max(0)
    left, right, top, bottom = np.clip((np.array([left, right, top, bottom]) + 1) * size / 2, 0, size)
    return float(left), float(top), float(right - left), float(bottom - top)


def smooth(image: Floats, sigma: float) -> Floats:
    """Gaussian blur with a standard deviation in pixels; the image is taken as continued by what is in it."""

    def kernel(size: int) -> Floats:
        apart = np.subtract.outer(np.arange(size), np.arange(size)) / max(sigma, 1e-3)
        weight = np.exp(-0.5 * apart**2)
        return np.asarray(weight / weight.sum(1, keepdims=True))

    return np.asarray(kernel(image.shape[0]) @ image @ kernel(image.shape[1]).T)


def detect(path: Floats, exposure: Exposure, rng: np.random.Generator) -> Floats:
    """Beer-Lambert, scatter, blur, photon noise and the logarithm of the detector's answer.

    Args:
        path: Line integral of attenuation, shape (H, W).
        exposure: How the image is taken.
        rng: Random numbers for the noise.

    Returns:
        Minus the logarithm of the share of photons that arrive, shape (H, W); dense tissue is high.
    """
    per_cm = path.shape[1] / (2 * float(np.linalg.norm(exposure.geometry.right)))
    primary = np.exp(-exposure.beam * path)
    # Scatter arises in the body: the bare beam beside the patient makes little of it.
    fog = smooth(np.minimum(primary, 0.15), 4.5 * per_cm) * exposure.scatter
    arriving = smooth(primary, exposure.site.blur * per_cm) + fog
    counts = rng.poisson(exposure.photons * arriving)
    return np.asarray(-np.log((counts + 1.0) / exposure.photons))


def develop(signal: Floats, exposure: Exposure, rng: np.random.Generator) -> Floats:
    """The site's processing: local contrast, window, tone curve, collimation and marker.

    Args:
        signal: Detector signal with dense tissue high, shape (H, W).
        exposure: How the image is taken.
        rng: Random numbers for the settings.

    Returns:
        Brightness in 0..1, shape (H, W).
    """
    site, per_cm = exposure.site, signal.shape[1] / (2 * float(np.linalg.norm(exposure.geometry.right)))
    broad = smooth(signal, 3.5 * per_cm)
    picture = signal - rng.uniform(*site.flatten) * broad + rng.uniform(*site.detail) * (signal - smooth(signal, per_cm))
    inner = picture[signal > 0.35] if (signal > 0.35).mean() > 0.2 else picture
    marks = np.quantile(inner[:: max(1, inner.size // 3000)], np.linspace(0, 1, 33))
    low, high = np.interp([rng.uniform(0, 0.04), rng.uniform(0.95, 1)], np.linspace(0, 1, 33), marks)
    window = np.clip((picture - low) / max(high - low, 1e-6), 0, 1)
    share = rng.uniform(*site.equalise)
    window = (1 - share) * window + share * np.interp(picture, marks, np.linspace(0, 1, 33))
    window = window ** rng.uniform(*site.gamma)
    black, white = rng.uniform(0, 0.1), rng.uniform(0.8, 1.0)
    return _frame(black + (white - black) * window, exposure.pose.view, rng)


def _frame(picture: Floats, view: str, rng: np.random.Generator) -> Floats:
    """Collimation border and side marker."""
    height, width = picture.shape
    if rng.random() < 0.3:
        top, bottom, left, right = (rng.uniform(0, 0.06, 4) * [height, height, width, width]).astype(int)
        shut = np.ones(picture.shape, bool)
        shut[top : height - bottom, left : width - right] = False
        picture = np.where(shut, rng.choice([0.0, 0.0, 1.0]), picture)
    if rng.random() < 0.7:
        letter = "L" if view == "LATERAL" or rng.random() < 0.4 else "R"
        glyph = np.array([[int(c) for c in line] for line in _GLYPHS[letter]], bool)
        glyph = np.kron(glyph, np.ones((max(1, height // 128),) * 2, bool)).astype(bool)
        top = int(rng.uniform(0.03, 0.15) * height)
        left = int(rng.uniform(0.04, 0.1) * width)
        left = width - left - glyph.shape[1] if letter == "L" else left
        corner = picture[top : top + glyph.shape[0], left : left + glyph.shape[1]]
        corner[glyph] = np.maximum(corner[glyph], rng.uniform(0.85, 1.0))
    return picture


def without(patient: Patient, finding: str) -> Patient:
    """The same patient without one finding."""
    return replace(patient, findings={name: s for name, s in patient.findings.items() if name != finding})
