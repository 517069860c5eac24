"""Reads, checks and parses the columns of a manifest: names, paths, splits, ages and labels."""

import csv
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from cxrbase.data.parquet import read_parquet
from cxrbase.errors import ManifestError

MOST_ORIGINS = 100  # values of the column `origin`; one that has more holds no groups, and may name people
# Where images of a set that was put together are from: their source before they got another, and the origin within it.
ORIGINS = ("original_source", "origin")
_HEADER = 100_000  # bytes of a CSV file that hold its header
STRING_COLUMNS = ("path", "source", "patient_id", "study_id", "view_position", "split", "sex", "site")
SPLITS = ("train", "val", "test")
LABEL_PREFIX = "label_"


def read_table(path: Path) -> pa.Table:
    """Reads a .parquet or .csv file; of the latter every column as text, so that patient 007 stays 007.

    Columns may be separated by semicolons or tabs too, as spreadsheets of some countries write them.
    """
    if path.suffix.lower() != ".csv":
        return read_parquet(path)
    parse = pacsv.ParseOptions(delimiter=_delimiter(path), newlines_in_values=True)
    with pacsv.open_csv(path, parse_options=parse) as reader:
        names = reader.schema.names
    # Columns of such names would not be known, and so labels, patients and splits be left out in silence.
    if odd := [name for name in names if name != name.strip()]:
        raise ManifestError(
            f"the column name {odd[0]!r} has blanks around it: write commas without blanks in the header"
        )
    types = dict.fromkeys(names, pa.string())
    convert = pacsv.ConvertOptions(column_types=types, strings_can_be_null=False)
    # One thread, because only then errors name the row.
    return pacsv.read_csv(path, pacsv.ReadOptions(use_threads=False), parse, convert)


def _delimiter(path: Path) -> str:
    """What separates the columns of a CSV file."""
    with path.open("rb") as file:
        start = file.read(_HEADER)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ManifestError("it is UTF-16 text: save it as UTF-8")
    header = start.decode("utf-8-sig", errors="replace").splitlines()[:1]
    return next((mark for mark in ",;\t" if any("path" in names for names in csv.reader(header, delimiter=mark))), ",")


def complete(table: pa.Table) -> pa.Table:
    """Checks every column, gives it its type and adds the missing ones."""
    table = with_view_position(table)
    names = table.column_names
    if not len(pick(table, "path")):
        raise ManifestError("the manifest has no rows: give one row per image")
    text = dict.fromkeys((*STRING_COLUMNS, "age"), pa.array([""] * len(table)))
    text |= {name: text_of(table, name) for name in names}
    text["path"] = pa.array(_checked_paths(text["path"].to_pylist()))
    _check_splits(text["patient_id"].to_pylist(), text["split"].to_pylist())
    done = {name: text.pop(name) for name in STRING_COLUMNS}
    done["age"] = _numbers("age", text.pop("age"), wanted="years or nothing")
    for name in [name for name in text if name.startswith(LABEL_PREFIX)]:
        # A text column without a single number, such as label_detail, is a remark and not a broken label.
        if table[name].type not in (pa.string(), pa.large_string()) or _any_number(text[name]):
            done[name] = _numbers(name, text.pop(name), wanted="1, 0 or nothing")
    return pa.table(done | text)


def together(tables: Sequence[pa.Table]) -> pa.Table:
    """Rows of several manifests with the union of their columns, null where one lacks a column.

    A label that is blank throughout in one of them is text there and takes the type that it has in the others.

    Raises:
        ArrowException: A column is a label in one and text in another.
    """
    names = {name for table in tables for name in table.column_names if name.startswith(LABEL_PREFIX)}
    for name in sorted(names):
        having = [table for table in tables if name in table.column_names]
        if len({table[name].type for table in having}) < 2:
            continue
        told = {table[name].type for table in having if not _blank(table, name)} or {pa.float32()}
        tables = [_as_nulls(table, name, told) for table in tables]
    return pa.concat_tables(tables, promote_options="default")


