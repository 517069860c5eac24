"""Plans a packing: manifests of the sources, their blocks, and whether the folder has the same settings."""

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxrbase.code_hash import code_hash
from cxrbase.data import shards
from cxrbase.data.decode import intensity_convention
from cxrbase.data.manifest import Manifest
from cxrbase.data.manifest_columns import together
from cxrbase.data.manifest_excluded import NamedImages, excluded
from cxrbase.data.manifest_exclusions import ExclusionList
from cxrbase.data.pack_block import BlockTask, index_columns
from cxrbase.data.pack_image import ImageOptions
from cxrbase.data.sources.catalogue import find
from cxrbase.data.storage import Storage
from cxrbase.errors import ConfigError, ManifestError, ShardError

logger = logging.getLogger(__name__)

_SHARD_BYTES = 64e6
# Bytes for each pixel of the square of the shorter side: 100 and 214 kB at 512 pixels.
_BYTES_PER_PIXEL = {"jpeg": 0.38, "png": 0.82}
# A set of few images still makes so many blocks, so that many processes find work.
_BLOCKS = 64
# What the bytes of a packed image and its columns depend on, beside its file and the options.
_CODE = tuple(f"data/{name}.py" for name in ("decode*", "reading", "pack_image", "fingerprint", "grey"))


@dataclass(frozen=True)
class Plan:
    """One source to pack.

    Attributes:
        name: In file names and in the column `source`.
        manifest: All its images.
        kept: (N,) bool, those that no exclusion list names.
        block_rows: Rows of the manifest in a block.
        options: How images are made.
        called: Other names of the source: that of its folder, and of the data set.
    """

    name: str
    manifest: Manifest
    kept: NDArray[np.bool_]
    block_rows: int
    options: ImageOptions
    called: tuple[str, ...] = ()

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-len(self.manifest) // self.block_rows)

    @property
    def images(self) -> int:
        """Number of images to pack."""
        return int(self.kept.sum())

    def settings(self) -> dict[str, Any]:
        """What must not change between runs into the same folder."""
        left_out = np.flatnonzero(~self.kept)
        return {
            "version": shards.FORMAT_VERSION,
            **asdict(self.options),
            "intensity": intensity_convention(self.options.window),
            "manifest": self.manifest.fingerprint(),
            "rows": len(self.manifest),
            "block_rows": self.block_rows,
            "excluded": len(left_out),
            "excluded_rows": hashlib.sha256(left_out.astype("<i8").tobytes()).hexdigest(),
        }

    def left(self, done: Collection[int]) -> list[int]:
        """Blocks that are to be packed, in order."""
        return [block for block in range(self.blocks) if block not in done and len(self._rows(block))]

    def tasks(self, out: str, done: Collection[int]) -> Iterator[BlockTask]:
        """Work that is left, in order."""
        root = str(self.manifest.root.resolve())
        for block in self.left(done):
            rows = self._rows(block)
            yield BlockTask(out, self.name, block, root, self.manifest.table.take(rows), rows.tolist(), self.options)

    def _rows(self, block: int) -> NDArray[np.int64]:
        start = block * self.block_rows
        return start + np.flatnonzero(self.kept[start : start + self.block_rows])


