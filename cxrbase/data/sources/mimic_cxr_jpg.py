"""MIMIC-CXR-JPG 2.1.0: JPEG images of Boston patients with labels that CheXpert's labeller read from the reports."""

from collections.abc import Sequence
from pathlib import Path

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import CHEXPERT_FINDINGS, coded, views
from cxrbase.data.sources.tables import find_table, read_csv
from cxrbase.errors import ManifestError

METADATA = "mimic-cxr-2.0.0-metadata.csv"
LABELS = "mimic-cxr-2.0.0-chexpert.csv"
SPLIT = "mimic-cxr-2.0.0-split.csv"
SPLITS = {"train": "train", "validate": "val", "test": "test"}
VIEWS = {"PA": "PA", "AP": "AP", "LATERAL": "LATERAL", "LL": "LATERAL", "RL": "LATERAL"}


def folder_of(subject: str, study: str) -> str:
    """Folder of a study, as on PhysioNet."""
    return f"files/p{subject[:2]}/p{subject}/s{study}"


def views_of(root: Path, images: Sequence[str]) -> Columns:
    """Views and dates of images by their dicom_id; blank where the table lacks one."""
    table = read_csv(find_table(root, METADATA), columns=["dicom_id", "ViewPosition", "StudyDate"])
    rows = dict(zip(table["dicom_id"], zip(table["ViewPosition"], table["StudyDate"], strict=True), strict=True))
    found = [rows.get(image, ("", "")) for image in images]
    official = [view for view, _ in found]
    return {
        "view_position": views(official, VIEWS),
        "view_official": official,
        "study_date": [date for _, date in found],
    }


def splits_of(root: Path, images: Sequence[str]) -> list[str]:
    """Official split of images by their dicom_id; blank where the table lacks one."""
    path = find_table(root, SPLIT)
    table = read_csv(path, columns=["dicom_id", "split"])
    for value in set(table["split"]) - SPLITS.keys():
        raise ManifestError(f"column split of {path} must hold {', '.join(SPLITS)}, got {value!r}: download it again")
    rows = dict(zip(table["dicom_id"], table["split"], strict=True))
    return [SPLITS[rows[image]] if image in rows else "" for image in images]


def labels_of(root: Path, studies: Sequence[str]) -> Columns:
    """Labels and codes by study_id; unknown where the table lacks a study."""
    table = read_csv(find_table(root, LABELS), columns=["study_id", *CHEXPERT_FINDINGS])
    rows = {study: row for row, study in enumerate(table["study_id"])}
    places = [rows.get(study) for study in studies]
    found = {name: ["" if place is None else table[name][place] for place in places] for name in CHEXPERT_FINDINGS}
    return coded(found, CHEXPERT_FINDINGS)


def _read(root: Path) -> Columns:
    table = read_csv(find_table(root, METADATA), columns=["dicom_id", "subject_id", "study_id"])
    images, subjects, studies = table["dicom_id"], table["subject_id"], table["study_id"]
    rows = zip(images, subjects, studies, strict=True)
    return {
        "path": [f"{folder_of(subject, study)}/{image}.jpg" for image, subject, study in rows],
        "patient_id": [f"mimic-cxr:{subject}" for subject in subjects],
        "study_id": [f"mimic-cxr:{study}" for study in studies],
        "split": splits_of(root, images),
        **views_of(root, images),
        **labels_of(root, studies),
    }


SOURCE = Source(
    name="mimic-cxr-jpg",
    title="MIMIC-CXR-JPG 2.1.0",
    access="PhysioNet, credentialed: physionet.org/content/mimic-cxr-jpg/2.1.0",
    licence="PhysioNet credentialed; neither images nor thumbnails with ids may be passed on",
    layout=(
        "files/p<first two digits>/p<subject_id>/s<study_id>/<dicom_id>.jpg",
        f"{METADATA}, {LABELS} and {SPLIT}, each as .csv or .csv.gz",
    ),
    images=377_110,
    size="557 GB",
    reader=_read,
    notes=(
        "patient ids begin with mimic-cxr:, as in the DICOM release, because the patients are the same",
        "sex and age are not in these tables and stay blank",
        "15,769 images have no ViewPosition and about 0.1 % a wrong one; decubitus and other odd views are blank in "
        "view_position and kept in view_official",
        "labels are CheXpert's, -1 (uncertain) and blank (not mentioned) are NaN and kept in code_<finding>; "
        "those of NegBio are not read",
        "the release holds copies of images with altered brightness or contrast",
        "images are histogram-equalised (unverified)",
    ),
)
