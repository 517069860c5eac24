"""Parquet files whose memory is bounded by their size before it is taken.

A value that repeats is stored once, so that a file of 22 kB can hold a gigabyte of text.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrbase.data.parquet_footer import read_places
from cxrbase.data.parquet_pages import read_chunk

# A manifest of a million rows, with twenty columns that say the same in all, takes 700 times the bytes of the file.
ALWAYS = 128_000_000  # bytes that any file may take
TIMES = 1000  # and how many more for each of its own
_VALUE = 16  # bytes of a value, as number or as text, whatever it is stored in


class LargeTableError(pa.ArrowInvalid):  # type: ignore[misc]
    """A Parquet file that would take far more memory than its size lets expect."""


def read_parquet(
    source: str | Path | bytes, *, columns: Sequence[str] | None = None, dictionaries: bool = False
) -> pa.Table:
    """Reads a file, or the bytes of one, after looking at what it will take in memory.

    Args:
        source: The file.
        columns: Names; None takes all.
        dictionaries: Whether text stays as it is stored, each value once.

    Raises:
        LargeTableError: It would take more than 128 MB and 1,000 times its size.
        pa.ArrowException: It is damaged.
        OSError: It cannot be read.
    """
    with _opened(source) as file:
        checked = _Checked(file, columns)
        table = checked.whole.read(columns)
        checked.check(table, checked.whole.metadata.num_rows)
        return table if dictionaries else _as_stored(table, checked.schema)


def read_row_groups(path: str | Path, *, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Reads a file as `read_parquet` does, one row group after the other, so that one is in memory at a time."""
    with _opened(path) as file:
        checked = _Checked(file, columns)
        for group in range(checked.whole.num_row_groups):
            table = checked.whole.read_row_group(group, columns)
            checked.check(table, checked.whole.metadata.row_group(group).num_rows)
            yield _as_stored(table, checked.schema)


class _Checked:
    """An open file whose pages were looked at; each text of it is in memory once until `check` has summed it up.

    Attributes:
        whole: The file.
        schema: Types of its columns.
    """

    def __init__(self, file: pa.NativeFile, columns: Sequence[str] | None) -> None:
        plain = pq.ParquetFile(file)
        wanted = _wanted(plain, columns)
        self._limit = ALWAYS + TIMES * file.size()
        self._total = _check_pages(plain.metadata, file, wanted, self._limit)
        text = [plain.metadata.schema.column(leaf).path for leaf in wanted if _is_text(plain, leaf)]
        self.schema = plain.schema_arrow
        self.whole = pq.ParquetFile(file, metadata=plain.metadata, read_dictionary=text)

    def check(self, table: pa.Table, rows: int) -> None:
        """Adds up the text of a table; LargeTableError where each value by itself would take too much.

        ArrowInvalid where a column has not as many rows as the file says, which damage to its pages can do.
        """
        for name, column in zip(table.column_names, table.columns, strict=True):
            if len(column) != rows:
                raise pa.ArrowInvalid(f"column {name} has {len(column)} of {rows} rows")
            for chunk in column.chunks if pa.types.is_dictionary(column.type) else ():
                if _has_length(chunk.dictionary.type):
                    lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
                    self._total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
            if self._total > self._limit:
                raise _too_large(f"column {name}", self._total, self._limit)


@contextmanager
def _opened(source: str | Path | bytes) -> Iterator[pa.NativeFile]:
    with pa.BufferReader(source) if isinstance(source, bytes) else pa.OSFile(str(source)) as file:
        yield file


def _wanted(file: pq.ParquetFile, columns: Sequence[str] | None) -> list[int]:
    """Numbers of the stored columns that belong to some names; a list or record has several."""
    paths = [file.metadata.schema.column(leaf).path for leaf in range(file.metadata.num_columns)]
    if columns is None:
        return list(range(len(paths)))
    return [leaf for leaf, path in enumerate(paths) if any(f"{path}.".startswith(f"{name}.") for name in columns)]


def _is_text(file: pq.ParquetFile, leaf: int) -> bool:
    return bool(file.metadata.schema.column(leaf).physical_type == "BYTE_ARRAY")


def _check_pages(metadata: Any, file: pa.NativeFile, wanted: Sequence[int], limit: int) -> int:
    """Bytes in memory of everything but text; LargeTableError where they are too many, or text could hide in others."""
    uncompressed = fixed = 0
    places = read_places(file, metadata.num_columns)
    for leaf in wanted:
        column = metadata.schema.column(leaf)
        text = column.physical_type == "BYTE_ARRAY"
        if text and (column.max_repetition_level or column.path != column.name):
            raise LargeTableError(f"column {column.path} holds text within lists or records: drop it")
        for group in places:
            chunk = read_chunk(file, group[leaf])
            if text and chunk.prefixed:
                raise LargeTableError(
                    f"column {column.path} is encoded as DELTA_BYTE_ARRAY, which does not tell its size: "
                    "write the file with plain text or dictionaries"
                )
            uncompressed += chunk.uncompressed
            fixed += chunk.values * max(_VALUE, column.length)
            if max(uncompressed, fixed) > limit:
                raise _too_large(f"column {column.path}", max(uncompressed, fixed), limit)
    return fixed


def _has_length(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _as_stored(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the types that reading it without dictionaries gives."""
    # Names may be there twice, which the reader of a manifest answers; then all columns were asked for.
    whole = table.column_names == schema.names
    for number, name in enumerate(table.column_names):
        field = schema.field(number if whole else schema.names.index(name))
        kind = table.schema.field(number).type
        if kind != field.type:
            # Not every type of text is made of a dictionary in one step.
            table = table.set_column(number, field, table.column(number).cast(kind.value_type).cast(field.type))
    return table


def _too_large(column: str, size: int, limit: int) -> LargeTableError:
    return LargeTableError(
        f"with {column} it takes {size / 1e6:,.0f} MB of memory, and a file of its size may take {limit / 1e6:,.0f}: "
        "drop columns that repeat long text"
    )
