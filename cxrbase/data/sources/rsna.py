"""RSNA Pneumonia Detection Challenge 2018, stage 2: DICOM images that are a subset of NIH ChestX-ray14."""

import json
from pathlib import Path

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import UNKNOWN, uncertain
from cxrbase.data.sources.nih import nih_patient
from cxrbase.data.sources.tables import files_below, find_table, read_csv
from cxrbase.errors import ManifestError

LABELS = "stage_2_train_labels.csv"
CLASSES = "stage_2_detailed_class_info.csv"
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
TRAIN, TEST = "stage_2_train_images", "stage_2_test_images"


def _read(root: Path) -> Columns:
    table = read_csv(find_table(root, LABELS), columns=["patientId", "x", "y", "width", "height", "Target"])
    targets: dict[str, float] = {}
    boxes: dict[str, list[str]] = {}
    shapes = zip(*(table[name] for name in ("x", "y", "width", "height")), strict=True)
    rows = zip(table["patientId"], uncertain(table["Target"]), shapes, strict=True)
    for image, target, shape in rows:
        # A positive image has a row for each box.
        targets[image] = max(target, targets.get(image, target))
        boxes.setdefault(image, []).extend([" ".join(shape)] if any(shape) else [])
    tested = [name[: -len(".dcm")] for name in files_below(root / TEST, [".dcm"])]
    images = [*targets, *tested]
    patients, classes = _patients(root), _classes(root)
    return {
        "path": [f"{TRAIN}/{image}.dcm" for image in targets] + [f"{TEST}/{image}.dcm" for image in tested],
        "patient_id": [patients.get(image, "") for image in images],
        "study_id": [f"rsna:{image}" for image in images],
        "part": ["train"] * len(targets) + ["test"] * len(tested),
        "class_official": [classes.get(image, "") for image in images],
        "boxes": [";".join(boxes.get(image, [])) for image in images],
        "label_pneumonia": [targets.get(image, UNKNOWN) for image in images],
    }


def _classes(root: Path) -> dict[str, str]:
    if not (root / CLASSES).is_file():
        return {}
    table = read_csv(root / CLASSES, columns=["patientId", "class"])
    return dict(zip(table["patientId"], table["class"], strict=True))


def _patients(root: Path) -> dict[str, str]:
    """Patients of NIH by image, where the official mapping lies in the folder."""
    path = root / MAPPING
    if not path.is_file():
        return {}
    try:
        rows = json.loads(path.read_bytes())
        return {str(row["subset_img_id"]): nih_patient(str(row["img_id"])) for row in rows}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        wanted = "a list of entries with subset_img_id and img_id"
        raise ManifestError(f"{path} must hold {wanted}, got another content ({error}): download it again") from error


SOURCE = Source(
    name="rsna",
    title="RSNA Pneumonia Detection Challenge 2018, stage 2",
    access="Kaggle: rsna-pneumonia-detection-challenge",
    licence="not stated",
    layout=(
        f"{TRAIN}/<patientId>.dcm and {TEST}/<patientId>.dcm",
        LABELS,
        f"if there, {CLASSES} for the three classes and {MAPPING} for the patients",
    ),
    images=29_684,
    reader=_read,
    notes=(
        f"patientId is one per image, so patient_id is blank unless {MAPPING} is in the folder (name and fields "
        "unverified); with it, patients are those of nih, whose images these are: keep the two apart",
        f"the name {CLASSES} is unverified; its three classes are in class_official",
        "26,684 images have labels; the 3,000 of the test part have none, so split is blank and the column part has "
        "train or test",
        "view, sex and age are in the DICOM headers, which are not read here",
    ),
)
