"""Audits sets of images together: copies, leaks, confounded labels, odd and unreadable images."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbase.cores import available_cores
from cxrbase.data.audit_checks import (
    Rows,
    confounding,
    exact_pairs,
    exclusions,
    groups_of,
    odd_images,
    patient_leaks,
    split_leaks,
)
from cxrbase.data.audit_images import AuditSet, measure, open_set
from cxrbase.data.audit_pixels import SmallImages
from cxrbase.data.audit_report import write_reports
from cxrbase.data.audit_sections import sections
from cxrbase.data.audit_unlike import unlike
from cxrbase.data.audit_verify import near_pairs
from cxrbase.data.audit_views import ViewCheck, check_views
from cxrbase.errors import ManifestError


def audit_sets(paths: Sequence[str | Path], out: str | Path, *, threads: int | None = None) -> dict[str, Any]:
    """Audits manifests or folders, and writes report.md, report.html, exclude.csv and audit.json.

    Args:
        paths: Manifests (.parquet or .csv), folders of images with or without one, packs, also by URL, or
            `<source>=<root>` for public sets as downloaded.
        out: Folder to write to; hashes.parquet in it makes a second run fast.
        threads: Threads that decode and compare; None takes one per core.

    Returns:
        What audit.json holds.

    Raises:
        ConfigError: A source is unknown.
        ManifestError: A manifest is missing or malformed, two have the same name, or no image of one can be read.
        ShardError: A pack cannot be read.
    """
    threads = threads or available_cores()
    out, sets = Path(out), [open_set(path) for path in paths]
    names = [entry.name for entry in sets]
    for name in names:
        if names.count(name) > 1:
            raise ManifestError(f"{names.count(name)} manifests are named {name}: rename the files or give each once")
    images = SmallImages(sets)
    out.mkdir(parents=True, exist_ok=True)
    measured, rows = measure(sets, out / "hashes.parquet", threads=threads), Rows.of(sets)
    _refuse_unread(sets, measured["error"])
    odd = odd_images(measured) | {"unlike": _unlike(sets, measured["phash"])}
    views = check_views(measured["phash"].tolist(), rows.views, rows.persons)
    exact = exact_pairs(measured["sha1"])
    near, unverified = _near(images, measured, exact, odd["blank"], threads)
    groups = groups_of(len(images.names), np.concatenate([exact, near]))
    excluded = exclusions(groups, rows, measured["height"].astype(np.int64) * measured["width"], measured["sha1"])
    result = {
        "sets": [_described(entry) for entry in sets],
        "exact_pairs": len(exact),
        "near_pairs": len(near),
        "unverified_candidates": unverified,
        "groups": [[_named(rows, row) for row in group] for group in groups],
        "split_leaks": split_leaks(groups, rows),
        "patient_leaks": patient_leaks(rows),
        "confounding": confounding(sets),
        "views": _views(views, rows),
        "odd": {name: [_named(rows, row) for row in found.tolist()] for name, found in odd.items()},
        "unchecked_for_odd": int((np.isnan(measured["std"]) & (measured["error"] == "")).sum()),
        "unreadable": _unreadable(measured["error"], rows),
        "excluded": len(excluded),
    }
    single = [row for found in odd.values() for row in found.tolist()]
    write_reports(out, sections(result, groups, single, views.wrong.tolist()), result, excluded, images)
    return result


def _refuse_unread(sets: Sequence[AuditSet], errors: NDArray[Any]) -> None:
    """Refuses a set without any image that can be read, because nothing found would pass for nothing wrong."""
    for entry, (start, end) in zip(sets, _bounds(sets), strict=True):
        if (errors[start:end] != "").all():
            moved = "put the manifest where its paths are relative to, or give a public set as <source>=<root>"
            raise ManifestError(
                f"no image of {entry.name} can be read, and the first of {end - start} is {entry.manifest.paths[0]} "
                f"({' '.join(errors[start].split())}): {'pack the images again' if entry.packed else moved}"
            )


def _views(views: ViewCheck, rows: Rows) -> dict[str, Any]:
    wrong = [{**_named(rows, row), "view": str(rows.views[row])} for row in views.wrong.tolist()]
    return {"frontal": views.frontal, "lateral": views.lateral, "why_not": views.why_not, "wrong": wrong}


def _unreadable(errors: NDArray[Any], rows: Rows) -> list[dict[str, str]]:
    return [{**_named(rows, row), "reason": errors[row]} for row in np.flatnonzero(errors != "").tolist()]


def _near(
    images: SmallImages, measured: dict[str, NDArray[Any]], exact: NDArray[np.int64], blank: NDArray[np.int64],
    threads: int,
) -> tuple[NDArray[np.int64], int]:  # fmt: skip
    """Near copies among one of each group of equal images; blank ones are like anything."""
    kept = measured["phash"] != ""
    kept[exact[:, 1]] = False
    kept[blank] = False
    rows = np.flatnonzero(kept)
    hashes = measured["phash"][rows].tolist()
    pairs, _, unverified = near_pairs(lambda number: images(int(rows[number])), hashes, threads=threads)
    return rows[pairs].reshape(-1, 2), unverified


def _unlike(sets: Sequence[AuditSet], hashes: NDArray[Any]) -> NDArray[np.int64]:
    """Of each set by itself, because what is usual in one is not in another."""
    return np.concatenate([start + unlike(hashes[start:end].tolist()) for start, end in _bounds(sets)])


def _bounds(sets: Sequence[AuditSet]) -> list[tuple[int, int]]:
    """First row of each set, and the one after its last."""
    return list(pairwise(np.cumsum([0, *(len(entry.manifest) for entry in sets)]).tolist()))


def _named(rows: Rows, row: int) -> dict[str, str]:
    return {"set": str(rows.sets[row]), "path": str(rows.paths[row]), "split": str(rows.splits[row])}


def _described(entry: AuditSet) -> dict[str, Any]:
    splits = {name or "none": int((entry.splits == name).sum()) for name in sorted(set(entry.splits.tolist()))}
    of_nobody = int((entry.manifest.column("patient_id") == "").sum())
    return {
        "name": entry.name, "images": len(entry.manifest), "splits": splits, "dealt": entry.dealt,
        "without_patient_id": of_nobody,
    }  # fmt: skip
