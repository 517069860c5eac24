"""Exclusion lists: which images of which source to leave out, as an audit writes them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxrbase.data.manifest import Manifest
from cxrbase.data.manifest_columns import read_table, text_of
from cxrbase.errors import ManifestError

Exclusions = frozenset[tuple[str, str]]


def read_exclusions(paths: Sequence[str | Path]) -> Exclusions:
    """Reads lists, .csv or .parquet, with the columns `path` and, where paths of sources may be equal, `source`.

    Returns:
        Source, "" for any, and path of each image.

    Raises:
        ManifestError: A list is missing, malformed or without a column `path`.
    """
    found: set[tuple[str, str]] = set()
    for path in map(Path, paths):
        if path.suffix.lower() not in (".csv", ".parquet") or not path.is_file():
            raise ManifestError(f"no exclusion list {path}: give an existing .csv or .parquet file, as audit writes it")
        try:
            table = read_table(path)
            names = text_of(table, "path").to_pylist()
            known = "source" in table.column_names
            sources = text_of(table, "source").to_pylist() if known else [""] * len(names)
        except (ManifestError, pa.ArrowException, OSError, UnicodeError) as error:
            raise ManifestError(f"cannot read the exclusion list {path}: {' '.join(str(error).split())}") from error
        found.update(zip(sources, names, strict=True))
    return frozenset(found)


def excluded(manifest: Manifest, exclusions: Exclusions) -> NDArray[np.bool_]:
    """Which images the lists name, (N,); a path counts with and without `<source>/` before it, as packing writes it."""
    if not exclusions:
        return np.zeros(len(manifest), bool)
    rows = zip(manifest.column("source"), manifest.column("path"), strict=True)
    return np.array([_named(source, path, exclusions) for source, path in rows], bool)


def _named(source: str, path: str, exclusions: Exclusions) -> bool:
    forms = {path, f"{source}/{path}", path.removeprefix(f"{source}/")}
    return any((who, form) in exclusions for who in ("", source) for form in forms)
