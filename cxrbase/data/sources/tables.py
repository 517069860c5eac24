"""Reads the tables of public data sets as text, and lists the files of a folder."""

import csv
import gzip
import os
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cxrbase.errors import ManifestError


def find_table(root: Path, *names: str) -> Path:
    """First of the named files that is in the folder, compressed as .gz or not; ManifestError where none is."""
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.is_file():
                return path
    raise ManifestError(f"{root} has no table {' or '.join(names)}: finish the download, or give another folder")


def header(path: Path) -> list[str]:
    """Names of the columns, stripped."""
    with _rows(path) as rows:
        return next(rows, [])


def read_csv(path: Path, *, columns: Sequence[str]) -> dict[str, list[str]]:
    """Named columns of a table with a header line, every cell as stripped text.

    Args:
        path: Table in UTF-8, with or without a byte order mark; a name ending in .gz is decompressed.
        columns: Columns to read; others may be there.

    Raises:
        ManifestError: The file or a column is missing, or the file is damaged.
    """
    with _rows(path) as rows:
        names = next(rows, [])
        places = [_place(path, names, column) for column in columns]
        cells: list[list[str]] = [[] for _ in columns]
        for number, row in enumerate(rows, 1):
            if len(row) <= max(places, default=0):
                raise ManifestError(
                    f"{path} has {len(row)} cells in row {number}, its header {len(names)}: download it again"
                )
            for place, column in zip(places, cells, strict=True):
                column.append(row[place])
    return dict(zip(columns, cells, strict=True))


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, stripped, without blank ones; ManifestError where it is missing or damaged."""
    with _text(path) as lines:
        return [line.strip() for line in lines if line.strip()]


def read_note(path: Path) -> str:
    """Text that accompanies an image, on one line; blank where there is none, for the image is complete without."""
    return " ".join(path.read_bytes().decode("utf-8", "replace").split()) if path.is_file() else ""


def files_below(root: Path, suffixes: Collection[str]) -> list[str]:
    """Files below a folder with one of the suffixes, such as .png, in any case: sorted paths relative to it."""
    wanted = {suffix.lower() for suffix in suffixes}
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        chosen = [name for name in files if not name.startswith(".") and os.path.splitext(name)[1].lower() in wanted]
        found += [Path(folder, name).relative_to(root).as_posix() for name in chosen]
    return sorted(found)


def _place(path: Path, names: list[str], column: str) -> int:
    if names.count(column) != 1:
        said = f"{names.count(column)} columns" if column in names else "no column"
        raise ManifestError(f"{path} has {said} {column!r}, found {', '.join(names) or 'nothing'}: download it again")
    return names.index(column)


@contextmanager
def _rows(path: Path) -> Iterator[Iterator[list[str]]]:
    with _text(path) as lines:
        # Strict, because otherwise one stray quotation mark swallows every row after it.
        rows = csv.reader(lines, strict=True)
        yield ([cell.strip() for cell in row] for row in rows if row)


@contextmanager
def _text(path: Path) -> Iterator[Iterator[str]]:
    if not path.is_file():
        raise ManifestError(f"no table {path}: finish the download, or give another folder")
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as lines:
            yield lines
    except (OSError, EOFError, UnicodeError, zlib.error, csv.Error) as error:
        raise ManifestError(f"cannot read {path}, download it again: {' '.join(str(error).split())}") from error
