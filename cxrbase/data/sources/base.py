"""The interface of all sources: facts about a public data set, and how its folder becomes a manifest."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cxrbase.data.manifest import Manifest
from cxrbase.errors import ManifestError

logger = logging.getLogger(__name__)

Columns = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """One public data set.

    Args:
        name: Short name, as on the command line and in the manifest's column `source`.
        title: Official name and version.
        access: How one gets it.
        licence: Terms, or "not stated" where no text was found.
        layout: What lies in the folder, one line per file or kind of file.
        images: Published number of images; None where none is published.
        patients: Published number of patients; None where none is published or ids are missing.
        size: Approximate size of the download, "" where unknown.
        reader: Turns the folder into columns of the manifest, `path` among them; reads only tables and file names.
        notes: What a user must know: missing ids, known leaks, odd codes.
    """

    name: str
    title: str
    access: str
    licence: str
    layout: tuple[str, ...]
    reader: Callable[[Path], Columns] = field(repr=False)
    images: int | None = None
    patients: int | None = None
    size: str = ""
    notes: tuple[str, ...] = ()

    def read(self, root: str | Path, *, partial: bool = False) -> Manifest:
        """Lists the images of a downloaded folder.

        Args:
            root: Folder with the layout of the source.
            partial: Leave out what the tables name and the folder lacks, instead of refusing.

        Returns:
            Manifest with the column `source` filled and labels as `label_<finding>`.

        Raises:
            ManifestError: The folder or a table is missing or malformed, or images are missing, or patients where all
                images are there, and `partial` is off.
        """
        root = Path(root)
        if not root.is_dir():
            raise ManifestError(
                f"no folder {root}: give the folder of {self.title}, which holds {'; '.join(self.layout)}"
            )
        columns = self.reader(root)
        if not len(columns["path"]):
            raise ManifestError(f"{root} holds no image of {self.title}: expected {'; '.join(self.layout)}")
        columns["source"] = [self.name] * len(columns["path"])
        manifest = Manifest.from_columns(columns, root=root)
        present = np.array([os.path.isfile(path) for path in manifest.paths])
        return self._complete(manifest, present, partial)

    def _complete(self, manifest: Manifest, present: Any, partial: bool) -> Manifest:
        found, listed = int(present.sum()), len(manifest)
        wanted = max(self.images or 0, listed)
        if found == wanted:
            self._check_patients(manifest, partial)
            return manifest
        absent = manifest.column("path")[~present][:3].tolist()
        first = f", first missing {', '.join(absent)}" if absent else ""
        said = f"{manifest.root} holds {found:,} of the {wanted:,} images of {self.title}{first}"
        if not partial:
            raise ManifestError(
                f"{said}: finish the download, or go on with what is there with partial=True (--partial)"
            )
        if not found:
            raise ManifestError(f"{said}: there is nothing to go on with")
        logger.warning("%s; going on with those", said)
        return Manifest(manifest.table.filter(pa.array(present)), manifest.root)

    def _check_patients(self, manifest: Manifest, partial: bool) -> None:
        """Of all images: fewer patients than published are those of an altered table."""
        found = len(set(manifest.column("patient_id").tolist()) - {""})
        if self.images is None or found >= (self.patients or 0):
            return
        said = f"the images of {self.title} in {manifest.root} are of {found:,} of the {self.patients:,} patients"
        if not partial:
            raise ManifestError(f"{said}: download its tables again, or go on with partial=True (--partial)")
        logger.warning("%s; going on with those", said)
