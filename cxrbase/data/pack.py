"""Packs originals of any source once, into shards that training streams from; can be stopped and repeated."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from cxrbase.cores import available_cores
from cxrbase.data import shards
from cxrbase.data.manifest_exclusions import read_exclusions
from cxrbase.data.pack_engines import run_local, run_ray
from cxrbase.data.pack_image import ImageOptions
from cxrbase.data.pack_index import Records, finished, refused_of, withdraw_index, write_index, write_refused
from cxrbase.data.pack_plan import Plan, agree, check_together, leave_out, make_plan, warn_of_other_code
from cxrbase.data.pack_report import write_reports
from cxrbase.data.storage import Storage
from cxrbase.errors import ConfigError, ShardError

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class Packed:
    """What a run of `pack` came to.

    Attributes:
        images: In the index.
        refused: Images that could not be read.
        new: Images that this run tried; 0 where there was nothing left to do.
    """

    images: int
    refused: int
    new: int


def pack(
    sources: Sequence[tuple[str, str]],
    out: str | Path,
    *,
    options: ImageOptions | None = None,
    exclude: Sequence[str | Path] = (),
    max_bad: float = 0.01,
    jobs: int | None = None,
    engine: Engine = "local",
    partial: bool = False,
    block_rows: int | None = None,
) -> Packed:
    """Packs sources into a folder: shards, index.parquet, manifests, refused.csv, report.html and report.md.

    Args:
        sources: Name of each source, see `make_plan`, and its folder.
        out: Folder or fsspec URL. Finished blocks in it are kept, so that a run that was stopped goes on, except
            for those with refused files that changed since.
        options: How images are made.
        exclude: Exclusion lists, as `audit` writes them.
        max_bad: Largest share of images that may be refused, in [0, 1].
        jobs: Processes on this machine; None takes one per core.
        engine: `local`, or `ray` for an existing Ray cluster.
        partial: Go on where a source lacks images that its tables name.
        block_rows: Rows of a manifest in a shard; None for shards of about 64 MB.

    Raises:
        ConfigError: Options that do not fit together.
        ManifestError: A source or an exclusion list is incomplete or malformed.
        ShardError: The folder was begun with other settings, cannot be written, or too many images were refused.
    """
    _check(max_bad, jobs, engine)
    options, storage = options or ImageOptions(), Storage(out)
    lists = read_exclusions(exclude)
    plans = [make_plan(name, root, options, partial=partial, block_rows=block_rows) for name, root in sources]
    check_together(plans)
    plans = leave_out(plans, lists)
    with storage.locked():
        agree(storage, plans)
        records: Records = {plan.name: finished(storage, plan.name, plan.manifest.root) for plan in plans}
        again = [shards.shard_name(plan.name, block) for plan in plans for block in plan.left(records[plan.name])]
        warn_of_other_code(storage, [plan for plan in plans if plan.left(records[plan.name])])
        withdraw_index(storage, again)
        before = _tried(records)
        _run(plans, records, storage, max_bad, jobs or available_cores(), engine)
        _finish(storage, records, options, {plan.name: plan.called for plan in plans})
    return Packed(
        images=sum(len(record.table) for blocks in records.values() for record in blocks.values()),
        refused=sum(refused_of(list(blocks.values())) for blocks in records.values()),
        new=_tried(records) - before,
    )


def _check(max_bad: float, jobs: int | None, engine: str) -> None:
    if not 0 <= max_bad <= 1:
        raise ConfigError(f"max_bad must be in [0, 1], got {max_bad:g}")
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs must be at least 1, got {jobs}")
    if jobs is not None and engine == "ray":
        raise ConfigError("--jobs is for the local engine: Ray knows how many cores its nodes have")


def _run(plans: list[Plan], records: Records, storage: Storage, max_bad: float, jobs: int, engine: str) -> None:
    total = sum(plan.images for plan in plans)
    out = storage.url if storage.local is None else str(storage.local.absolute())
    tasks = chain.from_iterable(plan.tasks(out, set(records[plan.name])) for plan in plans)
    left = sum(plan.blocks - len(records[plan.name]) for plan in plans)
    refused = sum(refused_of(list(blocks.values())) for blocks in records.values())
    _judge(refused, total, max_bad, storage, records)
    work = run_ray(tasks) if engine == "ray" else run_local(tasks, jobs=min(jobs, max(1, left)))
    bar = tqdm(total=total, initial=_tried(records), desc="packing", unit="image", mininterval=1.0, smoothing=0.05)
    # Closed at once where a block fails, so that the other processes end too.
    with bar, closing(work):
        for record in work:
            records[record.source][record.block] = record
            refused += len(record.facts["refused"])
            bar.update(record.facts["images"])
            _judge(refused, total, max_bad, storage, records)


def _judge(refused: int, total: int, max_bad: float, storage: Storage, records: Records) -> None:
    if refused <= max_bad * total:
        return
    write_refused(storage, records)
    raise ShardError(
        f"{refused} of {total} images are refused, more than --max_bad={max_bad:g} allows: see refused.csv in "
        f"{storage.url}, then mend these files and run again, or run with a larger --max_bad, or into another folder "
        "with it as --exclude"
    )


def _tried(records: Records) -> int:
    return sum(record.facts["images"] for blocks in records.values() for record in blocks.values())


def _finish(storage: Storage, records: Records, options: ImageOptions, called: Mapping[str, Sequence[str]]) -> None:
    write_refused(storage, records)
    if not any(len(record.table) for blocks in records.values() for record in blocks.values()):
        raise ShardError(f"no image could be read: see refused.csv in {storage.url}")
    write_reports(storage, records, options)
    # Last, because whoever finds an index takes the rest for finished.
    write_index(storage, records, options, called=called)
