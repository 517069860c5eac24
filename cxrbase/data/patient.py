"""Draws a random patient, and defines the poses and tissues used by exposures."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

# Attenuation per cm near 60 keV; bone is the mean of cortex and marrow.
SOFT, FAT, LUNG, BONE, METAL = 0.205, 0.18, 0.05, 0.42, 8.0
SIDES = (-1, 1)  # patient's right, left: the sign of x


@dataclass(frozen=True, eq=False)
class Patient:
    """One person: what stays the same over all of their images. Only the same object is the same person.

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
        # What np.random.default_rng does, without its questions.
        return np.random.Generator(np.random.PCG64((*self.seed, 7, part)))


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
