"""The sections of an audit's report."""

from collections.abc import Sequence
from typing import Any

from cxrbase.data.audit_report import Section
from cxrbase.data.audit_unlike import FEWEST

_ODD = {
    "blank": "hardly any contrast",
    "inverted": "the rim is brighter than the middle",
    "long": "one side is more than three times the other",
    "binary": "almost all pixels are black or white",
    "unlike": f"far from the layout of the other images of a set of {FEWEST} or more: perhaps no radiograph",
}


def sections(
    result: dict[str, Any], copies: Sequence[Sequence[int]], odd: Sequence[int], views: Sequence[int]
) -> list[Section]:
    """The report, part by part.

    Args:
        result: What audit.json holds.
        copies: Rows of each group of copies.
        odd: Rows of odd images, in the order of the result.
        views: Rows of the images whose view looks wrong, in the order of the result.
    """
    return [*_on_copies(result, copies), *_on_images(result, odd, views), *_on_the_rest(result)]


def _on_copies(result: dict[str, Any], copies: Sequence[Sequence[int]]) -> list[Section]:
    groups = result["groups"]
    return [
        Section("Sets", _set_text(result), ("set", "images", "splits"), _set_rows(result)),
        Section(
            "Leaks of images between splits",
            f"{len(result['split_leaks'])} groups of copies link splits that must not share images.",
            ("group", "kind", "places"),
            tuple((str(x["group"] + 1), x["kind"], ", ".join(x["places"])) for x in result["split_leaks"]),
        ),
        Section(
            "Patients in several splits",
            f"{len(result['patient_leaks'])} patient ids occur in several splits; "
            f"across sets, ids may be equal by chance.{_unknown_patients(result)}",
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
            tuple(map(tuple, copies)),
        ),
    ]


def _on_images(result: dict[str, Any], rows: Sequence[int], views: Sequence[int]) -> list[Section]:
    odd, unchecked = result["odd"], result["unchecked_for_odd"]
    note = f" Of {unchecked} only fingerprints are known, so blank, inverted and binary ones among them are not told."
    note = note if unchecked else ""
    return [
        Section(
            "Labels given away by the source",
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
            tuple((row,) for row in rows),
        ),
        Section(
            "Views that look wrong",
            _view_text(result["views"]),
            ("named", "image"),
            tuple((x["view"], f"{x['set']}: {x['path']}") for x in result["views"]["wrong"]),
            tuple((row,) for row in views),
        ),
    ]


def _on_the_rest(result: dict[str, Any]) -> list[Section]:
    return [
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
    if views["why_not"]:
        return f"{counts}: {views['why_not']}, so no image is named here."
    return f"{counts}. {len(views['wrong'])} look like the other kind, judged by the other patients' images."


def _set_text(result: dict[str, Any]) -> str:
    dealt = [f"{x['dealt']} images of {x['name']}" for x in result["sets"] if x["dealt"]]
    if not dealt:
        return "What was audited."
    named = ", ".join(dealt)
    return f"What was audited. Official splits are missing, so {named} have those that a run deals by patient."


def _unknown_patients(result: dict[str, Any]) -> str:
    unknown = [f"{x['without_patient_id']} images of {x['name']}" for x in result["sets"] if x["without_patient_id"]]
    if not unknown:
        return ""
    named = ", ".join(unknown)
    return f" {named} name no patient: each counts as one patient, so such leaks among them stay unseen."


def _set_rows(result: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (x["name"], str(x["images"]), ", ".join(f"{k} {v}" for k, v in x["splits"].items())) for x in result["sets"]
    )


def _label_row(row: dict[str, Any]) -> tuple[str, ...]:
    counts = ", ".join(f"{source} {p} / {n}" for source, (p, n) in row["sources"].items())
    return row["label"], f"{row['auroc']:.3f}", f"{row['information']:.3f}", "yes" if row["flagged"] else "", counts
