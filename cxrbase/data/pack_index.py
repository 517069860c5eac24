"""Joins the records of finished blocks into the index, and tells which blocks are finished."""

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.compute as pc

from cxrbase.data import shards
from cxrbase.data.pack_block import BlockRecord, file_state, present
from cxrbase.data.pack_image import ImageOptions
from cxrbase.data.pack_plan import join
from cxrbase.data.storage import Storage
from cxrbase.errors import ShardError

Records = dict[str, dict[int, BlockRecord]]
_BLOCK = re.compile(r"(.+)-(\d{6,})\.parquet")
# Object storage answers each request late but many at once.
_READERS = 16


def finished(storage: Storage, source: str, root: Path) -> dict[int, BlockRecord]:
    """Records of the blocks of a source that need no more work, by number.

    Left out are blocks whose record or shard is damaged or gone, those with images that the operating system could not
    reach, which may have come back, and those with refused images whose files changed since, which may be mended.

    Args:
        storage: Where the pack is.
        source: Name of the source.
        root: Folder of its originals.
    """
    names = [_BLOCK.fullmatch(name) for name in storage.sizes("blocks")]
    numbers = [int(match[2]) for match in names if match and match[1] == source]
    sizes = storage.sizes("shards")

    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(lambda block: present(storage, source, block, sizes), numbers))
    return {record.block: record for record in found if record is not None and not _worth_another_try(record, root)}


def _worth_another_try(record: BlockRecord, root: Path) -> bool:
    # Records of earlier versions hold no states.
    return record.facts["unreachable"] or any(
        entry["state"] != file_state(root / entry["path"]) for entry in record.facts["refused"] if "state" in entry
    )


def withdraw_index(storage: Storage, again: Collection[str]) -> None:
    """Removes index.parquet where it names shards that are to be written again, whose bytes it would then be wrong of.

    Args:
        storage: Where the pack is.
        again: Names of those shards.
    """
    if not again or not storage.exists(shards.INDEX):
        return
    try:
        named = set(pc.unique(shards.read_table(storage, shards.INDEX)["shard"]).to_pylist())
    except ShardError:
        named = set(again)  # a damaged one is of no use
    if not named.isdisjoint(again):
        storage.remove(shards.INDEX)


def write_refused(storage: Storage, records: Records) -> None:
    """Writes refused.csv: source, path in its folder, and reason, of every image that was refused."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("source", "path", "reason"))
    for source, blocks in sorted(records.items()):
        for _, record in sorted(blocks.items()):
            writer.writerows((source, row["path"], row["reason"]) for row in record.facts["refused"])
    storage.write("refused.csv", text.getvalue().encode())


def write_index(
    storage: Storage, records: Records, options: ImageOptions, *, called: Mapping[str, Sequence[str]]
) -> None:
    """Writes index.parquet, sorted by shard and offset; ManifestError where the sources are no manifest together.

    Args:
        storage: Where the pack is.
        records: Finished blocks.
        options: How images were made.
        called: Other names of the sources, which an audit of the originals may have used.
    """
    found = [record for _, blocks in sorted(records.items()) for _, record in sorted(blocks.items())]
    tables = [record.table for record in found if len(record.table)]
    table = join(tables).sort_by([("shard", "ascending"), ("offset", "ascending")])
    metadata = {
        "version": shards.FORMAT_VERSION,
        "size": options.size,
        "codec": options.codec,
        "quality": options.quality if options.codec == "jpeg" else None,
        **options.reading.values(),
        "intensity": options.reading.convention,
        "sources": sorted(records),
        "called": {source: list(called[source]) for source in sorted(records)},
        "images": len(table),
    }
    storage.write(shards.INDEX, shards.parquet_bytes(table, metadata))


def refused_of(records: Sequence[BlockRecord]) -> int:
    """How many images were refused."""
    return sum(len(record.facts["refused"]) for record in records)
