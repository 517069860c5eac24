"""A folder with your own manifest."""

from pathlib import Path

from cxrbase.data.manifest import Manifest
from cxrbase.data.sources.base import Columns, Source
from cxrbase.errors import ManifestError

_NAMES = ("manifest.parquet", "manifest.csv")


def _read(root: Path) -> Columns:
    path = next((root / name for name in _NAMES if (root / name).is_file()), None)
    if path is None:
        raise ManifestError(f"{root} has no {' or '.join(_NAMES)}: write one row per image with its path")
    manifest = Manifest.read(path)
    columns: Columns = {name: manifest.column(name) for name in manifest.table.column_names}
    # Every source fills `source` with its own name; what the file said is kept.
    if (columns["source"] != "").any():
        columns.setdefault("original_source" if "origin" in columns else "origin", columns["source"])
    return columns


SOURCE = Source(
    name="csv-manifest",
    title="A folder with a manifest",
    access="yours",
    licence="yours",
    layout=("manifest.parquet or manifest.csv with a column path", "the images it names"),
    reader=_read,
    notes=(
        "columns are those of any manifest: path, patient_id, study_id, view_position, split, sex, age, site, "
        "label_<finding> with 1, 0 or blank, and any text",
        "a column source is kept as origin, or as original_source beside a column origin",
        "patient ids stay as they are: make them differ from those of other sets before you merge",
    ),
)
