"""The embedded data set: simulated radiographs of random patients, with known findings, in the formats of real ones."""

import json
import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cxrbase.cores import available_cores
from cxrbase.data.manifest import Manifest
from cxrbase.data.manifest_columns import LABEL_PREFIX
from cxrbase.data.patient import draw_patient
from cxrbase.data.phantom_exposure import SITES, VIEWS, Exposure, draw_exposure
from cxrbase.data.phantom_files import write_image
from cxrbase.data.phantom_findings import FINDINGS, PREVALENCE
from cxrbase.data.phantom_radiograph import Radiograph, render
from cxrbase.errors import ConfigError

# Raised whenever the same seed gives other images, so that old folders are not taken for new ones.
MODEL = 2
VAL, TEST = 0.15, 0.25
# Each site delivers what its archive holds; sites do not depend on findings, so neither do formats.
FORMATS = {"harbour": "jpeg", "hill": "png16", "market": "monochrome2", "river": "monochrome1"}

logger = logging.getLogger(__name__)
Row = dict[str, Any]


def make_phantom(
    root: str | Path, *, patients: int = 1200, image_size: int = 128, seed: int = 0, workers: int | None = None
) -> Path:
    """Makes the data set in a folder, unless it is there already.

    Images are 8-bit JPEG, 16-bit PNG and 12-bit DICOM (MONOCHROME1 and MONOCHROME2). The manifest has view position,
    sex, age, site, rotation in degrees, `label_<finding>`, and `box_<finding>` as "x y width height" in pixels.
    Patients, not images, are dealt to the splits. The same arguments give the same pixels, with any number of workers.

    Args:
        root: Folder to write to.
        patients: Number of patients, at least 1; each has one to four images.
        image_size: Long side of the images in pixels, at least 32.
        seed: Seed of the patients.
        workers: Processes; None takes every core.

    Returns:
        Path of the manifest.

    Raises:
        ConfigError: The folder holds something else.
    """
    if patients < 1 or image_size < 32:
        raise ConfigError(f"patients must be at least 1 and image_size at least 32, got {patients} and {image_size}")
    root = Path(root)
    spec = {"model": MODEL, "patients": patients, "image_size": image_size, "seed": seed}
    manifest = root / "manifest.parquet"
    if _holds(root, spec) and manifest.is_file():
        return manifest
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / ".unfinished").touch()
    jobs = [(root, seed, number, image_size) for number in range(patients)]
    rows = [row for of_patient in _run(jobs, workers or available_cores()) for row in of_patient]
    columns = {name: [row.get(name, "") for row in rows] for name in _names()}
    Manifest.from_columns(columns, root=root).with_splits(val=VAL, test=TEST, seed=seed).write(manifest)
    (root / "phantom.json").write_text(json.dumps(spec, indent=2) + "\n")
    (root / ".unfinished").unlink()
    return manifest


def _holds(root: Path, spec: dict[str, int]) -> bool:
    """Whether the folder holds this data set; raises where it holds anything else that is not an interrupted try."""
    record = root / "phantom.json"
    if record.is_file():
        try:
            found = json.loads(record.read_text())
        except ValueError:
            found = "a damaged phantom.json"
        if found == spec:
            return True
        raise ConfigError(f"{root} holds {found} and not {spec}: remove it, or name another folder as root")
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root} is not a folder: name a new folder as root")
    if root.is_dir() and any(root.iterdir()) and not (root / ".unfinished").exists():
        raise ConfigError(f"{root} is not empty and holds no phantom: name a new folder as root")
    return False


def _names() -> list[str]:
    fixed = ["path", "patient_id", "study_id", "source", "view_position", "sex", "age", "site", "rotation"]
    return fixed + [LABEL_PREFIX + name for name in FINDINGS] + ["box_" + name for name in FINDINGS]


def _run(jobs: list[tuple[Path, int, int, int]], workers: int) -> list[list[Row]]:
    """Rows of each patient in order; progress counts patients."""
    if workers == 1 or len(jobs) < 50:
        return _watched(map(_make_patient, jobs), len(jobs))
    # Spawned, because a fork of a process that runs torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    with _one_blas_thread(), ProcessPoolExecutor(workers, mp_context=context) as pool:
        return _watched(pool.map(_make_patient, jobs, chunksize=8), len(jobs))


def _watched(results: Iterable[list[Row]], total: int) -> list[list[Row]]:
    return list(tqdm(results, total=total, desc="making the phantom", unit="patient", mininterval=1.0))


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _make_patient(job: tuple[Path, int, int, int]) -> list[Row]:
    root, seed, number, image_size = job
    rng = np.random.default_rng((seed, number))
    present = {
        name: float(rng.uniform(0.15, 1)) for name, p in zip(FINDINGS, PREVALENCE, strict=True) if rng.random() < p
    }
    patient = draw_patient((seed, number), present)
    site = SITES[rng.integers(len(SITES))]
    rows = []
    for shot in range(int(rng.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1]))):
        view = str(rng.choice(list(VIEWS), p=list(VIEWS.values())))
        exposure = draw_exposure((seed, number, shot), site, view, image_size=image_size)
        picture = render(patient, exposure)
        path = write_image(
            picture.pixels, root, f"images/p{number:05}_{shot}", FORMATS[site.name], f"p{number:05}", view
        )
        rows.append(
            {"path": path, "patient_id": f"p{number:05}", "study_id": f"p{number:05}_{shot}", "source": "phantom"}
            | {"view_position": view, "sex": patient.sex, "age": patient.age, "site": site.name}
            | _truth(exposure, picture, present)
        )
    return rows


def _truth(exposure: Exposure, picture: Radiograph, present: dict[str, float]) -> Row:
    right = exposure.geometry.right
    rotation = np.degrees(np.arcsin(right[1] / np.linalg.norm(right)))
    labels = {LABEL_PREFIX + name: float(name in present) for name in FINDINGS}
    boxes = {"box_" + name: " ".join(f"{value:.1f}" for value in box) for name, box in picture.boxes.items()}
    return {"rotation": f"{rotation:.2f}"} | labels | boxes