def _as_nulls(table: pa.Table, name: str, types: set[pa.DataType]) -> pa.Table:
    """A blank column of another type than these, as nulls of one of them."""
    if name not in table.column_names or table[name].type in types or not _blank(table, name):
        return table
    return table.set_column(table.column_names.index(name), name, pa.nulls(len(table), min(types, key=str)))


def _blank(table: pa.Table, name: str) -> bool:
    return bool(pc.all(pc.equal(text_of(table, name), "")).as_py())


def with_view_position(table: pa.Table) -> pa.Table:
    """Gives the column `view` its name; ManifestError where two columns are named the same."""
    names = distinct_names(table)
    if "view_position" in names:
        return table
    return table.rename_columns(["view_position" if name == "view" else name for name in names])


def distinct_names(table: pa.Table) -> list[str]:
    """Names of the columns; ManifestError where two are the same."""
    names = list(table.column_names)
    for name in names:
        if names.count(name) > 1:
            raise ManifestError(f"the manifest has {names.count(name)} columns named {name!r}: rename all but one")
    return names


def is_frontal(view: str) -> bool:
    """Whether a view position is a frontal one."""
    return view.upper() in ("PA", "AP")


def is_lateral(view: str) -> bool:
    """Whether a view position is a lateral one, as manifests name it or as DICOM's View Position: left or right."""
    return view.upper() in ("LATERAL", "LL", "RL")


def pick(table: pa.Table, name: str) -> pa.ChunkedArray:
    """One column; ManifestError where it is absent."""
    if name not in table.column_names:
        found = ", ".join(table.column_names) or "none"
        raise ManifestError(f"the manifest has no column {name}; its columns are {found}")
    return table[name]


def text_of(table: pa.Table, name: str) -> pa.Array:
    """A column as text without nulls; NaN is blank, because that is how pandas marks a missing value."""
    column = pick(table, name)
    try:
        text = column.cast(pa.string()).fill_null("")
        if pa.types.is_floating(column.type):
            text = pc.if_else(pc.is_nan(column).fill_null(True), "", text)
    except pa.ArrowException as error:
        raise ManifestError(f"column {name} cannot be read as text: drop it ({error})") from error
    return text.combine_chunks()


@lru_cache(4096)
def _number(text: str) -> float:
    """Blank is NaN; what is not a number is infinite, which no column may hold."""
    try:
        return float({"": "nan", "true": "1", "false": "0"}.get(text.strip().lower(), text))
    except ValueError:
        return np.inf


def _any_number(text: pa.Array) -> bool:
    return any(np.isfinite(_number(value)) for value in pc.unique(text).to_pylist())


def _numbers(name: str, text: pa.Array, *, wanted: str) -> pa.Array:
    numbers = np.array([_number(value) for value in text.to_pylist()])
    good = np.isin(numbers, (0, 1)) if name.startswith(LABEL_PREFIX) else (numbers >= 0) & (numbers < np.inf)
    for row in np.flatnonzero(~(good | np.isnan(numbers)))[:1]:
        raise ManifestError(f"column {name} must hold {wanted}, got {text[int(row)].as_py()!r} in row {row + 1}")
    return pa.array(numbers.astype(np.float32))


def _checked_paths(paths: list[str]) -> list[str]:
    first: dict[str, int] = {}
    for row, path in enumerate(paths, 1):
        pure = PurePosixPath(path)
        if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\0" in path:
            raise ManifestError(f"path {path!r} in row {row} must name a file inside the image folder, relative to it")
        if first.setdefault(str(pure), row) != row:
            raise ManifestError(f"path {path!r} is in row {first[str(pure)]} and again in row {row}: keep one")
    return list(first)


def _check_splits(patients: list[str], splits: list[str]) -> None:
    home: dict[str, str] = {}
    for row, (patient, split) in enumerate(zip(patients, splits, strict=True), 1):
        if split and split not in SPLITS:
            raise ManifestError(f"split must be one of {', '.join(SPLITS)} or blank, got {split!r} in row {row}")
        if patient and split and home.setdefault(patient, split) != split:
            both = f"split {home[patient]} and in split {split}"
            raise ManifestError(f"patient {patient} is in {both}: keep a patient in one, or give two people two ids")
