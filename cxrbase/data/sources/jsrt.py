"""JSRT: films with and without a lung nodule, distinguished by file name."""

import re
from pathlib import Path, PurePosixPath

from cxrbase.data.decode import IMAGE_SUFFIXES
from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.tables import files_below
from cxrbase.errors import ManifestError

_NAME = re.compile(r"JPC([LN])N\d{3}", re.ASCII | re.IGNORECASE)


def _read(root: Path) -> Columns:
    films: dict[str, str] = {}
    for path in files_below(root, IMAGE_SUFFIXES):
        pure = PurePosixPath(path)
        if _NAME.fullmatch(pure.stem) and not any("mask" in part.lower() for part in pure.parts):
            # One film may lie there in two forms.
            films.setdefault(pure.stem.upper(), path)
    raw = [path for path in files_below(root, {".img"}) if _NAME.fullmatch(PurePosixPath(path).stem)]
    if raw and not films:
        raise ManifestError(
            f"{root} holds {len(raw)} raw .IMG files such as {raw[0]}: convert them to PNG, TIFF or DICOM first "
            "(2048 x 2048, 16 bits big-endian, 12 of them used)"
        )
    return {
        "path": list(films.values()),
        "label_nodule": [1.0 if name[3] == "L" else 0.0 for name in films],
    }


SOURCE = Source(
    name="jsrt",
    title="JSRT digital image database",
    access="registration (unverified)",
    licence="not stated",
    layout=("JPCLN<number>.png and JPCNN<number>.png, in any folder; TIFF, JPEG and DICOM as well",),
    images=247,
    reader=_read,
    notes=(
        "154 with a nodule (JPCLN), 93 without (JPCNN)",
        "the official files JPC?N<number>.IMG are raw, 2048 x 2048 with 12 bits, big-endian (unverified): convert them",
        "no patient id, view or official split in the names; folders with mask in their name are left out",
    ),
)
