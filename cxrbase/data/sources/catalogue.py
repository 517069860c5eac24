"""Every source by name, and manifests of several sources as one."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from cxrbase.data.manifest import Manifest
from cxrbase.data.manifest_columns import together
from cxrbase.data.sources import (
    brax,
    chexpert,
    covid_chestxray,
    covid_radiography,
    covidx,
    csv_manifest,
    folder,
    jsrt,
    kermany,
    mimic_cxr,
    mimic_cxr_jpg,
    montgomery,
    nih,
    object_cxr,
    openi,
    padchest,
    plco,
    rsna,
    shenzhen,
    siim,
    tbx11k,
    vindr,
)
from cxrbase.data.sources.base import Source
from cxrbase.errors import ConfigError, ManifestError

_ALL = (
    mimic_cxr_jpg.SOURCE,
    mimic_cxr.SOURCE,
    *chexpert.SOURCES,
    nih.SOURCE,
    padchest.SOURCE,
    brax.SOURCE,
    *vindr.SOURCES,
    plco.SOURCE,
    rsna.SOURCE,
    siim.SOURCE,
    openi.SOURCE,
    *covidx.SOURCES,
    covid_chestxray.SOURCE,
    covid_radiography.SOURCE,
    kermany.SOURCE,
    shenzhen.SOURCE,
    montgomery.SOURCE,
    tbx11k.SOURCE,
    object_cxr.SOURCE,
    jsrt.SOURCE,
    folder.SOURCE,
    csv_manifest.SOURCE,
)
SOURCES: dict[str, Source] = {source.name: source for source in _ALL}


def find(name: str) -> Source:
    """The source of that name; ConfigError with the nearest names where there is none."""
    if name in SOURCES:
        return SOURCES[name]
    near = difflib.get_close_matches(name.lower(), SOURCES, n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(SOURCES)}"
    raise ConfigError(f"no source {name!r}: {hint}")


def merge(manifests: Sequence[Manifest], root: str | Path) -> Manifest:
    """Joins manifests into one; patient ids are taken for the same person wherever they are equal.

    Args:
        manifests: Manifests whose folders lie in `root`.
        root: Folder that the paths of the result are relative to.

    Returns:
        Rows in the order given, with the union of the columns: text that a manifest lacks is "", a label NaN.

    Raises:
        ManifestError: There is none, a folder lies elsewhere, a path is there twice, a patient is in two splits, or a
            column is a label in one and text in another.
    """
    if not manifests:
        raise ManifestError("there are no manifests to merge: give at least one")
    tables = [_moved(manifest, Path(root)) for manifest in manifests]
    try:
        table = together(tables)
    except pa.ArrowException as error:
        raise ManifestError(f"the manifests do not fit together, rename a column: {error}") from error
    return Manifest(table, Path(root))


def _moved(manifest: Manifest, root: Path) -> pa.Table:
    below = os.path.relpath(os.path.abspath(manifest.root), os.path.abspath(root))
    if below.split(os.sep)[0] == os.pardir:
        raise ManifestError(f"{manifest.root} is not in {root}: give a folder that all the sets lie in")
    paths = [os.path.normpath(os.path.join(below, path)) for path in manifest.column("path")]
    index = manifest.table.column_names.index("path")
    return manifest.table.set_column(index, "path", pa.array([Path(path).as_posix() for path in paths]))