def make_plan(source: str, root: str, options: ImageOptions, *, partial: bool, block_rows: int | None) -> Plan:
    """Reads the manifest of a source, to pack all of it.

    Args:
        source: Name of a known source, or `<own name>=<known source>`.
        root: Its folder.
        options: How images are made.
        partial: Go on where images are missing.
        block_rows: Rows in a block; None makes shards of about 64 MB, smaller ones for sets below 40,000 images.

    Raises:
        ConfigError: The source is unknown.
        ManifestError: Its folder is incomplete or malformed.
        ShardError: Its name cannot be part of a file name.
    """
    name, _, kind = source.rpartition("=")
    name = shards.check_source_name(name or kind)
    manifest = find(kind).read(root, partial=partial)
    place = manifest.table.column_names.index("source")
    named = manifest.table.set_column(place, "source", pa.array([name] * len(manifest)))
    manifest = Manifest(named, manifest.root)
    if block_rows is None:
        whole = round(_SHARD_BYTES / (_BYTES_PER_PIXEL[options.codec] * options.size**2))
        block_rows = max(1, min(whole, max(16, -(-len(manifest) // _BLOCKS))))
    if block_rows < 1:
        raise ConfigError(f"block_rows must be at least 1, got {block_rows}")
    called = tuple(dict.fromkeys((Path(root).resolve().name, kind)))
    return Plan(name, manifest, np.ones(len(manifest), bool), block_rows, options, called)


def leave_out(plans: Sequence[Plan], lists: Sequence[ExclusionList]) -> list[Plan]:
    """The plans without the images that exclusion lists name.

    Raises:
        ManifestError: An entry may mean images of two sources, or nothing is left.
    """
    if not lists:
        return list(plans)
    masks = excluded(lists, [NamedImages(plan.manifest, {plan.name: plan.called}) for plan in plans])
    if all(mask.all() for mask in masks):
        raise ManifestError("the exclusion lists name every image: there is nothing to pack")
    return [replace(plan, kept=~mask) for plan, mask in zip(plans, masks, strict=True)]


def check_together(plans: Sequence[Plan]) -> None:
    """Refuses sources whose joined index would be no manifest, before any image is read.

    Raises:
        ConfigError: A name is given twice.
        ManifestError: A patient is in two splits, or a column is a label in one source and text in another.
    """
    names = [plan.name for plan in plans]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"the source {name} is given twice: name one of them, as in --source mine={name}")
    if len(plans) > 1:
        join([index_columns(plan.manifest.table, plan.name) for plan in plans])


def join(tables: Sequence[pa.Table]) -> pa.Table:
    """Rows of several sources with the union of their columns; ManifestError where they are no manifest together."""
    try:
        joined = together([table.replace_schema_metadata(None) for table in tables])
    except pa.ArrowException as error:
        raise ManifestError(f"the sources do not fit together, rename a column: {error}") from error
    for place, field in enumerate(joined.schema):
        empty = "" if field.type == pa.string() else np.nan if field.type == pa.float32() else 0
        joined = joined.set_column(place, field, joined[field.name].fill_null(empty))
    known = {field.name for field in (*shards.PACKED_FIELDS, *shards.STATISTICS_FIELDS)}
    Manifest(joined.drop_columns([name for name in joined.column_names if name in known]), Path())
    return joined


def agree(storage: Storage, plans: Sequence[Plan]) -> None:
    """Keeps settings and manifests of the plans in the folder, or refuses others than it was begun with.

    Raises:
        ShardError: The folder was begun with other settings or holds more sources, or cannot be written.
    """
    begun = {name.removesuffix(".json"): _settings(storage, name) for name in storage.sizes("plans")}
    if others := sorted(begun.keys() - {plan.name for plan in plans}):
        raise ShardError(
            f"{storage.url} also holds {', '.join(others)}: give all of its sources, finished ones take no time, or "
            "another --out"
        )
    for plan in plans:
        settings = plan.settings()
        for source, found in begun.items():
            keys = settings if source == plan.name else ("version", *asdict(plan.options), "intensity")
            for key in keys:
                if found.get(key) != settings[key]:
                    raise ShardError(_difference(storage.url, source, key, found.get(key), settings[key]))
        if plan.name not in begun:
            storage.write(f"manifests/{plan.name}.parquet", _parquet(plan.manifest.table))
            plain = json.dumps(settings | {"code": code_hash(_CODE)}, indent=2, sort_keys=True)
            storage.write(f"plans/{plan.name}.json", (plain + "\n").encode())


def warn_of_other_code(storage: Storage, plans: Sequence[Plan]) -> None:
    """Warns of each plan that was begun with other code, whose images may then be decoded in two ways.

    Args:
        storage: Where the pack is.
        plans: Those with blocks left to pack.
    """
    code = code_hash(_CODE)
    for plan in plans:
        # Plans of earlier versions do not tell.
        if _settings(storage, f"{plan.name}.json").get("code", code) != code:
            logger.warning(
                "%s was begun for %s with another version of the code, so its images may be decoded in two ways: give "
                "another --out to decode all of them alike",
                storage.url, plan.name,
            )  # fmt: skip


def _settings(storage: Storage, name: str) -> dict[str, Any]:
    try:
        settings = json.loads(storage.read(f"plans/{name}"))
    except ValueError as error:
        raise ShardError(f"{storage.url}/plans/{name} is damaged: give another folder") from error
    return settings if isinstance(settings, dict) else {}


def _difference(url: str, source: str, key: str, begun: Any, asked: Any) -> str:
    if key in ("manifest", "rows"):
        return f"{url} was begun with other images of {source}: restore its folder, or give another --out"
    if key.startswith("excluded"):
        return f"{url} was begun with other exclusion lists for {source}: give the same, or another --out"
    return f"{url} was begun with {key}={begun} for {source}, got {asked}: give the same settings, or another --out"


def _parquet(table: pa.Table) -> bytes:
    return shards.parquet_bytes(table, {"version": shards.FORMAT_VERSION})
