"""One HTML file without network that says which objective is best, by how much, how surely and at what price."""

import base64
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cxrbase.compare import charts
from cxrbase.compare.board import Place
from cxrbase.compare.plan import CONTROL
from cxrbase.evaluation.significance import LEVEL

TEMPLATE = Path(__file__).with_name("report.html.j2")
_PICTURES = {
    "reconstruction.png": "Original, masked, reconstructed (mean and spread of hidden patches are the true ones)",
    "views.png": "Views of the same image",
    "attention.png": "Attention of the class token",
    "patch_features.png": "Principal components of patch features",
    "map.png": "Features of test images in two dimensions, by finding and by site",
}


def write_report(content: Mapping[str, Any], places: Sequence[Place], path: Path) -> None:
    """Writes the report.

    Args:
        content: What results.json holds.
        places: The cells, for pictures.
        path: HTML file to write.
    """
    from jinja2 import Environment, StrictUndefined, select_autoescape

    results = [result for place in places if (result := place.result) is not None]
    arms = list(dict.fromkeys(result["cell"]["arm"] for result in results))
    arms.sort(key=lambda arm: arm == CONTROL)
    environment = Environment(autoescape=select_autoescape(default=True), undefined=StrictUndefined, trim_blocks=True)
    planned = len(content["plan"]["seeds"])
    environment.filters |= {"score": _score, "gap": _gap, "p": _p, "big": _big, "seeds": partial(_seeds, planned)}
    page = environment.from_string(TEMPLATE.read_text()).render(
        content=content,
        cells=[cell for cell in content["cells"] if "summary" in cell],
        tables=_tables(content, arms),
        charts=_charts(content, results, arms),
        pictures=_pictures(places),
        gaps=_gaps(results),
        level=LEVEL,
    )
    path.write_text(page)


def _tables(content: Mapping[str, Any], arms: Sequence[str]) -> list[dict[str, Any]]:
    """Arm x task for each protocol."""
    tables = []
    for protocol in dict.fromkeys(row["protocol"] for row in content["values"]):
        rows = [row for row in content["values"] if row["protocol"] == protocol]
        tasks = list(dict.fromkeys(row["task"] for row in rows))
        found = {(row["arm"], row["task"]): row for row in rows}
        lines = [{"arm": arm, "cells": [found.get((arm, task)) for task in tasks]} for arm in arms]
        tables.append({"protocol": protocol, "tasks": tasks, "rows": lines})
    return tables


def _charts(
    content: Mapping[str, Any], results: Sequence[Mapping[str, Any]], arms: Sequence[str]
) -> list[tuple[str, str]]:
    """Title and SVG of every chart that has something to show."""
    protocol, values = content["primary_protocol"], content["values"]
    drawn = [
        ("Scores", charts.scores(values, arms, protocol)),
        ("What more compute buys", charts.curves(results, arms, protocol)),
    ]
    for task in dict.fromkeys(row["task"] for row in values):
        drawn.append((f"Few labels: {task}", charts.few_labels(values, arms, task)))
        precision = charts.precision_against_score(values, content["cells"], task, protocol)
        drawn.append((f"Precision against score: {task}", precision))
    return [(title, svg) for title, svg in drawn if svg]


def _pictures(places: Sequence[Place]) -> list[dict[str, str]]:
    """Pictures of the first seed of each arm, inlined."""
    shown: dict[tuple[str, str], dict[str, str]] = {}
    for place in places:
        for file in sorted(place.folder.rglob("*.png")):
            key = (place.cell.arm, file.name)
            if file.name in _PICTURES and key not in shown:
                data = base64.b64encode(file.read_bytes()).decode()
                shown[key] = {"arm": place.cell.arm, "caption": _PICTURES[file.name], "data": data}
    return list(shown.values())


def _gaps(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Subgroups of each arm and task, of its first seed."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for result in results:
        for task, found in result["tasks"].items():
            for row in found.get("subgroups", []):
                key = (result["cell"]["arm"], task, row["group"])
                rows.setdefault(key, row | {"arm": key[0], "task": task})
    return list(rows.values())


def _score(row: Mapping[str, Any] | None) -> str:
    return "" if row is None or row["value"] is None else f"{row['value']:.3f} {_interval(row)}"


def _seeds(planned: int, row: Mapping[str, Any] | None) -> str:
    """How many seeds a number rests on, where it is fewer than planned."""
    return f" ({row['seeds']} of {planned} seeds)" if row is not None and row["seeds"] < planned else ""


def _gap(row: Mapping[str, Any]) -> str:
    return f"{row['difference']:+.3f} {_interval(row, '+')}"


def _interval(row: Mapping[str, Any], sign: str = "") -> str:
    """The ends, or why there are none: a class so rare that no resample holds all."""
    if math.isnan(row["low"]):
        return "(no interval: no resample holds every class)"
    return f"[{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"


def _p(value: float | None) -> str:
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _big(value: float) -> str:
    return f"{value:,.0f}" if value < 1e7 else f"{value:.3g}"
