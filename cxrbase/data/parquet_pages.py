"""What the pages of a Parquet file say they hold, read off their headers without decompressing any.

The footer says it too, but readers do not check it: they take the memory that a page asks for.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

_WINDOW = 1 << 16  # bytes that are read for one header; one with long statistics takes more
_DEEPEST = 8  # records within records; those of a header have two levels
_DICTIONARY = 2  # type of a page
_DELTA_BYTE_ARRAY = 7  # an encoding
# Fields of a page header, by its number in parquet.thrift.
_TYPE, _UNCOMPRESSED, _COMPRESSED = 1, 2, 3
_KINDS = {5: "data_page_header", 7: "dictionary_page_header", 8: "data_page_header_v2"}
_ENCODING = {5: 2, 8: 4}


@dataclass(frozen=True)
class Chunk:
    """What the pages of one column of one row group hold.

    Attributes:
        uncompressed: Bytes after decompression, levels included.
        values: Values, those of dictionaries and missing ones included.
        prefixed: Whether a value may be written as the beginning of the one before (DELTA_BYTE_ARRAY), so that the
            bytes do not bound the text.
    """

    uncompressed: int
    values: int
    prefixed: bool


def read_chunk(file: pa.NativeFile, column: Any) -> Chunk:
    """Reads the headers of all pages of a column chunk.

    Args:
        file: The Parquet file.
        column: A `pyarrow.parquet.ColumnChunkMetaData` of it.

    Raises:
        pa.ArrowInvalid: A header is damaged.
    """
    begin, dictionary = column.data_page_offset, column.dictionary_page_offset
    at = dictionary if dictionary is not None and 0 < dictionary < begin else begin
    end = at + column.total_compressed_size
    uncompressed = values = seen = 0
    prefixed = False
    while at < end and seen < column.num_values:
        header, at = _header(file, at, end)
        pages = {number: header[number] for number in _KINDS if isinstance(header.get(number), dict)}
        count = max((int(page.get(1) or 0) for page in pages.values()), default=0)
        if min(count, header[_UNCOMPRESSED], header[_COMPRESSED]) < 0:
            raise pa.ArrowInvalid(f"the page at byte {at:,} has a negative size")
        uncompressed += header[_UNCOMPRESSED]
        values += count
        seen += count * (header[_TYPE] != _DICTIONARY)
        prefixed |= any(pages[n].get(field) == _DELTA_BYTE_ARRAY for n, field in _ENCODING.items() if n in pages)
        at += header[_COMPRESSED]
    return Chunk(uncompressed, values, prefixed)


def _header(file: pa.NativeFile, at: int, end: int) -> tuple[dict[int, Any], int]:
    """The fields of the page header at a place, and the place after it."""
    size = _WINDOW
    while True:
        file.seek(at)
        data = file.read(min(size, end - at))
        try:
            fields, used = _record(data, 0)
            break
        except IndexError:
            if size >= end - at or len(data) < size:
                raise pa.ArrowInvalid(f"the page at byte {at:,} has a damaged header") from None
            size *= 16
    if not all(isinstance(fields.get(number), int) for number in (_TYPE, _UNCOMPRESSED, _COMPRESSED)):
        raise pa.ArrowInvalid(f"the page at byte {at:,} has a damaged header")
    return fields, at + used


def _record(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """A struct of Thrift's compact protocol: its numbers and structs by field; IndexError where it is cut off."""
    if depth > _DEEPEST:
        raise pa.ArrowInvalid("a page header has records within records: it is damaged")
    fields: dict[int, Any] = {}
    number = 0
    while data[at]:
        step, kind = divmod(data[at], 16)
        at += 1
        if step:
            number += step
        else:
            number, at = _number(data, at)
        fields[number], at = _value(data, at, kind, depth)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return None, at + 1
    if kind in (4, 5, 6):
        return _number(data, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        length, at = _varint(data, at)
        return None, at + length
    if kind == 12:
        return _record(data, at, depth + 1)
    # Lists, sets and maps stand in no page header.
    raise pa.ArrowInvalid("a page header holds what no page header does: it is damaged")


def _number(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] & 128:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if shift > 63:
            raise pa.ArrowInvalid("a page header has a number of more than 64 bits: it is damaged")
    return value | data[at] << shift, at + 1
