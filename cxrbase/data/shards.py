"""The format of packed images: tar shards that any tool can open, and a Parquet index that is also a manifest."""

import io
import json
import re
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from cxrbase.data.parquet import read_parquet
from cxrbase.data.reading import Reading
from cxrbase.data.storage import Storage
from cxrbase.errors import ConfigError, ShardError

FORMAT_VERSION = 1
INDEX = "index.parquet"
Codec = Literal["jpeg", "png"]
SUFFIXES: dict[str, str] = {"jpeg": "jpg", "png": "png"}
# Key of the index's Parquet metadata that holds how the images were made, as JSON.
METADATA_KEY = b"cxrbase"

# What the index knows of an image beyond its manifest.
PACKED_FIELDS = (
    pa.field("shard", pa.string()),  # file name below the folder of the index
    pa.field("offset", pa.int64()),  # of the encoded image itself, after its 512-byte header
    pa.field("size", pa.int64()),  # bytes of the encoded image
    pa.field("crc32", pa.int64()),  # of those bytes, 0 to 2**32 - 1
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("sha1", pa.string()),  # of the pixels that were encoded
    pa.field("phash", pa.string()),  # see data/fingerprint.py
)
# Further numbers of each image, see data/grey.py; an index that was written before there were any lacks them.
STATISTICS_FIELDS = tuple(pa.field(name, pa.float32()) for name in ("grey_std", "rim_brightness", "extreme_share"))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_HEADER = 512


@dataclass(frozen=True)
class Member:
    """One encoded image and where it lies in its shard.

    Attributes:
        name: File name in the tar.
        offset: Of its first byte in the shard.
        size: In bytes.
        crc32: Of its bytes.
    """

    name: str
    offset: int
    size: int
    crc32: int


def check_source_name(name: str) -> str:
    """The name, which is part of file names; ShardError where webdataset or a file system would split or refuse it."""
    if not _NAME.fullmatch(name):
        raise ShardError(f"a source's name must be up to 64 letters, digits, - and _, got {name!r}")
    return name


def shard_name(source: str, block: int) -> str:
    """File of a block of a source, relative to the folder of the index."""
    return f"shards/{source}-{block:06d}.tar"


def block_name(source: str, block: int) -> str:
    """File that says what a block holds; a block without it is not finished."""
    return f"blocks/{source}-{block:06d}.parquet"


def member_name(source: str, row: int, codec: str) -> str:
    """Name in the tar of the image in a row of its source's manifest."""
    return f"{source}-{row:09d}.{SUFFIXES[codec]}"


def write_tar(members: Sequence[tuple[str, bytes]]) -> tuple[bytes, list[Member]]:
    """Makes a tar that depends on nothing but its content.

    Args:
        members: Name and bytes of each file.

    Returns:
        The tar, POSIX ustar with times and owners 0, and where its members lie.
    """
    file, placed = io.BytesIO(), []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            placed.append(Member(name, file.tell() + _HEADER, len(data), zlib.crc32(data)))
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue(), placed


def parquet_bytes(table: pa.Table, metadata: Mapping[str, Any]) -> bytes:
    """A table as a Parquet file with JSON metadata, the same bytes for the same content."""
    kept = {METADATA_KEY: json.dumps(metadata, sort_keys=True)}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(kept), sink, compression="zstd")
    return bytes(sink.getvalue())


def metadata_of(schema: pa.Schema) -> dict[str, Any]:
    """JSON metadata of a table that `parquet_bytes` wrote; ShardError where there is none."""
    try:
        found = json.loads((schema.metadata or {})[METADATA_KEY])
        if not isinstance(found, dict):
            raise ValueError(f"the metadata is a {type(found).__name__}")
    except (KeyError, ValueError) as error:
        raise ShardError("the file does not say how its images were made: it is not of cxrbase pack") from error
    return found


def reading_of(metadata: Mapping[str, Any], index: str | Path) -> Reading:
    """How the files were read that images were packed from; ShardError where an index names what there is not.

    Args:
        metadata: Of `metadata_of`.
        index: File that it is of, for the error.
    """
    try:
        return Reading.of(metadata)
    except ConfigError as error:
        raise ShardError(f"{index} does not say how its images were made ({error}): pack them again") from error


def read_table(storage: Storage, name: str) -> pa.Table:
    """A Parquet file of a pack, checked against the format; ShardError where it is missing, damaged or another's."""
    data = storage.read(name)
    try:
        table = read_parquet(data)
        version = metadata_of(table.schema).get("version")
        names = list(table.column_names)
    except ShardError as error:
        raise ShardError(f"{storage.url}/{name}: {error}") from error
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise ShardError(f"cannot read {storage.url}/{name} ({' '.join(str(error).split())}): pack it again") from error
    if version != FORMAT_VERSION:
        raise ShardError(f"{storage.url}/{name} has format {version}, this version reads {FORMAT_VERSION}")
    for field in PACKED_FIELDS:
        if names.count(field.name) != 1 or table.schema.field(field.name).type != field.type:
            raise ShardError(f"{storage.url}/{name} has no column {field.name} of {field.type}: pack the images again")
    return table


def read_index(folder: str | Path) -> pa.Table:
    """The index of a folder or fsspec URL of packed images.

    Returns:
        One row per image, sorted by shard and offset: the columns of a manifest, with `path` as `<source>/<path in its
        manifest>`, PACKED_FIELDS and STATISTICS_FIELDS. Give it to `metadata_of` for size, codec, quality and intensity
        convention.

    Raises:
        ShardError: It is missing, damaged or of another version.
    """
    storage = Storage(folder)
    if not storage.exists(INDEX):
        raise ShardError(f"{storage.url} has no {INDEX}: pack images into it with cxrbase pack, and let it finish")
    return read_table(storage, INDEX)
