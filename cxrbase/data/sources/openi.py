"""Indiana University chest radiographs (Open-i): two tables, one of images and one of reports."""

from pathlib import Path

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import UNKNOWN, presence, views
from cxrbase.data.sources.tables import find_table, read_csv

NAME = "openi"
FINDINGS = {
    "normal": "no_finding",
    "atelectasis": "atelectasis",
    "pulmonary atelectasis": "atelectasis",
    "calcified granuloma": "calcified_granuloma",
    "cardiomegaly": "cardiomegaly",
    "emphysema": "emphysema",
    "pulmonary emphysema": "emphysema",
    "fractures, bone": "fracture",
    "hernia, hiatal": "hiatal_hernia",
    "mass": "mass",
    "nodule": "nodule",
    "opacity": "lung_opacity",
    "pleural effusion": "pleural_effusion",
    "pneumonia": "pneumonia",
    "pneumothorax": "pneumothorax",
    "pulmonary edema": "edema",
    "pulmonary fibrosis": "fibrosis",
}
# Of a report that nobody indexed.
_UNKNOWN = ("", "no indexing")
_FOLDERS = ("images/images_normalized", "images_normalized", "images")


def _read(root: Path) -> Columns:
    images = read_csv(find_table(root, "indiana_projections.csv"), columns=("uid", "filename", "projection"))
    reports = read_csv(find_table(root, "indiana_reports.csv"), columns=("uid", "Problems"))
    problems = dict(zip(reports["uid"], reports["Problems"], strict=True))
    folder = next((name for name in _FOLDERS if (root / name).is_dir()), _FOLDERS[0])
    found = [problems.get(uid, "") for uid in images["uid"]]
    columns: Columns = {
        "path": [f"{folder}/{name}" for name in images["filename"]],
        # The report is the only identity there is; images of one report must not part.
        "patient_id": [f"{NAME}:{uid}" if uid else "" for uid in images["uid"]],
        "study_id": images["uid"],
        "view_position": views(images["projection"], {"Lateral": "LATERAL"}),
        "projection": images["projection"],
        "problems": found,
    }
    return columns | _labels(found)


def _labels(problems: list[str]) -> Columns:
    lists = [[part.strip().lower() for part in text.split(";")] for text in problems]
    # A row without problems says nothing, where one with some says that the rest is absent.
    known = [text.strip().lower() not in _UNKNOWN for text in problems]
    return {
        name: [value if said else UNKNOWN for value, said in zip(values, known, strict=True)]
        for name, values in presence(lists, FINDINGS).items()
    }


SOURCE = Source(
    name=NAME,
    title="Indiana University chest X-rays (Open-i)",
    access="open (unverified)",
    licence="not stated",
    layout=(
        "indiana_projections.csv (uid, filename, projection)",
        "indiana_reports.csv (uid, ..., Problems, ...)",
        "images/images_normalized/<filename>.png, or images/<filename>",
    ),
    images=7_470,
    reader=_read,
    notes=(
        "3,955 reports; no patient id is published: the report's uid stands in, whether two reports can be of one "
        "patient is unverified",
        "views are Frontal and Lateral; whether a frontal one is PA or AP is not told, so it is blank and the text is "
        "in the column projection",
        "labels are read off the column Problems, whose terms are unverified; a row without a report, or with "
        "`no indexing`, is unknown",
        "the copy that circulates with the two tables may list a few images less than the 7,470 published "
        "(unverified): then --partial",
    ),
)
