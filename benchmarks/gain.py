"""What pretraining adds to frozen features: scores of runs with several seeds, collected into one file.

For each objective and seed, on the embedded data set:

    make pretrain SSL=mae RUN_DIR=runs/gain_mae_0 ARGS="--seed_everything=0"

and then

    python benchmarks/gain.py
"""

import json
import platform
import shlex
import statistics
import sys
from collections import defaultdict
from datetime import date
from importlib.metadata import version
from pathlib import Path

from jsonargparse import auto_cli


def gain(pattern: str = "runs/gain_*", out: str = "benchmarks/results/gain_phantom.json") -> None:
    """Collects summaries of finished runs.

    Args:
        pattern: Run folders, with wildcards, seen from here.
        out: JSON to write.
    """
    by_objective = defaultdict(list)
    for path in sorted(Path().glob(f"{pattern}/summary.json")):
        summary = json.loads(path.read_text())
        by_objective[summary["objective"]].append(summary)
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": {"cpu": platform.processor() or platform.machine()},
        "versions": {name: version(name) for name in ("cxrbase", "torch", "timm", "lightly")},
        "objectives": {name: rows(summaries) for name, summaries in by_objective.items()},
    }
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(result, indent=2) + "\n")
    for name, row in result["objectives"].items():
        for probe in ("linear", "knn"):
            print(f"{name:8} {probe:6} mean difference {row[probe]['mean']:+.3f} over {len(row['runs'])} seeds")


def rows(summaries: list[dict]) -> dict:
    """Scores of each run, and the mean difference over runs."""
    runs = []
    for summary in summaries:
        probe = summary["probe"]
        run = {key: summary[key] for key in ("images_seen", "wall_s", "images_per_s", "loss_first", "loss_last")}
        for name in ("linear", "knn"):
            run[name] = {key: probe[name][key]["value"] for key in ("random_init", "pretrained")}
            run[name]["difference"] = {key: probe["difference"][name][key] for key in ("value", "low", "high")}
        runs.append(run)
    means = {
        name: {"mean": statistics.mean(run[name]["difference"]["value"] for run in runs)} for name in ("linear", "knn")
    }
    return {"runs": runs, **means}


if __name__ == "__main__":
    auto_cli(gain, as_positional=False)
