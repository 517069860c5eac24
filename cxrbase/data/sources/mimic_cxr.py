"""MIMIC-CXR 2: the DICOM files behind MIMIC-CXR-JPG."""

from pathlib import Path

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.mimic_cxr_jpg import LABELS, METADATA, SPLIT, folder_of, labels_of, splits_of, views_of
from cxrbase.data.sources.tables import find_table, read_csv

RECORDS = "cxr-record-list.csv"


def _read(root: Path) -> Columns:
    table = read_csv(find_table(root, RECORDS), columns=["subject_id", "study_id", "dicom_id"])
    images, subjects, studies = table["dicom_id"], table["subject_id"], table["study_id"]
    rows = zip(images, subjects, studies, strict=True)
    columns: Columns = {
        "path": [f"{folder_of(subject, study)}/{image}.dcm" for image, subject, study in rows],
        "patient_id": [f"mimic-cxr:{subject}" for subject in subjects],
        "study_id": [f"mimic-cxr:{study}" for study in studies],
    }
    # These three belong to the JPEG release; who has them there may copy them here.
    if _has(root, METADATA):
        columns |= views_of(root, images)
    if _has(root, SPLIT):
        columns["split"] = splits_of(root, images)
    return columns | (labels_of(root, studies) if _has(root, LABELS) else {})


def _has(root: Path, name: str) -> bool:
    return (root / name).is_file() or (root / f"{name}.gz").is_file()


SOURCE = Source(
    name="mimic-cxr",
    title="MIMIC-CXR 2 (DICOM)",
    access="PhysioNet, credentialed: physionet.org/content/mimic-cxr",
    licence="PhysioNet credentialed; neither images nor thumbnails with ids may be passed on",
    layout=(
        "files/p<first two digits>/p<subject_id>/s<study_id>/<dicom_id>.dcm",
        f"{RECORDS} or {RECORDS}.gz",
        f"if wanted, copied from MIMIC-CXR-JPG: {METADATA} for views, {SPLIT} for splits, {LABELS} for labels",
    ),
    images=377_110,
    reader=_read,
    notes=(
        "the number of images is that of MIMIC-CXR-JPG; that both hold the same images is unverified",
        "patient ids begin with mimic-cxr:, as in MIMIC-CXR-JPG: use one of the two, not both",
        "without the tables of MIMIC-CXR-JPG views, splits and labels are blank",
        "sex and age are not in these tables and stay blank",
    ),
)
