"""covid-chestxray-dataset (ieee8023): radiographs gathered from publications, with a licence for each image."""

from pathlib import Path

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import UNKNOWN, sexes, views, years
from cxrbase.data.sources.tables import find_table, read_csv

NAME = "covid-chestxray"
_COLUMNS = (
    "patientid", "offset", "sex", "age", "finding", "view", "modality", "location", "filename", "license",
)  # fmt: skip
_VIEWS = {"PA": "PA", "AP": "AP", "AP Supine": "AP", "L": "LATERAL"}
_UNKNOWN = {"", "todo", "unknown"}
# Where each finding is in the hierarchy.
FINDINGS = {
    "pneumonia": "Pneumonia",
    "bacterial_pneumonia": "Pneumonia/Bacterial",
    "fungal_pneumonia": "Pneumonia/Fungal",
    "viral_pneumonia": "Pneumonia/Viral",
    "covid_19": "Pneumonia/Viral/COVID-19",
    "sars": "Pneumonia/Viral/SARS",
    "tuberculosis": "Tuberculosis",
    "no_finding": "No Finding",
}


def _read(root: Path) -> Columns:
    table = read_csv(find_table(root, "metadata.csv"), columns=_COLUMNS)
    radiographs = [row for row, modality in enumerate(table["modality"]) if modality == "X-ray"]
    kept = {name: [values[row] for row in radiographs] for name, values in table.items()}
    columns: Columns = {
        "path": [f"images/{name}" for name in kept["filename"]],
        "patient_id": [f"{NAME}:{patient}" if patient else "" for patient in kept["patientid"]],
        "view_position": views(kept["view"], _VIEWS),
        "sex": sexes(kept["sex"]),
        "age": years(kept["age"]),
        "site": kept["location"],
        "finding": kept["finding"],
        "offset": kept["offset"],
        "licence": kept["license"],
    }
    labels = {f"label_{name}": [_value(text, place) for text in kept["finding"]] for name, place in FINDINGS.items()}
    return columns | labels


def _value(text: str, place: str) -> float:
    """1 where the finding or one below it is named, NaN where only one above it is, else 0."""
    if text.lower() in _UNKNOWN:
        return UNKNOWN
    if f"{text}/".startswith(f"{place}/") or place.endswith(f"/{text}"):
        return 1.0
    return UNKNOWN if place.startswith(f"{text}/") else 0.0


SOURCE = Source(
    name=NAME,
    title="covid-chestxray-dataset (ieee8023)",
    access="open, GitHub ieee8023/covid-chestxray-dataset",
    licence="per image, in the column licence",
    layout=("metadata.csv", "images/<filename>"),
    size="581 MB",
    reader=_read,
    notes=(
        "no current count is published, so only what metadata.csv lists is asked for",
        "rows of another modality than X-ray (CT) are left out",
        "a finding is a hierarchy such as Pneumonia/Viral/COVID-19: what lies below the named level is unknown, "
        "`todo` and `Unknown` are unknown throughout; the text stays in the column finding",
        "some laterals are labelled PA, and burned-in arrows and letters give the finding away",
        "COVIDx holds these images (its origin cohen), and so may the COVID-19 Radiography database",
    ),
)
