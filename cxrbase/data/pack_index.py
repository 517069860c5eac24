"""Joins the records of finished blocks into the index, and tells which blocks are finished."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from cxrbase.data import shards
from cxrbase.data.pack_block import BlockRecord
from cxrbase.data.pack_image import ImageOptions
from cxrbase.data.pack_plan import join
from cxrbase.data.storage import Storage
from cxrbase.errors import ShardError

Records = dict[str, dict[int, BlockRecord]]
_BLOCK = re.compile(r"(.+)-(\d{6,})\.parquet")
# Object storage answers each request late but many at once.
_READERS = 16


def finished(storage: Storage, source: str) -> dict[int, BlockRecord]:
    """Records of the blocks of a source that need no more work, by number.

    Left out are blocks whose record or shard is damaged or gone, and those with images that the operating system could
    not reach, which may have come back.
    """
    found = [_BLOCK.fullmatch(name) for name in storage.sizes("blocks")]
    numbers = [int(match[2]) for match in found if match and match[1] == source]
    sizes = storage.sizes("shards")

    def read(block: int) -> tuple[int, BlockRecord | None]:
        try:
            table = shards.read_table(storage, shards.block_name(source, block))
        except ShardError:
            return block, None
        facts = shards.metadata_of(table.schema)
        shard = shards.shard_name(source, block).removeprefix("shards/")
        whole = not facts["unreachable"] and sizes.get(shard, 0) == facts["bytes"]
        return block, BlockRecord(source, block, table, facts) if whole else None

    with ThreadPoolExecutor(_READERS) as pool:
        return {block: record for block, record in pool.map(read, numbers) if record is not None}


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
