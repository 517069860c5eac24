"""Draws the conditions of a radiograph at random: the site, the pose, the beam, the source and the detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrbase.data.patient import Pose
from cxrbase.data.phantom_geometry import Geometry
from cxrbase.data.phantom_shapes import Floats

VIEWS = {"PA": 0.5, "AP": 0.3, "LATERAL": 0.2}


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
    height, width = (
        (image_size, round(image_size * aspect)) if aspect <= 1 else (round(image_size / aspect), image_size)
    )
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
