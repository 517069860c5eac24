"""Kermany's paediatric pneumonia radiographs from Guangzhou: a folder per split and class."""

import re
from pathlib import Path

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import UNKNOWN
from cxrbase.data.sources.splits import one_split
from cxrbase.data.sources.tables import files_below

NAME = "kermany"
_BASES = ("", "CellData/chest_xray/", "chest_xray/")
# Names of Kaggle's copy, and of the zip that Mendeley Data publishes.
_NAMES = (
    re.compile(r"(?P<patient>person\d+)_(?P<kind>bacteria|virus)_\d+", re.ASCII),
    re.compile(r"(?P<kind>NORMAL|BACTERIA|VIRUS)-(?P<patient>\d+)-\d+", re.ASCII),
)


def _read(root: Path) -> Columns:
    base = next((base for base in _BASES if (root / base / "train").is_dir()), _BASES[-1])
    paths: list[str] = []
    for split in ("train", "val", "test"):
        for finding in ("NORMAL", "PNEUMONIA"):
            # Named one by one, because some zips hold a second copy of everything in chest_xray/chest_xray.
            below = f"{base}{split}/{finding}"
            paths += [f"{below}/{path}" for path in files_below(root / below, {".jpeg", ".jpg", ".png"})]
    patients = [f"{NAME}:{found['patient']}" if (found := _named(path)) else "" for path in paths]
    official = [path.removeprefix(base).partition("/")[0] for path in paths]
    return {
        "path": paths,
        "patient_id": patients,
        "view_position": ["AP"] * len(paths),
        "split": one_split(patients, official, name=NAME),
        "official_split": official,
        "label_pneumonia": [float(_is_pneumonia(path)) for path in paths],
        "label_bacterial_pneumonia": [_germ(path, "bacteria") for path in paths],
        "label_viral_pneumonia": [_germ(path, "virus") for path in paths],
    }


def _named(path: str) -> re.Match[str] | None:
    """Patient and kind of an image; None where its name tells neither."""
    return next((found for pattern in _NAMES if (found := pattern.match(Path(path).name))), None)


def _is_pneumonia(path: str) -> bool:
    return "/PNEUMONIA/" in f"/{path}"


def _germ(path: str, germ: str) -> float:
    if not _is_pneumonia(path):
        return 0.0
    found = _named(path)
    return float(found["kind"].lower() == germ) if found else UNKNOWN


SOURCE = Source(
    name=NAME,
    title="Chest X-ray images (pneumonia), Kermany et al., doi 10.17632/rscbjbr9sj.2",
    access="open",
    licence="CC BY 4.0",
    layout=("chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg, or without chest_xray/ or below CellData/",),
    images=5_856,
    reader=_read,
    notes=(
        "children of 1 to 5 years, all AP; no age per image",
        "in Mendeley's zip a name is disease, patient and number of the image, for normals too, and there is no val",
        "in Kaggle's copy a patient is personN in the name (inference); its normals name none, so a strict split of "
        "them is not possible there",
        "whether personN is one child in a bacteria and a virus name, and in two folders, is not known: it is taken "
        "for one, whose images all go to one split, test before val before train; the folder stays in the column "
        "official_split, and Kaggle's counts of it are train 1,341/3,875, val 8/8, test 234/390",
        "COVIDx and the COVID-19 Radiography database hold images of it",
    ),
)
