"""The tables of loader.py: goal beside measured, and what the CPU does for each rate."""

from typing import Any

from _loader_peers import CROPS
from _record import spread

# What is measured, on which side, against what, and at least how often.
GOALS = [
    ("MAE, albumentations on the CPU", "crop", "mae_albumentations", 1.4),
    ("SimCLR, albumentations on the CPU", "canvas", "simclr_albumentations", 1.8),
    ("DINO, albumentations on the CPU", "canvas", "dino_albumentations", 4.0),
    ("DINO, torchvision v2", "canvas", "dino_torchvision", 15.0),
    ("DINO, torchvision v2 with Pillow's blur", "canvas", "dino_torchvision_pillow_blur", None),
    ("MAE, original 16-bit PNG by SimpleITK", "crop", "png16_simpleitk", 30.0),
    ("MAE, original 16-bit PNG by OpenCV", "crop", "png16_opencv", 30.0),
    ("loader with the same crop, litdata", "crop", "litdata", 1.0),
    ("loader with the same crop, webdataset", "crop", "webdataset", 1.2),
    ("loader with the same crop, mosaicml-streaming", "crop", "mosaic", 1.25),
    ("end to end / decode only, canvas", "canvas", "decode_only", 0.85),
    ("end to end / decode only, canvas by 2 threads", "canvas_2_threads", "decode_only", 0.85),
    ("end to end / decode only, MAE crop", "crop", "decode_only", 0.85),
    ("2 threads / 2 workers, canvas", "canvas_2_threads", "canvas_2_workers", None),
    ("2 threads / 2 workers, MAE crop", "crop_2_threads", "crop_2_workers", None),
]


def goals(side: int, times: dict[str, list[float]], wall: dict[str, float] | None) -> list[dict[str, Any]]:
    """Goal beside what was measured; ratios of CPU time within a round."""

    def row(what: str, goal: float | None, values: dict[str, float] | None, *, most: bool = False) -> dict[str, Any]:
        met = None
        if goal is not None and values is not None:
            met = "yes" if (values["median"] <= goal if most else values["median"] >= goal) else "no"
        found = {key: values[key] if values else None for key in ("median", "low", "high")}
        asked = None if goal is None else f"{'<=' if most else '>='} {goal:g}"
        return {"stored at": side, "measured": what, "goal": asked, **found, "met": met}

    def ratio(mine: str, other: str) -> dict[str, float] | None:
        if mine not in times or other not in times:
            return None
        return spread(b / a for a, b in zip(times[mine], times[other], strict=True))

    rows = [row(what, goal, ratio(mine, other)) for what, mine, other, goal in GOALS]
    rows.append(row("2 workers / 1 worker, wall time", 1.8, wall))
    for kind in ("crop", "canvas"):
        pairs = zip(times["checksum_only"], times[kind], strict=True)
        rows.append(row(f"checksum, % of the {kind}", 5, spread(100 * a / b for a, b in pairs), most=True))
        pairs = zip(times[kind], times[f"{kind}_no_checksum"], strict=True)
        rows.append(row(f"{kind} with / without, % more", 5, spread(100 * (a / b - 1) for a, b in pairs), most=True))
    return rows


def where(side: int, rates: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Images per CPU-second, with what the CPU does for them and what is left to the device."""
    rows = []
    for objective in CROPS:
        kind = "crop" if objective == "mae" else "canvas"
        forms = {form: rates[f"{kind}{key}"]["median"] for form, key in
                 (("ours", ""), ("ours, 2 workers", "_2_workers"), ("ours, 2 threads", "_2_threads"))}  # fmt: skip
        views = rates[f"{objective}_views_on_this_cpu"]["median"]
        rows.append({
            "stored at": side, "objective": objective,
            "counted of ours": "decoding, one crop" if kind == "crop" else "decoding; no view",
            **forms, "device's share, were it this CPU": views,
            "ours with that share": 1 / (1 / forms["ours"] + 1 / views),
            "albumentations, all views": rates[f"{objective}_albumentations"]["median"],
            "torchvision v2, all views": rates[f"{objective}_torchvision"]["median"],
        })  # fmt: skip
    return rows
