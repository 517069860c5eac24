"""Keeps the rows of a run of `cxrbase evaluate` as a result: macro and per-class scores, differences, and what ran.

python benchmarks/evaluate_rows.py --run runs/evaluate --ran "cxrbase evaluate ..." --out benchmarks/results/<name>.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

from _record import save

KEPT = ("auroc", "auprc", "accuracy", "ece")


def rounded(score: dict[str, Any]) -> dict[str, Any]:
    """Value and interval to four digits; None where undefined."""
    return {name: None if score[name] is None else round(score[name], 4) for name in ("value", "low", "high")}


def row_of(row: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a row."""
    return {
        "task": row["task"]["name"], "encoder": row["encoder"]["name"], "protocol": row["protocol"],
        "seed": row["seed"], "test_images": row["counts"]["test"]["images"],
        **{name: rounded(row["metrics"][name]["macro"]) for name in KEPT},
        "auroc_per_class": {name: rounded(score)["value"]
                            for name, score in row["metrics"]["auroc"]["per_class"].items()},
        "undefined": sorted(row["undefined"]), "warnings": row["warnings"],
    }  # fmt: skip


def besides_scores(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each encoder and task: images seen before, gaps between subgroups, and how well features tell the origin."""
    made = []
    for row in rows:
        if row["protocol"] == "linear" and row["seed"] == min(other["seed"] for other in rows):
            gaps = {name: found["gap"] and rounded(found["gap"]) for name, found in (row["subgroups"] or {}).items()}
            origin = {name: rounded(found["auroc"]) for name, found in row["shortcut"]["origin_from_features"].items()}
            made.append({"task": row["task"]["name"], "encoder": row["encoder"]["name"], "subgroup_gaps": gaps,
                         "origin_from_features": origin, "seen_before": row["seen_before"]})  # fmt: skip
    return made


def main() -> None:
    """Reads a run and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder that --out of `cxrbase evaluate` named")
    parser.add_argument("--ran", required=True, help="the command that made it")
    parser.add_argument("--encoder", action="append", default=[], help="<name>=<what it is>; may be given again")
    parser.add_argument("--out", type=Path, required=True, help="file for the result")
    options = parser.parse_args()
    rows = [json.loads(path.read_text()) for path in sorted((options.run / "results").glob("*.json"))]
    pairs = json.loads((options.run / "comparisons.json").read_text())
    measured = {
        "ran": options.ran,
        "encoders": dict(text.split("=", 1) for text in options.encoder),
        "differences": [{key: pair[key] for key in ("task", "protocol", "encoders", "value", "low", "high", "p_holm")}
                        for pair in pairs],
        "rows": [row_of(row) for row in rows],
        "besides_scores": besides_scores(rows),
    }  # fmt: skip
    save(options.out.stem, measured, packages=("torch", "timm", "numpy"), out=str(options.out))


if __name__ == "__main__":
    main()
