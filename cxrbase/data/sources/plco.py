"""PLCO: digitised films of the lung arm of the Prostate, Lung, Colorectal and Ovarian cancer screening trial."""

from pathlib import Path, PurePosixPath

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.tables import files_below, header, read_csv
from cxrbase.errors import ManifestError

IMAGE, PATIENT = "image_file_name", "plco_id"
OTHERS = ("is_dead", "is_dead_cvd")
SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")


def _read(root: Path) -> Columns:
    path, names = _table(root)
    table = read_csv(path, columns=[IMAGE, *(name for name in (PATIENT, *OTHERS) if name in names)])
    homes = {PurePosixPath(name).name.lower(): name for name in files_below(root, SUFFIXES)}
    columns: Columns = {
        "path": [homes.get(PurePosixPath(name).name.lower(), name) for name in table[IMAGE]],
        "patient_id": [f"plco:{who}" if who else "" for who in table.get(PATIENT, [""] * len(table[IMAGE]))],
    }
    return columns | {name: table[name] for name in OTHERS if name in table}


def _table(root: Path) -> tuple[Path, list[str]]:
    """The table with the names of the images: CDAS names it after the request."""
    tables = [root / name for name in files_below(root, [".csv"]) if "/" not in name]
    if not tables:
        raise ManifestError(
            f"{root} has no table *.csv with a column {IMAGE}: finish the download, or give another folder"
        )
    found = [(path, names) for path in tables if IMAGE in (names := header(path))]
    if len(found) != 1:
        looked = ", ".join(path.name for path in tables)
        raise ManifestError(
            f"{root} must have one table with a column {IMAGE}, got {len(found)} of {looked}: keep one there"
        )
    return found[0]


SOURCE = Source(
    name="plco",
    title="PLCO chest radiographs",
    access="CDAS, project and data transfer agreement, at most 25,000 participants: cdas.cancer.gov/learn/plco/images",
    licence="data transfer agreement of the National Cancer Institute",
    layout=(
        "TIFF files in any folders, such as batches; PNG or JPEG conversions with the names in the table do as well",
        f"one .csv with a column {IMAGE} and, if there, {PATIENT}, {' and '.join(OTHERS)}",
    ),
    size="850-860 GB for a selection of 25,000 participants",
    reader=_read,
    notes=(
        "no number of images is checked, because it depends on the request: 88,000-89,000 for 25,000 participants, "
        "about 205,000 digitised in all",
        f"only the column {IMAGE} is sure; {PATIENT} is unverified, and without it patient_id is blank",
        "views are in no table that is known and stay blank; there are no labels and no official split",
        "films have low contrast, and some are rotated",
    ),
)
