"""BRAX 1.1.0: images of Sao Paulo patients with labels that a labeller read from Portuguese reports."""

from pathlib import Path

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import CHEXPERT_FINDINGS, coded, sexes, views, years
from cxrbase.data.sources.tables import find_table, read_csv

TABLES = ("master_spreadsheet_update.csv", "master_spreadsheet.csv")
COLUMNS = ("PngPath", "PatientID", "PatientSex", "PatientAge", "AccessionNumber", "ViewPosition", "Manufacturer")
# RLD, LLD (decubitus), RLO and LLO (oblique) are neither frontal nor lateral.
VIEWS = {"PA": "PA", "AP": "AP", "LL": "LATERAL", "RL": "LATERAL"}


def _read(root: Path) -> Columns:
    table = read_csv(find_table(root, *TABLES), columns=[*COLUMNS, *CHEXPERT_FINDINGS])
    patients = [f"brax:{patient}" if patient else "" for patient in table["PatientID"]]
    return {
        "path": table["PngPath"],
        "patient_id": patients,
        # An accession number alone may not be unique.
        "study_id": [f"{who}/{number}" for who, number in zip(patients, table["AccessionNumber"], strict=True)],
        "view_position": views(table["ViewPosition"], VIEWS),
        "view_official": table["ViewPosition"],
        "sex": sexes(table["PatientSex"]),
        "age": years(table["PatientAge"]),
        "age_official": table["PatientAge"],
        "manufacturer": table["Manufacturer"],
        **coded(table, CHEXPERT_FINDINGS),
    }


SOURCE = Source(
    name="brax",
    title="BRAX 1.1.0",
    access="PhysioNet, credentialed: physionet.org/content/brax/1.1.0",
    licence="PhysioNet credentialed; neither images nor thumbnails with ids may be passed on",
    layout=("PNG files where the column PngPath says", " or ".join(TABLES)),
    images=40_967,
    reader=_read,
    notes=(
        "the name of the table and its column PngPath are unverified",
        "ages are the number an age group of five years is named by; `85 or more` is 85; age_official has the words",
        "-1 (uncertain) and blank (not mentioned) are NaN and kept in code_<finding>",
        "LL and RL count as LATERAL; RLD, LLD, RLO and LLO are blank in view_position and kept in view_official",
        "study dates are fictitious and not read",
        "there is no official split",
    ),
)
