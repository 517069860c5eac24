"""Does it learn: frozen kNN and linear-probe AUROC after equal images seen, against the untrained network.

    OMP_NUM_THREADS=1 python benchmarks/learning.py --images 60000

For each objective and seed, and for MAE with each mask and decoder, one of which asks the visible patches alone
("across", the decoding of CrossMAE). It is a `cxrbase compare` with a grid of its own, so a stopped run goes on with
the same command and does only what is missing. Real radiographs are read from a folder beside the checkout, where it
is; the simulated set is made. On the tiny backbone (128 wide) the decoders 512x8, 512x2 and 256x4 of a ViT-B (768 wide)
are 96x8, 96x2 and 48x4; on larger ones they are what their names say.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from _record import ROOT, save, table
from jsonargparse import auto_cli

from cxrbase.compare.compare import compare
from cxrbase.compare.plan import Axis, Plan

MASKS = (0.75, 0.9)
DECODERS = {
    "512x8": (512, 8, "self"), "512x2": (512, 2, "self"), "256x4": (256, 4, "self"),
    "512x2 across": (512, 2, "cross"),
}  # fmt: skip
TINY = {
    "512x8": (96, 8, "self"), "512x2": (96, 2, "self"), "256x4": (48, 4, "self"), "512x2 across": (96, 2, "cross"),
}  # fmt: skip
TASKS = {"phantom": ["phantom"], "cxr": ["cxr_pneumonia_nih", "cxr_view_nih"]}


def axes(size: str) -> dict[str, Axis]:
    """The masks and decoders of MAE, every mask with every decoder."""
    shapes = TINY if size == "tiny" else DECODERS
    masks = {f"mask {mask:.2f}": [f"--model.objective.init_args.mask_ratio={mask}"] for mask in MASKS}
    decoders = {
        f"decoder {name}": [
            f"--model.objective.init_args.decoder_dim={width}",
            f"--model.objective.init_args.decoder_depth={depth}",
            f"--model.objective.init_args.decoder={attention}",
        ]
        for name, (width, depth, attention) in shapes.items()
    }
    return {"mask": Axis(masks, ["mae"]), "decoder": Axis(decoders, ["mae"])}


def tasks_of(name: str, data: dict[str, Any], folder: Path) -> list[str]:
    """The task files of a set, with the place of its images, written into a folder."""
    made = []
    for task in TASKS[name]:
        given = yaml.safe_load((ROOT / "experiments" / "task" / f"{task}.yaml").read_text())
        given["task"]["data"] = data
        path = folder / "tasks" / f"{task}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({"task": given["task"]}))
        made.append(str(path))
    return made


def plan_of(
    name: str, data: dict[str, Any], folder: Path, *, size: str, images: int, seeds: list[int], words: list[str],
    resamples: int,
) -> Plan:  # fmt: skip
    """The grid of one set of images.

    Args:
        name: phantom or cxr.
        data: Its root, and phantom where it is made.
        folder: Where the task files go.
        size: Name in experiments/size.
        images: That every network sees.
        seeds: Of weights, order and views.
        words: Words of `cxrbase fit` for all.
        resamples: Of the intervals.
    """
    experiments = ROOT / "experiments"
    # A word in quotation marks would keep them.
    place = [f"--data.{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in data.items()]
    return Plan(
        name=f"learning_{name}_{size}", objectives=["mae", "dino", "simclr"], size=size,
        data="folder" if name == "cxr" else "phantom", words=[*place, *words],
        tasks=tasks_of(name, data, folder),
        amounts={"images": float(images)}, budget="images", seeds=seeds, axes=axes(size), shots=[],
        resamples=resamples, experiments=str(experiments),
    )  # fmt: skip


def rows(name: str, content: dict[str, Any]) -> list[dict[str, Any]]:
    """One line for each arm and task: macro AUROC, mean over seeds with lowest and highest, and the gain."""
    seen: dict[tuple[str, str], dict[str, list[float]]] = {}
    for cell in content["cells"]:
        for task, found in cell.get("tasks", {}).items():
            scores = seen.setdefault((task, cell["arm"]), {"linear": [], "knn": []})
            for protocol, values in scores.items():
                values.append(found["protocols"][protocol]["value"])
    return [line(name, task, arm, scores, seen.get((task, "untrained"))) for (task, arm), scores in seen.items()]


def line(
    name: str, task: str, arm: str, scores: dict[str, list[float]], untrained: dict[str, list[float]] | None
) -> dict[str, Any]:
    """One line of the table; what has no result yet is missing from its mean."""
    made: dict[str, Any] = {"images of": name, "task": task, "arm": arm, "seeds": len(scores["linear"])}
    for protocol, values in scores.items():
        mean = _mean(values)
        made[protocol] = round(mean, 4)
        made[f"{protocol} low"], made[f"{protocol} high"] = round(min(values), 4), round(max(values), 4)
        made[f"{protocol} gain"] = None if untrained is None else round(mean - _mean(untrained[protocol]), 4)
    return made


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def learning(
    sets: list[str] = ["phantom", "cxr"],  # noqa: B006
    images: int = 60000,
    seeds: list[int] = [0, 1, 2],  # noqa: B006
    size: str = "tiny",
    words: list[str] = [],  # noqa: B006
    resamples: int = 1000,
    jobs: int | None = None,
    cxr: str = "data/cxr",
    patients: int = 1200,
    folder: str = "runs/learning",
    out: str = "",
) -> None:
    """Trains and scores what is missing, and writes JSON.

    Args:
        sets: phantom, cxr.
        images: That every network sees.
        seeds: Of weights, order and views.
        size: Name in experiments/size.
        words: Words of `cxrbase fit` for all.
        resamples: Of the intervals in the report.
        jobs: Networks at once; None takes one per GPU, or one per two cores.
        cxr: Folder of the real radiographs.
        patients: Of the simulated set.
        folder: Where runs and reports go.
        out: JSON to write; "" takes benchmarks/results/learning_<size>.json.
    """
    lines, missing, place = [], [], Path(folder).resolve()
    simulated = {"root": str(place / "phantom"), "phantom": {"patients": patients}}
    for name in sets:
        data = {"root": str(Path(cxr).resolve())} if name == "cxr" else simulated
        if name == "cxr" and not Path(cxr, "manifest.csv").is_file():
            missing.append(f"{name}: no folder of real radiographs")
            continue
        grid = {"size": size, "images": images, "seeds": seeds, "words": words, "resamples": resamples}
        content = compare(plan_of(name, data, place, **grid), out=place, jobs=jobs)
        lines += rows(name, content)
        missing += [cell["title"] for cell in content["cells"] if cell["state"] != "done"]
    decoders = {key: f"{width}x{depth}" for key, (width, depth, _) in (TINY if size == "tiny" else DECODERS).items()}
    result = {"table": lines, "images": images, "seeds": seeds, "size": size, "decoders": decoders, "missing": missing}
    path = save(f"learning_{size}", result, packages=("torch", "timm", "lightly"), out=out)
    print(table(lines), *missing, path, sep="\n")


if __name__ == "__main__":
    auto_cli(learning, as_positional=False)
