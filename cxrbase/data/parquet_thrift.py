"""Structs of Thrift's compact protocol, in which a Parquet file says what it holds.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from typing import Any

import pyarrow as pa

_DEEPEST = 8  # structs within structs; the deepest of a Parquet file is the sixth


def read_record(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Reads a struct.

    Args:
        data: Bytes.
        at: Place of its first.
        depth: How many structs and lists it is in.

    Returns:
        Numbers, structs and lists by field, everything else as None; and the place after it.

    Raises:
        IndexError: It is cut off.
        pa.ArrowInvalid: It is none.
    """
    if depth > _DEEPEST:
        raise pa.ArrowInvalid("it has records within records within records: it is damaged")
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
        return read_record(data, at, depth + 1)
    if kind in (9, 10):
        return _list(data, at, depth)
    # Maps stand nowhere in a Parquet file.
    raise pa.ArrowInvalid("it holds what no Parquet file does: it is damaged")


def _list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    count, kind = divmod(data[at], 16)
    at += 1
    if count == 15:
        count, at = _varint(data, at)
    if count > len(data) - at:  # every element takes a byte at least
        raise IndexError
    values = []
    for _ in range(count):
        # Whether it is true is a byte of its own in a list, and in the kind of a field otherwise.
        value, at = (None, at + 1) if kind in (1, 2) else _value(data, at, kind, depth)
        values.append(value)
    return values, at


def _number(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] & 128:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if shift > 63:
            raise pa.ArrowInvalid("it has a number of more than 64 bits: it is damaged")
    return value | data[at] << shift, at + 1
