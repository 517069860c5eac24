"""Kermany's paediatric pneumonia radiographs from Guangzhou: a folder per split and class."""

import re
from pathlib import Path

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import UNKNOWN
from cxrbase.data.sources.splits import one_split
from cxrbase.data.sources.tables import files_below

NAME = "kermany"
_NAME = re.compile(r"(person\d+)_(bacteria|virus)_\d+", re.ASCII)


def _read(root: Path) -> Columns:
    base = "" if (root / "train").is_dir() else "chest_xray/"
    paths: list[str] = []
    for split in ("train", "val", "test"):
        for finding in ("NORMAL", "PNEUMONIA"):
            # Named one by one, because some zips hold a second copy of everything in chest_xray/chest_xray.
            below = f"{base}{split}/{finding}"
            paths += [f"{below}/{path}" for path in files_below(root / below, {".jpeg", ".jpg", ".png"})]
    patients = [f"{NAME}:{found[1]}" if (found := _NAME.match(Path(path).name)) else "" for path in paths]
    official = [Path(path).parts[1 if base else 0] for path in paths]
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


def _is_pneumonia(path: str) -> bool:
    return "/PNEUMONIA/" in f"/{path}"


def _germ(path: str, germ: str) -> float:
    if not _is_pneumonia(path):
        return 0.0
    found = _NAME.match(Path(path).name)
    return float(found[2] == germ) if found else UNKNOWN


SOURCE = Source(
    name=NAME,
    title="Chest X-ray images (pneumonia), Kermany et al., doi 10.17632/rscbjbr9sj.2",
    access="open",
    licence="CC BY 4.0",
    layout=("chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg, or the same without chest_xray/",),
    images=5_856,
    reader=_read,
    notes=(
        "children of 1 to 5 years, all AP; no age per image",
        "a patient is personN in the name (inference); normals have none, so a strict split of them is not possible",
        "whether personN is one child in a bacteria and a virus name, and in two folders, is not known: it is taken "
        "for one, whose images all go to one split, test before val before train; the folder stays in the column "
        "official_split, and its counts are train 1,341/3,875, val 8/8, test 234/390",
        "COVIDx and the COVID-19 Radiography database hold images of it",
    ),
)
