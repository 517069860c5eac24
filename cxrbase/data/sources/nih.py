"""NIH ChestX-ray14: PNG images with labels read from the reports."""

from pathlib import Path

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import presence, sexes, snake, views, years
from cxrbase.data.sources.tables import find_table, header, read_csv, read_lines

TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
FINDINGS = (
    "No Finding",
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
COLUMNS = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age")
# The first is in NIH's present file, the other in that of 2017 and its copies.
SEXES = ("Patient Sex", "Patient Gender")


def nih_patient(image: str) -> str:
    """Patient of an image such as 00000001_000.png, as in the manifest."""
    return f"nih:{image.split('_')[0].zfill(8)}"


def _read(root: Path) -> Columns:
    path = find_table(root, *TABLES)
    sex = SEXES[SEXES[0] not in header(path)]
    table = read_csv(path, columns=[*COLUMNS, sex, "View Position"])
    images = table["Image Index"]
    homes = _homes(root)
    patients = [f"nih:{patient.zfill(8)}" for patient in table["Patient ID"]]
    return {
        "path": [homes.get(image, f"images/{image}") for image in images],
        "patient_id": patients,
        "study_id": [f"{who}/{number}" for who, number in zip(patients, table["Follow-up #"], strict=True)],
        "view_position": views(table["View Position"], {"PA": "PA", "AP": "AP"}),
        "split": _splits(root, images),
        "sex": sexes(table[sex]),
        "age": years(table["Patient Age"]),
        "labels_official": table["Finding Labels"],
        **presence([text.split("|") for text in table["Finding Labels"]], {name: snake(name) for name in FINDINGS}),
    }


def _homes(root: Path) -> dict[str, str]:
    """Path of each image: the archives unpack to one folder images/, or to images_001/ ... images_012/."""
    folders = [path for pattern in ("images", "images_0??", "images_0??/images") for path in sorted(root.glob(pattern))]
    return {
        path.name: path.relative_to(root).as_posix()
        for folder in folders
        for path in folder.iterdir()
        if path.suffix == ".png"
    }


def _splits(root: Path, images: list[str]) -> list[str]:
    splits = dict.fromkeys(read_lines(root / "train_val_list.txt"), "train")
    splits |= dict.fromkeys(read_lines(root / "test_list.txt"), "test")
    return [splits.get(image, "") for image in images]


SOURCE = Source(
    name="nih",
    title="NIH ChestX-ray14",
    access="NIH Clinical Center; also Google Cloud, Kaggle and academic torrents",
    licence="no restriction of use, attribution required",
    layout=(
        "images/<patient>_<number>.png, or images_001/ ... images_012/ with or without images/ inside",
        " or ".join(TABLES),
        "train_val_list.txt and test_list.txt",
    ),
    images=112_120,
    patients=30_805,
    reader=_read,
    notes=(
        "train_val_list.txt is split train and test_list.txt split test; there is no official validation split",
        "ages above 120 are errors of entry and stay blank",
        "some files carry extra channels",
        "images of this set are in RSNA and COVIDx, and in SIIM, ChestX-Det and NODE21 (unverified): keep them apart",
        "study_id is the patient and the follow-up number; whether a number is one examination is unverified",
        "images are not histogram-equalised (unverified)",
    ),
)
