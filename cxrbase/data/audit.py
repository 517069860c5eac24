"""Audits sets of images together: copies, leaks, confounded labels, odd and unreadable images."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from cxrbase.data.audit_report import Section, write_reports
from cxrbase.data.audit_unlike import FEWEST as FEWEST_ALIKE
from cxrbase.data.audit_unlike import unlike
from cxrbase.data.audit_verify import near_pairs
from cxrbase.data.audit_views import FEWEST, check_views
from cxrbase.errors import ManifestError

_ODD = {
    "blank": "hardly any contrast",
    "inverted": "the rim is brighter than the middle",
    "long": "one side is more than three times the other",
    "binary": "almost all pixels are black or white",
    "unlike": f"far from the layout of the other images of a set of {FEWEST_ALIKE} or more: perhaps no radiograph",
}


def audit_sets(paths: Sequence[str | Path], out: str | Path, *, threads: int = 2) -> dict[str, Any]:
    """Audits manifests or folders, and writes report.md, report.html, exclude.csv and audit.json.

    Args:
        paths: Manifests, .parquet or .csv, or folders of images.
        out: Folder to write to; hashes.parquet in it makes a second run fast.
        threads: Threads that decode and compare.

    Returns:
        What audit.json holds.

    Raises:
        ManifestError: A manifest is missing or malformed, or two have the same name.
    """
    out, sets = Path(out), [open_set(path) for path in paths]
    names = [entry.name for entry in sets]
    for name in names:
        if names.count(name) > 1:
            raise ManifestError(f"{names.count(name)} manifests are named {name}: rename the files or give each once")
    out.mkdir(parents=True, exist_ok=True)
    measured = measure(sets, out / "hashes.parquet", threads=threads)
    rows, images = Rows.of(sets), SmallImages(sets)
    odd = odd_images(measured) | {"unlike": _unlike(sets, measured["phash"])}
    exact = exact_pairs(measured["sha1"])
    near, unverified = _near(images, measured, exact, odd["blank"], threads)
    views = check_views(measured["phash"].tolist(), rows.views, rows.persons)
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
        "views": {
            "frontal": views.frontal,
            "lateral": views.lateral,
            "checked": views.done,
            "wrong": [{**_named(rows, row), "view": str(rows.views[row])} for row in views.wrong.tolist()],
        },
        "odd": {name: [_named(rows, row) for row in found.tolist()] for name, found in odd.items()},
        "unchecked_for_odd": int((np.isnan(measured["std"]) & (measured["error"] == "")).sum()),
        "unreadable": [
            {**_named(rows, int(row)), "reason": measured["error"][row]}
            for row in np.flatnonzero(measured["error"] != "")
        ],
        "excluded": len(excluded),
    }
    copies = [tuple(map(int, group)) for group in groups]
    single = [(row,) for found in odd.values() for row in found.tolist()]
    wrong = [(row,) for row in views.wrong.tolist()]
    write_reports(out, _sections(result, copies, single, wrong), result, excluded, images)
    return result


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
    starts = np.cumsum([0, *(len(entry.manifest) for entry in sets)]).tolist()
    return np.concatenate([start + unlike(hashes[start:end].tolist()) for start, end in pairwise(starts)])


def _named(rows: Rows, row: int) -> dict[str, str]:
    return {"set": str(rows.sets[row]), "path": str(rows.paths[row]), "split": str(rows.splits[row])}


def _described(entry: AuditSet) -> dict[str, Any]:
    splits = {name or "none": int((entry.splits == name).sum()) for name in sorted(set(entry.splits.tolist()))}
    return {"name": entry.name, "images": len(entry.manifest), "splits": splits}


def _sections(
    result: dict[str, Any],
    copies: Sequence[tuple[int, ...]],
    single: Sequence[tuple[int, ...]],
    wrong: Sequence[tuple[int, ...]],
) -> list[Section]:
    groups, odd = result["groups"], result["odd"]
    unchecked = result["unchecked_for_odd"]
    note = f" {unchecked} came with fingerprints alone and were not decoded, so not looked at." if unchecked else ""
    return [
        Section("Sets", "What was audited.", ("set", "images", "splits"), _set_rows(result)),
        Section(
            "Leaks of images between splits",
            f"{len(result['split_leaks'])} groups of copies link splits that must not share images.",
            ("group", "kind", "places"),
            tuple((str(x["group"] + 1), x["kind"], ", ".join(x["places"])) for x in result["split_leaks"]),
        ),
        Section(
            "Patients in several splits",
            f"{len(result['patient_leaks'])} patient ids occur in several splits; "
            "across sets, ids may be equal by chance.",
            ("kind", "an image of each split"),
            tuple((leak["kind"], ", ".join(leak["places"])) for leak in result["patient_leaks"]),
        ),
        Section(
            "Copies",
            f"{len(groups)} groups: {result['exact_pairs']} images have the pixels of an earlier one, and "
            f"{result['near_pairs']} pairs show the same exposure after a crop, window, rescale, flip or compression. "
            f"exclude.csv names {result['excluded']} to leave out. {result['unverified_candidates']} candidates could "
            "not be looked at.",
            ("group", "images"),
            tuple((str(i), ", ".join(f"{x['set']}: {x['path']}" for x in group)) for i, group in enumerate(groups, 1)),
            tuple(copies),
        ),
        Section(
            "Labels that the source tells",
            "AUROC of the source alone, and the share of the label's entropy that it explains. Where flagged, a model "
            "can score high without looking at the lungs.",
            ("label", "AUROC", "information", "flagged", "positive / negative by source"),
            tuple(_label_row(row) for row in result["confounding"]),
        ),
        Section(
            "Odd images",
            ", ".join(f"{len(odd[name])} {name} ({why})" for name, why in _ODD.items()) + "." + note,
            ("what", "image"),
            tuple((name, f"{x['set']}: {x['path']}") for name in _ODD for x in odd[name]),
            tuple(single),
        ),
        Section(
            "Views that look wrong",
            _view_text(result["views"]),
            ("named", "image"),
            tuple((x["view"], f"{x['set']}: {x['path']}") for x in result["views"]["wrong"]),
            tuple(wrong),
        ),
        Section(
            "Unreadable images",
            f"{len(result['unreadable'])} images could not be read.",
            ("image", "reason"),
            tuple((f"{x['set']}: {x['path']}", x["reason"]) for x in result["unreadable"]),
        ),
        Section(
            "Not looked for",
            "PA against AP, rotated images, burned-in text, and copies turned to a negative. Among more than 20,000 "
            "images, some of the cropped copies are missed.",
        ),
    ]


def _view_text(views: dict[str, Any]) -> str:
    counts = f"{views['frontal']} images are named frontal and {views['lateral']} lateral"
    if not views["checked"]:
        return f"{counts}: at least {FEWEST} of both are needed to tell them apart, so this was not looked at."
    return f"{counts}. {len(views['wrong'])} look like the other kind, judged by the other patients' images."


def _set_rows(result: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (x["name"], str(x["images"]), ", ".join(f"{k} {v}" for k, v in x["splits"].items())) for x in result["sets"]
    )


def _label_row(row: dict[str, Any]) -> tuple[str, ...]:
    counts = ", ".join(f"{source} {p} / {n}" for source, (p, n) in row["sources"].items())
    return row["label"], f"{row['auroc']:.3f}", f"{row['information']:.3f}", "yes" if row["flagged"] else "", counts
