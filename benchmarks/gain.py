"""What pretraining adds to frozen features: scores of runs with several seeds, collected into one file.

For each objective and seed, on the embedded data set:

    make pretrain SSL=mae RUN_DIR=runs/gain_mae_0 ARGS="--seed_everything=0"

and then

    python benchmarks/gain.py

The same for five to six times as long, with the curve on validation patients (300 epochs of MAE, 60 of SimCLR):

    make pretrain SSL=mae RUN_DIR=runs/long_mae ARGS="--trainer.max_epochs=300 --probe.every_n_steps=150"
    python benchmarks/gain.py --pattern "runs/long_*" --out benchmarks/results/longer_phantom.json \\
        --figure docs/longer.png

and DINO for 13 times as long (--trainer.max_epochs=144 --probe.every_n_steps=400):

    python benchmarks/gain.py --pattern runs/longest_dino --out benchmarks/results/longest_dino.json \\
        --figure docs/longest_dino.png
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
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from scipy.stats import t as student
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def gain(pattern: str = "runs/gain_*", out: str = "benchmarks/results/gain_phantom.json", figure: str = "") -> None:
    """Collects summaries of finished runs.

    Args:
        pattern: Run folders, with wildcards, seen from here.
        out: JSON to write.
        figure: PNG of the scores over images seen, of runs that have them; "" draws none.
    """
    by_objective = defaultdict(list)
    for path in sorted(Path().glob(f"{pattern}/summary.json")):
        summary = json.loads(path.read_text())
        by_objective[summary["objective"]].append(summary | {"folder": path.parent})
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": {"cpu": platform.processor() or platform.machine()},
        "versions": {name: version(name) for name in ("cxrbase", "torch", "timm", "lightly")},
        "objectives": {name: rows(summaries) for name, summaries in by_objective.items()},
    }
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(result, indent=2) + "\n")
    if figure:
        draw(result["objectives"], Path(figure))
    for name, row in result["objectives"].items():
        for probe in ("linear", "knn"):
            found = row[probe]
            spread = "" if found["low"] is None else f" [{found['low']:+.3f}, {found['high']:+.3f}]"
            print(f"{name:8} {probe:6} mean difference {found['mean']:+.3f}{spread} over {len(row['runs'])} runs")


def rows(summaries: list[dict]) -> dict:
    """Scores of each run, and the mean difference over runs."""
    runs = []
    for summary in summaries:
        probe = summary["probe"]
        keys = ("images_seen", "steps", "wall_s", "images_per_s", "loss_first", "loss_last")
        run = {"folder": summary["folder"].name} | {key: summary[key] for key in keys}
        for name in ("linear", "knn"):
            run[name] = {key: probe[name][key]["value"] for key in ("random_init", "pretrained")}
            run[name]["difference"] = {key: probe["difference"][name][key] for key in ("value", "low", "high")}
            if points := curve(summary, name):
                run[name]["validation"] = points
        runs.append(run)
    return {"runs": runs} | {
        name: over_seeds([run[name]["difference"]["value"] for run in runs]) for name in ("linear", "knn")
    }


def over_seeds(gains: list[float]) -> dict[str, float | None]:
    """Mean over runs, and its 95 % interval by Student's t: what another seed may give, on the same test patients."""
    mean = statistics.mean(gains)
    if len(gains) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = float(student.ppf(0.975, len(gains) - 1)) * statistics.stdev(gains) / len(gains) ** 0.5
    return {"mean": mean, "low": mean - half, "high": mean + half}


def curve(summary: dict, name: str) -> list[list[float]]:
    """Images seen and macro AUROC on validation patients, of a run that was scored on its way."""
    events = EventAccumulator(str(summary["folder"]), size_guidance={"scalars": 0}).Reload()
    tag = f"val_probe/{name}_macro_auroc"
    points = events.Scalars(tag) if tag in events.Tags()["scalars"] else []
    per_step = summary["images_seen"] / summary["steps"]
    return [[round(point.step * per_step), round(point.value, 4)] for point in points]


def draw(objectives: dict, path: Path) -> None:
    """Scores over images seen."""
    panels = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, name in zip(panels.subplots(1, 2, sharey=True), ("linear", "knn"), strict=True):
        for objective, row in objectives.items():
            axes.plot(*zip(*row["runs"][0][name]["validation"], strict=True), marker=".", label=objective)
        axes.set(title={"linear": "linear probe", "knn": "kNN"}[name], xlabel="images seen", xscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    panels.axes[0].set_ylabel("macro AUROC, validation patients")
    panels.axes[0].legend()
    panels.savefig(path, dpi=110)


if __name__ == "__main__":
    auto_cli(gain, as_positional=False)
