"""Collects the results of cells into results.json and results.csv, at any state of the comparison."""

import csv
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cxrbase.compare.board import Place, write_json
from cxrbase.compare.headline import answer, seed_warnings
from cxrbase.compare.plan import Plan, code_version
from cxrbase.compare.verdict import difference_warnings, differences, protocols_of, ranked_tasks, ranking, values

PRIMARY = "linear"
_PACKAGES = ("cxrbase", "torch", "lightning", "timm", "lightly", "numpy")


def collect(
    plan: Plan, places: Sequence[Place], root: Path, *, data: str, absent: Sequence[str] = ()
) -> dict[str, Any]:
    """Writes results.json and results.csv, and returns what the former holds.

    Args:
        plan: The comparison.
        places: Its cells.
        root: Folder of the comparison.
        data: Fingerprint of everything that is read.
        absent: Sentences on tasks that could not be scored.
    """
    cells = [_entry(place) for place in places]
    results = [place.result for place in places]
    done = [result for result in results if result is not None]
    protocols = protocols_of(done)
    primary = PRIMARY if PRIMARY in protocols else next(iter(protocols), PRIMARY)
    pairs = differences(done)
    content = {
        "name": plan.name,
        "answer": answer(done, pairs, protocol=primary, planned=len(plan.seeds)),
        "complete": len(done) == len(places),
        "primary_protocol": primary,
        "plan": asdict(plan),
        "environment": environment() | {"data": data},
        "warnings": [*absent, *warnings(done, cells, plan), *difference_warnings(pairs)],
        "ranking": ranking(done, protocol=primary),
        "ranked_tasks": ranked_tasks(done, protocol=primary),
        "values": values(done),
        "differences": pairs,
        "cells": cells,
    }
    write_json(root / "results.json", content)
    _write_csv(root / "results.csv", content)
    return content


def environment() -> dict[str, Any]:
    """Machine, versions and code that numbers were made with."""
    return {
        "machine": {"cpu": platform.processor() or platform.machine(), "system": platform.system()},
        "versions": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "code": code_version(),
    }


def warnings(done: Sequence[dict[str, Any]], cells: Sequence[dict[str, Any]], plan: Plan) -> list[str]:
    """Everything that a reader must know before believing a number."""
    said = [f"{cell['title']} failed: {cell['failure']}" for cell in cells if cell["state"] == "failed"]
    waiting = [cell["title"] for cell in cells if cell["state"] in ("waiting", "running")]
    if waiting:
        said.append(f"{len(waiting)} of {len(cells)} cells have no result yet: {', '.join(waiting)}")
    said += seed_warnings(done, planned=len(plan.seeds))
    for result in done:
        said += [f"{task}: {warning}" for task, found in result["tasks"].items() for warning in found["warnings"]]
    return list(dict.fromkeys(said))


def _entry(place: Place) -> dict[str, Any]:
    result, failure = place.result, place.failure
    entry: dict[str, Any] = {
        "title": place.cell.title,
        "arm": place.cell.arm,
        "state": place.state(),
        "folder": place.folder.name,
    }
    entry |= {"failure": failure["reason"] if failure and not result else None}
    return entry | (_without_samples(result) if result else {})


def _without_samples(result: dict[str, Any]) -> dict[str, Any]:
    """Samples stay in the cell's own file: they are long, and nobody reads them."""
    tasks = {
        task: found | {"protocols": {n: {k: v for k, v in row.items() if k != "samples"} for n, row in
                                     found["protocols"].items()}}
        for task, found in result["tasks"].items()
    }  # fmt: skip
    return result | {"tasks": tasks}


def _write_csv(path: Path, content: dict[str, Any]) -> None:
    names = ["arm", "task", "protocol", "metric", "seeds", "value", "low", "high"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(content["values"])
