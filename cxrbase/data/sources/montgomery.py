"""Montgomery County tuberculosis set: the label is the last digit of the name."""

import re
from pathlib import Path

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import UNKNOWN, sexes, years
from cxrbase.data.sources.tables import files_below, read_note

_NAME = re.compile(r"MCUCXR_\d+_([01])\.png", re.ASCII | re.IGNORECASE)
_SEX = re.compile(r"Sex:\s*(\w+)", re.IGNORECASE)
_AGE = re.compile(r"Age:\s*(\d{1,3}\s*[YMD]?)", re.ASCII | re.IGNORECASE)


def _read(root: Path) -> Columns:
    base = "MontgomerySet/" if (root / "MontgomerySet").is_dir() else ""
    # Below CXR_png alone: the masks in ManualMask have the images' names.
    names = [name for name in files_below(root / f"{base}CXR_png", {".png"}) if _NAME.fullmatch(name)]
    readings = [read_note(root / f"{base}ClinicalReadings" / f"{Path(name).stem}.txt") for name in names]
    return {
        "path": [f"{base}CXR_png/{name}" for name in names],
        "sex": sexes([found[1] if (found := _SEX.search(text)) else "" for text in readings]),
        "age": years([found[1].upper() if (found := _AGE.search(text)) else "" for text in readings]),
        "reading": readings,
        "label_tuberculosis": [float(found[1]) if (found := _NAME.fullmatch(name)) else UNKNOWN for name in names],
    }


SOURCE = Source(
    name="montgomery",
    title="Montgomery County chest X-ray set (tuberculosis)",
    access="open (unverified)",
    licence="public domain (NLM)",
    layout=(
        "MontgomerySet/CXR_png/MCUCXR_<number>_<0 or 1>.png",
        "optional MontgomerySet/ClinicalReadings/MCUCXR_<number>_<0 or 1>.txt",
    ),
    images=138,
    reader=_read,
    notes=(
        "58 with tuberculosis, 80 normal; the last digit of the name is the label",
        "no patient id, no view and no official split; published work uses 88/22/28 or 96/14/28",
        "images have black borders; lung masks are in ManualMask/, which is left out",
        "the readings and their form (Patient's Sex: F, Patient's Age: 027Y) are unverified; without them sex and age "
        "are blank",
        "TBX11K includes this set",
    ),
)
