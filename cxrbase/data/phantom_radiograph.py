"""Take a radiograph of a phantom patient: projection, detector, and the processing of the site."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cxrbase.data.anatomy import Chest, layout, settle
from cxrbase.data.patient import FAT, LUNG, SOFT, Patient, Pose
from cxrbase.data.phantom_exposure import SITES, VIEWS, Exposure, draw_exposure
from cxrbase.data.phantom_findings import add_findings
from cxrbase.data.phantom_projection import Geometry, intervals, left_over, line_integral, outline
from cxrbase.data.phantom_shapes import Ellipsoids, Floats, join

__all__ = [
    "SITES",
    "VIEWS",
    "Exposure",
    "Radiograph",
    "attenuation",
    "build_chest",
    "detect",
    "develop",
    "draw_exposure",
    "render",
    "smooth",
    "without",
]

Box = tuple[float, float, float, float]
_GLYPHS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}


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
        # A ray that misses the cavity has nothing to gain from what is in it.
        piece, place = geometry.part(outline(lung.cavity, geometry)[0])
        low, high = intervals(lung.cavity, piece)
        starts, ends = intervals(lung.solids, piece)
        aerated, inside = (low[0], high[0]), left_over(low[0], high[0], starts, ends)
        if lung.level is not None:
            aerated = _overlap(aerated, intervals(lung.level, piece))
            dry = left_over(*aerated, starts, ends)
            regions.setdefault("effusion", np.zeros(path.shape))[place] += inside - dry
            inside = dry
        if lung.collapsed is not None:
            edge = lung.collapsed.scaled(0.975, lung.collapsed.centre[0])
            lung_inside, core = (
                left_over(*_overlap(aerated, intervals(shape, piece)), starts, ends) for shape in (lung.collapsed, edge)
            )
            path[place] += 0.5 * (SOFT - LUNG) * (lung_inside - core) - LUNG * (inside - lung_inside)
            regions.setdefault("pneumothorax", np.zeros(path.shape))[place] = inside - lung_inside
        path[place] -= (SOFT - LUNG) * inside
    path += line_integral(join([chest.details, *(lung.content for lung in chest.lungs)]), geometry)
    boxes = {name: _region_box(depth) for name, depth in regions.items() if depth.max() > 0.3}
    boxes |= {name: _shadow_box(outline(shapes, geometry), geometry) for name, shapes in chest.marks.items()}
    return np.maximum(path, 0), boxes


def _hull(shapes: Ellipsoids, geometry: Geometry) -> Floats:
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
        fall = np.exp(-0.5 * (np.arange(size) / max(sigma, 1e-3)) ** 2)
        weight = fall[np.abs(np.subtract.outer(np.arange(size), np.arange(size)))]
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
    picture = (
        signal - rng.uniform(*site.flatten) * broad + rng.uniform(*site.detail) * (signal - smooth(signal, per_cm))
    )
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
