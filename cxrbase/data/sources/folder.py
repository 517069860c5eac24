"""Any folder of images, without a table."""

from pathlib import Path

from cxrbase.data.manifest import Manifest
from cxrbase.data.sources.base import Columns, Source


def _read(root: Path) -> Columns:
    return {"path": Manifest.from_folder(root).column("path").tolist()}


SOURCE = Source(
    name="folder",
    title="Any folder of images",
    access="yours",
    licence="yours",
    layout=("images at any depth",),
    reader=_read,
    notes=("nothing is known but the path: no patient, so that images of one may part when splits are dealt",),
)
