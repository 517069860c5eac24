"""Where the columns of a Parquet file are, read off its footer.

pyarrow tells it too, but ends the process where some entries of a column are damaged.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cxrbase.data.parquet_thrift import read_record

# Fields by their numbers in parquet.thrift.
_ROW_GROUPS, _COLUMNS, _META_DATA = 4, 1, 3
_NUM_VALUES, _COMPRESSED, _DATA_PAGE, _DICTIONARY_PAGE = 5, 7, 9, 11


@dataclass(frozen=True)
class Place:
    """One column of one row group.

    Attributes:
        begin: Its first byte in the file.
        end: The byte after its last.
        values: Number of its values, missing ones included.
    """

    begin: int
    end: int
    values: int


def read_places(file: pa.NativeFile, columns: int) -> list[list[Place]]:
    """Reads the footer of a file that pyarrow opens.

    Args:
        file: The file.
        columns: Stored columns of its schema.

    Returns:
        The columns of each row group, in the order of the schema.

    Raises:
        pa.ArrowInvalid: It is damaged.
    """
    file.seek(file.size() - 8)
    length = int.from_bytes(file.read(4), "little")
    file.seek(max(file.size() - 8 - length, 0))
    try:
        footer, _ = read_record(file.read(length), 0)
    except IndexError:
        raise pa.ArrowInvalid("its footer is cut off") from None
    groups = [_field(group, _COLUMNS, list) for group in _field(footer, _ROW_GROUPS, list)]
    for number, group in enumerate(groups):
        if len(group) != columns:
            raise pa.ArrowInvalid(f"row group {number} has {len(group)} of {columns} columns")
    return [[_place(column) for column in group] for group in groups]


def _place(column: Any) -> Place:
    told = _field(column, _META_DATA, dict)
    begin, dictionary = _field(told, _DATA_PAGE, int), told.get(_DICTIONARY_PAGE)
    if isinstance(dictionary, int) and 0 < dictionary < begin:
        begin = dictionary
    if begin < 0 or (size := _field(told, _COMPRESSED, int)) < 0:
        raise pa.ArrowInvalid("the footer has a negative place or size: it is damaged")
    return Place(begin, begin + size, _field(told, _NUM_VALUES, int))


def _field(record: Any, number: int, kind: type) -> Any:
    value = record.get(number) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        raise pa.ArrowInvalid(f"the footer has no field {number} where there must be one: it is damaged")
    return value
