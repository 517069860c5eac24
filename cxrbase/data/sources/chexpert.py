"""CheXpert v1.0: JPEG images of Stanford patients, small and full release."""

import re
from functools import partial
from pathlib import Path

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import CHEXPERT_FINDINGS, coded, sexes, years
from cxrbase.data.sources.tables import find_table, read_csv
from cxrbase.errors import ManifestError

COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_FINDINGS)
TABLES = {"train": "train.csv", "val": "valid.csv"}
SMALL = "CheXpert-v1.0-small"
FIRST_BATCH = "CheXpert-v1.0 batch 1 (validate & csv)"


def _read(root: Path, *, folder: str) -> Columns:
    table: dict[str, list[str]] = {name: [] for name in (*COLUMNS, "split")}
    for split, name in TABLES.items():
        path = find_table(root, name, f"{folder}/{name}")
        rows = read_csv(path, columns=COLUMNS)
        for column in COLUMNS:
            table[column] += rows[column]
        table["split"] += [split] * len(rows["Path"])
    found = [_parts(path) for path in table["Path"]]
    frontal = table["Frontal/Lateral"]
    return {
        "path": _places(root, [path for path, _, _ in found], folder),
        "patient_id": [f"chexpert:{patient}" for _, patient, _ in found],
        "study_id": [f"chexpert:{patient}/{study}" for _, patient, study in found],
        "split": table["split"],
        "sex": sexes(table["Sex"]),
        "age": years(table["Age"]),
        "view_position": [_view(*views) for views in zip(frontal, table["AP/PA"], strict=True)],
        "view_official": [" ".join(views).strip() for views in zip(frontal, table["AP/PA"], strict=True)],
        **coded(table, CHEXPERT_FINDINGS),
    }


def _parts(path: str) -> tuple[str, str, str]:
    """Path without the name of the release, patient and study."""
    found = re.fullmatch(r"(?:CheXpert-v1\.0[^/]*/)?((?:train|valid)/(patient[0-9]+)/(study[0-9]+)/[^/]+)", path)
    if not found:
        wanted = "like CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg"
        raise ManifestError(f"column Path must be {wanted}, got {path!r}: download the table again")
    return found[1], found[2], found[3]


def _view(side: str, view: str) -> str:
    """A frontal image with LL or RL (17 images) has no certain view."""
    return "LATERAL" if side == "Lateral" else view if view in ("PA", "AP") else ""


def _places(root: Path, paths: list[str], folder: str) -> list[str]:
    """Where the images lie: beside the tables, below the folder of the release, or dealt to batches."""
    for base in ("", folder, "CheXpert-v1.0"):
        if (root / base / "train").is_dir():
            return [f"{base}/{path}".lstrip("/") for path in paths]
    batches = sorted(path for path in root.glob("CheXpert-v1.0 batch * (train *)") if path.is_dir())
    homes = {patient.name: batch.name for batch in batches for patient in batch.glob("patient*")}
    places = []
    for path in paths:
        split, patient, rest = path.split("/", 2)
        inside = f"{homes.get(patient, 'CheXpert-v1.0 batch 2 (train 1)')}/{patient}/{rest}"
        places.append(inside if split == "train" else f"{FIRST_BATCH}/{path}")
    return places


_LAYOUT = ("train/patient<number>/study<number>/view<number>_<frontal or lateral>.jpg", "valid/... alike")
_NOTES = (
    "patient ids begin with chexpert: in both releases, because the patients are the same: use one of the two",
    "-1 (uncertain) and blank (not mentioned) are NaN and kept in code_<finding>",
    "valid.csv is the split val (234 images, unverified); the official test set is not read",
    "frontal images marked LL (16) or RL (1) have a blank view_position",
    "the number of images is that of train.csv; those of valid.csv come on top",
    "images are histogram-equalised (unverified); CheXpert-Plus holds the same images (unverified)",
)

SOURCES = (
    Source(
        name="chexpert-small",
        title="CheXpert v1.0 small",
        access="Stanford AIMI, registration, research use",
        licence="not stated",
        layout=(*_LAYOUT, f"train.csv and valid.csv; all of it may lie in {SMALL}/"),
        images=223_414,
        patients=64_540,
        reader=partial(_read, folder=SMALL),
        notes=_NOTES,
    ),
    Source(
        name="chexpert",
        title="CheXpert v1.0",
        access="Stanford AIMI, registration, research use",
        licence="not stated",
        layout=(
            "CheXpert-v1.0 batch <number> (train <number>)/patient<number>/study<number>/view<number>_<side>.jpg",
            f"{FIRST_BATCH}/ with valid/, train.csv and valid.csv",
            "or, put together, train/, valid/, train.csv and valid.csv in one folder",
        ),
        images=223_414,
        patients=64_540,
        reader=partial(_read, folder=FIRST_BATCH),
        notes=_NOTES,
    ),
)
