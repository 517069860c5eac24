"""Shenzhen tuberculosis set: the label is the last digit of the name, sex and age are in a text per image."""

import re
from pathlib import Path

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import UNKNOWN, sexes, years
from cxrbase.data.sources.tables import files_below, read_note

_NAME = re.compile(r"CHNCXR_\d+_([01])\.png", re.ASCII | re.IGNORECASE)
_SEX = re.compile(r"\b(male|female)\b", re.IGNORECASE)
_AGE = re.compile(r"(\d{1,3})\s*([ymd])", re.ASCII | re.IGNORECASE)


def _read(root: Path) -> Columns:
    base = "ChinaSet_AllFiles/" if (root / "ChinaSet_AllFiles").is_dir() else ""
    names = [name for name in files_below(root / f"{base}CXR_png", {".png"}) if _NAME.fullmatch(name)]
    readings = [read_note(root / f"{base}ClinicalReadings" / f"{Path(name).stem}.txt") for name in names]
    ages = [f"{found[1]}{found[2].upper()}" if (found := _AGE.search(text)) else "" for text in readings]
    return {
        "path": [f"{base}CXR_png/{name}" for name in names],
        "sex": sexes([found[1] if (found := _SEX.search(text)) else "" for text in readings]),
        "age": years(ages),
        "reading": readings,
        "label_tuberculosis": [float(found[1]) if (found := _NAME.fullmatch(name)) else UNKNOWN for name in names],
    }


SOURCE = Source(
    name="shenzhen",
    title="Shenzhen chest X-ray set (tuberculosis)",
    access="not recorded",
    licence="not stated",
    layout=(
        "ChinaSet_AllFiles/CXR_png/CHNCXR_<number>_<0 or 1>.png",
        "ChinaSet_AllFiles/ClinicalReadings/CHNCXR_<number>_<0 or 1>.txt",
    ),
    images=662,
    reader=_read,
    notes=(
        "336 with tuberculosis, 326 normal; the last digit of the name is the label",
        "no patient id, no view and no official split; published work uses 422/107/133 or 463/65/134",
        "635 of the 662 files are palette images",
        "TBX11K includes this set",
    ),
)
