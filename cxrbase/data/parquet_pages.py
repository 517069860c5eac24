"""What the pages of a Parquet file say they hold, read off their headers without decompressing any.

The footer says it too, but readers do not check it: they take the memory that a page asks for.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cxrbase.data.parquet_footer import Place
from cxrbase.data.parquet_thrift import read_record

_WINDOW = 1 << 16  # bytes that are read for one header; one with long statistics takes more
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


def read_chunk(file: pa.NativeFile, place: Place) -> Chunk:
    """Reads the headers of all pages of a column chunk.

    Args:
        file: The Parquet file.
        place: Of the chunk.

    Raises:
        pa.ArrowInvalid: A header is damaged.
    """
    at, end = place.begin, place.end
    uncompressed = values = seen = 0
    prefixed = False
    while at < end and seen < place.values:
        header, at = _header(file, at, end)
        pages = {number: header[number] for number in _KINDS if isinstance(header.get(number), dict)}
        counts = [page.get(1) for page in pages.values()]
        if not all(isinstance(count, int) for count in counts):
            raise pa.ArrowInvalid(f"the page at byte {at:,} does not say how many values it has")
        count = max(counts, default=0)
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
            fields, used = read_record(data, 0)
            break
        except IndexError:
            if size >= end - at or len(data) < size:
                raise pa.ArrowInvalid(f"the page at byte {at:,} has a damaged header") from None
            size *= 16
    if not all(isinstance(fields.get(number), int) for number in (_TYPE, _UNCOMPRESSED, _COMPRESSED)):
        raise pa.ArrowInvalid(f"the page at byte {at:,} has a damaged header")
    return fields, at + used
