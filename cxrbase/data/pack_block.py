"""Packs one block: a fixed run of manifest rows becomes one shard, followed by the record that completes it."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cxrbase.data import shards
from cxrbase.data.pack_image import ImageOptions, PackedImage, pack_image
from cxrbase.data.storage import Storage
from cxrbase.errors import DecodeError, ShardError


@dataclass(frozen=True)
class BlockTask:
    """What one process needs to pack a block.

    Attributes:
        out: Folder or URL of the pack.
        source: Name of the source.
        block: Number of the block in it.
        root: Folder of the originals.
        table: Rows of the manifest, `path` relative to `root`.
        rows: Their numbers in the manifest.
        options: How images are made.
    """

    out: str
    source: str
    block: int
    root: str
    table: pa.Table
    rows: list[int]
    options: ImageOptions


@dataclass(frozen=True)
class BlockRecord:
    """What is known of a finished block.

    Attributes:
        source: Name of its source.
        block: Number in it.
        table: Its rows of the index.
        facts: `images` that were tried, `refused` with path, reason and state (see `file_state`), whether any of those
            was `unreachable`, `bytes` of the shard, `histogram` of 256 counts.
    """

    source: str
    block: int
    table: pa.Table
    facts: dict[str, Any]


def file_state(path: Path) -> list[int]:
    """Size and time of a file, which change where it is mended; none of one out of reach."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def present(storage: Storage, source: str, block: int, sizes: Mapping[str, int]) -> BlockRecord | None:
    """The record of a block as it lies in the folder; None where it or its shard is damaged or gone.

    Args:
        storage: Where the pack is.
        source: Name of the source.
        block: Number of the block in it.
        sizes: Bytes of each shard by file name.
    """
    try:
        table = shards.read_table(storage, shards.block_name(source, block))
    except ShardError:
        return None
    facts = shards.metadata_of(table.schema)
    shard = shards.shard_name(source, block).removeprefix("shards/")
    return BlockRecord(source, block, table, facts) if sizes.get(shard, 0) == facts["bytes"] else None


def pack_block(task: BlockTask) -> BlockRecord:
    """Packs a block, which gives the same files whenever and wherever it is done.

    What an earlier try left is kept where it holds more images, as others may be out of reach by now.

    Raises:
        ShardError: The output cannot be written.
    """
    packed: list[PackedImage] = []
    kept: list[int] = []
    refused: list[dict[str, Any]] = []
    unreachable = False
    for number, path in enumerate(task.table["path"].to_pylist()):
        state = file_state(Path(task.root, path))  # before it is read, because it may still be downloaded
        try:
            packed.append(pack_image(Path(task.root, path), task.options, source=task.source))
            kept.append(number)
        except DecodeError as error:
            refused.append({"path": path, "reason": error.reason, "state": state})
            unreachable |= error.unreachable
    storage, shard = Storage(task.out), shards.shard_name(task.source, task.block)
    if refused and (before := _with_more(storage, task, len(packed))):
        return before
    names = [shards.member_name(task.source, task.rows[number], task.options.codec) for number in kept]
    tar, members = shards.write_tar([(name, one.data) for name, one in zip(names, packed, strict=True)])
    if kept:
        storage.write(shard, tar)
    histogram = np.sum([one.histogram for one in packed], axis=0) if packed else np.zeros(256, np.int64)
    facts = {
        "version": shards.FORMAT_VERSION,
        "images": len(task.rows),
        "refused": refused,
        "unreachable": unreachable,
        "bytes": len(tar) if kept else 0,
        "histogram": histogram.tolist(),
    }
    table = _index_rows(task.table.take(pa.array(kept, pa.int64())), task.source, shard, members, packed)
    storage.write(shards.block_name(task.source, task.block), shards.parquet_bytes(table, facts))
    return BlockRecord(task.source, task.block, table, facts)


def _with_more(storage: Storage, task: BlockTask, images: int) -> BlockRecord | None:
    """What an earlier try left, if it holds more images than this one."""
    record = present(storage, task.source, task.block, storage.sizes("shards"))
    if record is None or len(record.table) <= images:
        return None
    # A try that was stopped before its record may have left another shard of the same length.
    tar = storage.read(shards.shard_name(task.source, task.block))
    places = zip(*(record.table[name].to_pylist() for name in ("offset", "size", "crc32")), strict=True)
    return record if all(zlib.crc32(tar[at : at + size]) == crc for at, size, crc in places) else None


def index_columns(table: pa.Table, source: str) -> pa.Table:
    """Columns of a manifest as the index has them: paths begin with the source, and names of its own are moved away."""
    taken = {field.name for field in (*shards.PACKED_FIELDS, *shards.STATISTICS_FIELDS)}
    names = list(table.column_names)
    for place, name in enumerate(table.column_names):
        while names[place] in taken or names.count(names[place]) > 1:
            names[place] = f"original_{names[place]}"
        if names[place] != name:
            taken.add(names[place])
    paths = pa.array([f"{source}/{path}" for path in table["path"].to_pylist()], pa.string())
    table = table.rename_columns(names).set_column(names.index("path"), "path", paths)
    return table.set_column(names.index("source"), "source", pa.array([source] * len(table), pa.string()))


def _index_rows(
    table: pa.Table, source: str, shard: str, members: list[shards.Member], packed: list[PackedImage]
) -> pa.Table:
    values: dict[str, list[Any]] = {
        "shard": [shard] * len(members),
        "offset": [member.offset for member in members],
        "size": [member.size for member in members],
        "crc32": [member.crc32 for member in members],
        "width": [image.width for image in packed],
        "height": [image.height for image in packed],
        "sha1": [image.sha1 for image in packed],
        "phash": [image.phash for image in packed],
        "grey_std": [image.statistics["std"] for image in packed],
        "rim_brightness": [image.statistics["border"] for image in packed],
        "extreme_share": [image.statistics["extreme"] for image in packed],
    }
    table = index_columns(table, source)
    for field in (*shards.PACKED_FIELDS, *shards.STATISTICS_FIELDS):
        table = table.append_column(field, pa.array(values[field.name], field.type))
    return table.combine_chunks()
