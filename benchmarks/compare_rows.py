"""Keeps a comparison as a result: its answer, the cost and scores of each cell, differences between objectives.

python benchmarks/compare_rows.py --run runs/compare/phantom --ran "make compare" --minutes 15 --name compare_phantom
"""

import json
from pathlib import Path
from typing import Any

from _record import save
from jsonargparse import auto_cli


def cell_row(cell: dict[str, Any]) -> dict[str, Any]:
    """One cell: what was spent on all three axes, and its macro AUROC by task and protocol."""
    spent = cell.get("spent", {})
    row: dict[str, Any] = {"cell": cell["title"], "state": cell["state"], "images": spent.get("images"),
                           "TFLOPs": spent and round(spent["flops"] / 1e12, 2),
                           "seconds": spent and round(spent["seconds"])}  # fmt: skip
    for task, found in cell.get("tasks", {}).items():
        for protocol in ("linear", "knn"):
            if protocol in found["protocols"]:
                row[f"{task}, {protocol}"] = round(found["protocols"][protocol]["value"], 4)
    return row


def rows(run: str, ran: str, minutes: float, name: str, out: str = "") -> None:
    """Reads results.json of a comparison and writes the result.

    Args:
        run: Folder of the comparison.
        ran: The command that made it.
        minutes: That it took, by the clock.
        name: Of the result.
        out: JSON to write; "" takes benchmarks/results/<name>.json.
    """
    content = json.loads((Path(run) / "results.json").read_text())
    kept = ("answer", "complete", "ranking", "values", "differences", "warnings")
    tables = {"Cells": [cell_row(cell) for cell in content["cells"]]}
    measured = {"ran": ran, "minutes": minutes, "budget": content["plan"]["budget"], "tables": tables}
    save(name, measured | {key: content[key] for key in kept}, packages=("torch", "timm", "lightly"), out=out)


if __name__ == "__main__":
    auto_cli(rows, as_positional=False)
