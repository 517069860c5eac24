"""Exclusion lists: which images of which source to leave out, as an audit writes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cxrbase.data.manifest_columns import read_table, text_of
from cxrbase.errors import ManifestError

EXCLUSION_COLUMNS = ("source", "path", "reason", "sets")


@dataclass(frozen=True)
class ExclusionList:
    """One list.

    Args:
        file: Where it was read.
        entries: Source, "" for any, and path of each image.
        sets: What its column `sets` says: how many sets the audit was over; None for a list that was made by hand.
    """

    file: str
    entries: tuple[tuple[str, str], ...]
    sets: int | None = None

    @property
    def sources(self) -> list[str]:
        """Sources that it names."""
        return list(dict.fromkeys(source for source, _ in self.entries if source))


def read_exclusions(paths: Sequence[str | Path]) -> list[ExclusionList]:
    """Reads lists, .csv or .parquet, with the columns `path` and, where paths of sources may be equal, `source`.

    Raises:
        ManifestError: A list is missing, malformed or without a column `path`.
    """
    return [_read(Path(path)) for path in paths]


def _read(path: Path) -> ExclusionList:
    if path.suffix.lower() not in (".csv", ".parquet") or not path.is_file():
        raise ManifestError(f"no exclusion list {path}: give an existing .csv or .parquet file, as audit writes it")
    try:
        table = read_table(path)
        names = text_of(table, "path").to_pylist()
        sources, sets = (_optional(table, name, len(names)) for name in ("source", "sets"))
    except (ManifestError, pa.ArrowException, OSError, UnicodeError) as error:
        raise ManifestError(f"cannot read the exclusion list {path}: {' '.join(str(error).split())}") from error
    said = set(sets) - {""}
    # Whatever else is written there, it was not one set.
    count = None if not said else 1 if said == {"1"} else 2
    return ExclusionList(str(path), tuple(dict.fromkeys(zip(sources, names, strict=True))), count)


def _optional(table: pa.Table, name: str, rows: int) -> list[str]:
    return list(text_of(table, name).to_pylist()) if name in table.column_names else [""] * rows
