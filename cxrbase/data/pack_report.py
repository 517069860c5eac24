"""Reports what was packed and what was refused as report.html and report.md, with pictures."""

import io
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrbase.data.decode import intensity_convention
from cxrbase.data.pack_block import BlockRecord
from cxrbase.data.pack_image import ImageOptions
from cxrbase.data.pack_index import Records
from cxrbase.data.storage import Storage
from cxrbase.report_parts import png_address, rendered

# Pictures of each source, and refused images that are listed.
_PICTURED = 8
_LISTED = 20
_HEIGHT = 160
_LIGHT, _DARK = ("#1d4e89", "#333333"), ("#8ab6e8", "#dddddd")


def write_reports(storage: Storage, records: Records, options: ImageOptions) -> None:
    """Writes both reports; ShardError where the folder cannot be read or written."""
    facts = _facts(storage, records, options)
    for name in ("report.html", "report.md"):
        template = files("cxrbase.data") / "templates" / f"pack_{name}.j2"
        storage.write(name, rendered(template, facts).encode())


def _facts(storage: Storage, records: Records, options: ImageOptions) -> dict[str, Any]:
    blocks = {source: [record for _, record in sorted(found.items())] for source, found in sorted(records.items())}
    refused = [
        {"source": source, **entry}
        for source, found in blocks.items()
        for record in found
        for entry in record.facts["refused"]
    ]
    sources = [_source(name, found) for name, found in blocks.items()]
    return {
        "options": options,
        "intensity": intensity_convention(options.window),
        "sources": sources,
        "images": sum(source["images"] for source in sources),
        "bytes": sum(source["bytes"] for source in sources),
        "refused": refused[:_LISTED],
        "refused_count": len(refused),
        "reasons": Counter((entry["source"], entry["reason"]) for entry in refused).most_common(_LISTED),
        "histograms": [_histogram(found, colours) for found in blocks.values() for colours in (_LIGHT, _DARK)],
        "pictures": {name: _pictures(storage, found) for name, found in blocks.items()},
    }


def _source(name: str, blocks: list[BlockRecord]) -> dict[str, Any]:
    views: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    for record in blocks:
        views.update(record.table["view_position"].to_pylist())
        splits.update(record.table["split"].to_pylist())
    counts = _counts(blocks)
    return {
        "name": name,
        "images": sum(len(record.table) for record in blocks),
        "refused": sum(len(record.facts["refused"]) for record in blocks),
        "shards": sum(record.facts["bytes"] > 0 for record in blocks),
        "bytes": sum(record.facts["bytes"] for record in blocks),
        "views": sorted((view or "unknown", count) for view, count in views.items()),
        "splits": sorted((split or "none", count) for split, count in splits.items()),
        "mean": float(counts @ np.arange(256) / max(1.0, counts.sum())),
    }


def _counts(blocks: list[BlockRecord]) -> NDArray[np.float64]:
    """Pixels of each grey value; a source has no block where exclusion lists name all of it."""
    return np.asarray(np.sum([np.zeros(256), *(record.facts["histogram"] for record in blocks)], axis=0))


def _histogram(blocks: list[BlockRecord], colours: tuple[str, str]) -> str:
    """Share of the pixels of a source by grey value, as the address of a PNG."""
    from matplotlib.figure import Figure

    counts = _counts(blocks)
    figure = Figure(figsize=(5, 1.8), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.fill_between(np.arange(256), 100 * counts / max(1.0, counts.sum()), color=colours[0], linewidth=0, step="mid")
    # Black borders would flatten all the rest.
    axes.set_ylim(0, max(0.5, 150 * float(np.sort(counts)[-6]) / max(1.0, counts.sum())))
    axes.set_xlim(-1, 256)
    axes.set_xlabel("grey value", color=colours[1])
    axes.set_ylabel("% of pixels", color=colours[1])
    axes.tick_params(colors=colours[1])
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(colours[1])
    file = io.BytesIO()
    figure.savefig(file, format="png", transparent=True, metadata={"Software": None})
    return png_address(file.getvalue())


def _pictures(storage: Storage, blocks: Sequence[BlockRecord]) -> list[dict[str, str]]:
    """Images spread evenly over a source, read back from its shards."""
    blocks = [record for record in blocks if len(record.table)]
    ends = np.cumsum([len(record.table) for record in blocks])
    count = int(ends[-1]) if len(ends) else 0
    chosen = np.unique(np.linspace(0, max(0, count - 1), min(_PICTURED, count)).astype(int))
    pictures = []
    for place in chosen:
        block = int(np.searchsorted(ends, place, side="right"))
        table = blocks[block].table
        row = table.slice(int(place - (ends[block] - len(table))), 1).to_pylist()[0]
        data = storage.read(row["shard"], row["offset"], row["offset"] + row["size"])
        said = " ".join(filter(None, (row["view_position"], f"{row['width']} x {row['height']}")))
        pictures.append({"image": _small(data), "title": said, "path": row["path"]})
    return pictures


def _small(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        grey = image.convert("L")
        grey.thumbnail((3 * _HEIGHT, _HEIGHT), Image.Resampling.BOX)
    file = io.BytesIO()
    grey.save(file, "PNG", optimize=True)
    return png_address(file.getvalue())
