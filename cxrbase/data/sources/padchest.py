"""PadChest: 16-bit PNG images of Alicante with labels by physicians and by a network that read the reports."""

import ast
from functools import lru_cache
from pathlib import Path

from cxrbase.data.manifest import LABEL_PREFIX
from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import UNKNOWN, presence, sexes, snake, views, years
from cxrbase.data.sources.tables import find_table, read_csv
from cxrbase.errors import ManifestError

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
VIEWS = {"PA": "PA", "AP": "AP", "AP_horizontal": "AP", "L": "LATERAL"}
COLUMNS = ("ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM")
OTHERS = {"Projection": "view_official", "Pediatric": "pediatric", "MethodLabel": "method_label"}
# The labels that reference counts or other data sets know; the rest is in the column labels_official.
FINDINGS = (
    "normal",
    "atelectasis",
    "cardiomegaly",
    "consolidation",
    "emphysema",
    "hiatal hernia",
    "infiltrates",
    "nodule",
    "pleural effusion",
    "pleural thickening",
    "pneumonia",
    "pneumothorax",
    "pulmonary edema",
    "pulmonary fibrosis",
    "pulmonary mass",
    "tuberculosis",
    "tuberculosis sequelae",
    "pacemaker",
    "NSG tube",
    "external foreign body",
    "abnormal foreign body",
    "suboptimal study",
)
# Labels below the findings in the data set's own tree (tree_term_CUI_counts_160K.csv; appendix of
# https://arxiv.org/abs/1901.07441): an image with one of them has the finding, though its name is not listed.
KINDS = {
    "atelectasis": (
        *("total atelectasis", "lobar atelectasis", "segmental atelectasis", "laminar atelectasis"),
        *("round atelectasis", "atelectasis basal"),
    ),
    "consolidation": ("air bronchogram",),
    "infiltrates": (
        *("interstitial pattern", "ground glass pattern", "reticular interstitial pattern"),
        *("reticulonodular interstitial pattern", "miliary opacities", "alveolar pattern", "consolidation"),
        "air bronchogram",
    ),
    "nodule": ("multiple nodules",),
    "pleural effusion": (
        *("loculated pleural effusion", "loculated fissural effusion", "hydropneumothorax", "empyema", "hemothorax"),
    ),
    "pleural thickening": ("apical pleural thickening", "calcified pleural thickening"),
    "pneumonia": ("atypical pneumonia",),
    "pneumothorax": ("hydropneumothorax",),
    "pulmonary fibrosis": ("post radiotherapy changes", "asbestosis signs"),
    "tuberculosis": ("tuberculosis sequelae",),
}
# Beside the finding in the tree and not below it, but devices of these names are pacemakers or defibrillators.
UNCLEAR = {"pacemaker": ("dual chamber device", "single chamber device")}


def _read(root: Path) -> Columns:
    table = read_csv(find_table(root, TABLE), columns=[*COLUMNS, *OTHERS, "Labels"])
    found = [_labels(text) for text in table["Labels"]]
    births = zip(table["PatientBirth"], table["StudyDate_DICOM"], strict=True)
    return {
        "path": [f"{folder}/{image}" for folder, image in zip(table["ImageDir"], table["ImageID"], strict=True)],
        "patient_id": [f"padchest:{patient}" if patient else "" for patient in table["PatientID"]],
        "study_id": [f"padchest:{study}" for study in table["StudyID"]],
        "view_position": views(table["Projection"], VIEWS),
        "sex": sexes(table["PatientSex_DICOM"]),
        "age": [_age(birth, date) for birth, date in births],
        "labels_official": ["|".join(names or ()) for names in found],
        **{column: table[name] for name, column in OTHERS.items()},
        **_known(found),
    }


def _known(found: list[tuple[str, ...] | None]) -> dict[str, list[float]]:
    """Labels of the rows, kinds of a finding counted as the finding; NaN where a row does not tell."""
    columns = presence([_with_findings(names or ()) for names in found], {name: snake(name) for name in FINDINGS})
    for row, names in enumerate(found):
        for finding in _untold(names):
            columns[LABEL_PREFIX + snake(finding)][row] = UNKNOWN
    return columns


@lru_cache(None)
def _with_findings(names: tuple[str, ...]) -> tuple[str, ...]:
    """The labels of a row and the findings that they are kinds of."""
    return (*names, *(finding for finding, kinds in KINDS.items() if not set(kinds).isdisjoint(names)))


@lru_cache(None)
def _untold(names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Findings that the labels of a row leave open: all where it has none, is to be left out or refers to another."""
    if not names or "exclude" in names or names == ("unchanged",):
        return FINDINGS
    return tuple(
        finding for finding, kinds in UNCLEAR.items() if finding not in names and not set(kinds).isdisjoint(names)
    )


@lru_cache(None)
def _labels(text: str) -> tuple[str, ...] | None:
    if text in ("", "nan"):
        return None
    try:
        names = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ManifestError(f"column Labels of {TABLE} must hold lists of names, got {text!r}: download it again")
    # Some labels begin with a space, and some meta-labels are also written with an underscore.
    tidy = (name.strip().replace("_", " ") for name in names)
    return tuple(dict.fromkeys(name for name in tidy if name))


def _age(birth: str, date: str) -> float:
    year = birth.removesuffix(".0")
    if not (year.isascii() and year.isdigit() and date[:4].isascii() and date[:4].isdigit()):
        return UNKNOWN
    age = int(date[:4]) - int(year[:4])
    return years([str(age)])[0]


SOURCE = Source(
    name="padchest",
    title="PadChest",
    access="BIMCV, on request; also academic torrents",
    licence="not stated",
    layout=("<ImageDir>/<ImageID>, folders 0 to 54", TABLE),
    images=160_861,
    patients=67_625,
    reader=_read,
    notes=(
        "labels are a list of what is present: 1 where the finding is listed or a label below it in the data set's own "
        "tree (laminar atelectasis is atelectasis, hydropneumothorax is pneumothorax and pleural effusion), else 0; "
        "tuberculosis thus includes its sequelae, which label_tuberculosis_sequelae tells apart",
        "rows without labels (103), marked exclude (1,312) or labelled unchanged alone are NaN; pacemaker is NaN where "
        "only a single or dual chamber device is listed; all official labels are in labels_official as they are",
        "AP_horizontal (supine) counts as AP; COSTAL, EXCLUDE and UNK are blank in view_position; view_official tells",
        "method_label says whether physicians (39,053) or a network (121,808) read the report",
        "age is the year of the study less the year of birth",
        "21 files of the release are missing or unreadable",
        "PNG files have 16 bits, filled to 10 or 12: do not convert to 8 bits by clipping",
        "the published 160,868 images are not the 160,861 rows of the table",
        "there is no official split",
    ),
)
