"""Made results of cells, with known differences, and plans that really run."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml

from commands import EXPERIMENTS
from cxrbase.compare.board import RESULT, Place, lay_out
from cxrbase.compare.plan import CONTROL, Plan
from cxrbase.data.phantom import make_phantom

RESAMPLES = 1000
SMALL = [
    "--data.image_size=32", "--data.canvas_size=32", "--data.batch_size=16", "--trainer.accelerator=cpu",
    '--model.backbone_options={"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}', "--figures.images=2",
    "--probe.limit=200", "--probe.resamples=50", "--checkpoint.every_n_train_steps=2",
]  # fmt: skip
SUMMARY = {"images_per_s": 32.0, "data_wait_fraction": 0.01, "loss_first": 2.0, "loss_last": 1.0, "device": "cpu"}
TASK = {
    "warnings": ["made of nothing"],
    "features": {"rankme": 20.0, "std": 0.8, "collapsed": False},
    "subgroups": [{"group": "sex", "best": "F", "worst": "M", "gap": {"value": 0.01, "low": 0.0, "high": 0.02}}],
}


@pytest.fixture
def plan(tmp_path):
    """A plan whose task file is there."""
    task = tmp_path / "task.yaml"
    task.write_text(yaml.safe_dump({"task": {"name": "made", "title": "Made", "data": {"root": "nowhere"}}}))
    return Plan(
        name="made", objectives=["mae", "dino", "simclr"], size="tiny", data="phantom", tasks=[str(task)],
        amounts={"images": 64.0}, budget="images", seeds=[0, 1, 2], resamples=RESAMPLES, experiments=str(EXPERIMENTS),
    )  # fmt: skip


def made_result(cell, level: float) -> dict:
    """A result whose macro AUROC is `level`; patients move all arms alike, seeds each a little."""
    patients = np.random.default_rng(0).normal(0, 0.02, RESAMPLES)
    shift = 0.002 * np.random.default_rng([cell.seed, 1]).normal()
    samples = [level + shift, *(level + shift + patients)]
    row = {
        "value": samples[0],
        "low": min(samples),
        "high": max(samples),
        "samples": [samples],
        "metrics": {},
        "draws": 1,
    }
    protocols = dict.fromkeys(("linear", "knn", "linear-1shot", "linear-4shot"), row)
    trained = cell.objective != CONTROL
    curve = [{"images": 32 * n, "flops": 1e9 * n, "seconds": n, "linear": 0.5 + 0.01 * n, "knn": 0.5} for n in (1, 2)]
    return {
        "cell": {"objective": cell.objective, "precision": cell.precision, "seed": cell.seed, "arm": cell.arm},
        "cost": {"flops_per_image": 1e9 * trained, "steps": 2},
        "spent": {"images": 64 * trained, "flops": 6.4e10 * trained, "seconds": 2.0 * trained},
        "summary": SUMMARY if trained else {},
        "peak_memory_gb": 0.5,
        "tasks": {"made": TASK | {"protocols": protocols}},
        "curve": curve if trained else [],
    }


def scored(arm: str, seed: int, levels: dict[str, float | None], *, noise: float = 0.0) -> dict:
    """A result of one protocol with a macro AUROC by task, None where it is undefined.

    Args:
        arm: Name of the arm.
        seed: Of the training.
        levels: Macro AUROC by task.
        noise: Spread over resamples that this arm shares with no other; the patients' own is common to all.
    """
    common = np.random.default_rng(0).normal(0, 0.02, RESAMPLES)
    own = np.random.default_rng(zlib.crc32(arm.encode())).normal(0, noise, RESAMPLES)
    tasks = {}
    for name, level in levels.items():
        samples = [None] * (RESAMPLES + 1) if level is None else [level, *(level + common + own)]
        tasks[name] = {"protocols": {"linear": {"samples": [samples]}}, "warnings": [], "confounded": False}
    price = {"images": 64.0, "flops": 6.4e10, "seconds": 2.0}
    return {"cell": {"arm": arm, "seed": seed}, "tasks": tasks, "spent": price}


@pytest.fixture
def finished(plan, tmp_path):
    """Writes results of chosen levels by objective and returns the places."""

    def write(levels: dict[str, float], *, but: tuple[str, ...] = ()) -> list[Place]:
        places = lay_out(plan, tmp_path / "made", data="data")
        for place in places:
            if place.cell.title not in but:
                Path(place.folder, RESULT).write_text(json.dumps(made_result(place.cell, levels[place.cell.objective])))
        return places

    return write


@pytest.fixture(scope="session")
def compared_phantom(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare") / "phantom"
    make_phantom(root, patients=60, image_size=32, workers=1)
    return root


@pytest.fixture
def config(compared_phantom, tmp_path):
    """Writes a plan on a small phantom; its words make networks as small as a test can use."""
    task = tmp_path / "task.yaml"
    data = {"root": str(compared_phantom), "phantom": {"patients": 60, "image_size": 32}}

    def write(findings=None, **changes):
        scored = {"name": "phantom", "title": "Findings", "data": data} | ({"findings": findings} if findings else {})
        task.write_text(yaml.safe_dump({"task": scored}))
        spec = '--data.phantom={"patients": 60, "image_size": 32}'
        plan = {
            "name": "small", "objectives": ["mae"], "size": "tiny", "data": "phantom", "tasks": [str(task)],
            "amounts": {"images": 64}, "budget": "images", "seeds": [0], "resamples": 50, "shots": [2], "points": 2,
            "words": [*SMALL, f"--data.root={compared_phantom}", spec, "--data.crop_borders=true"],
            "experiments": str(EXPERIMENTS),
        } | changes  # fmt: skip
        path = tmp_path / "compare.yaml"
        path.write_text(yaml.safe_dump(plan))
        return ["compare", f"--config={path}", f"--out={tmp_path / 'out'}", "--jobs=1"]

    return write
