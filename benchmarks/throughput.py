"""Images/s of each objective, and what the views cost of it: alternating rounds, medians with spread.

Run `make bench`; the result goes to benchmarks/results/throughput_<size>_<device>.json with machine, versions, date and
command.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from _record import headline, save
from jsonargparse import auto_cli

from cxrbase.backbones import create_backbone
from cxrbase.objectives import DINO, MAE, SimCLR
from cxrbase.optim import param_groups
from cxrbase.views import RandomViews, Views

ROOT = Path(__file__).parents[1]
OBJECTIVES = {"mae": MAE, "dino": DINO, "simclr": SimCLR}


def settings(name: str, size: str) -> dict:
    """What the YAML layers of an objective and a size add up to."""
    merged: dict = {}
    for layer in (f"objective/{name}", f"size/{size}", f"recipe/{name}_{size}"):
        path = ROOT / "experiments" / f"{layer}.yaml"
        if path.is_file():
            merge(merged, yaml.safe_load(path.read_text()))
    return merged


def merge(into: dict, new: dict) -> None:
    """Lays one nested dict over another."""
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def build(name: str, size: str, device: torch.device) -> tuple[Callable[[], None], Callable[[], None], int]:
    """A training step, the making of its views, and images per step."""
    given = settings(name, size)
    model, data = given["model"], given["data"]
    vit = create_backbone(model["backbone"], image_size=data["image_size"], options=model.get("backbone_options") or {})
    objective = OBJECTIVES[name](vit, **model["objective"].get("init_args", {})).to(device)
    views = RandomViews(**data["views"]["init_args"])
    optimizer = torch.optim.AdamW(param_groups(objective, weight_decay=0.05), lr=1e-4, fused=True)
    count, canvas = data["batch_size"], data["canvas_size"]
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (count, 1, canvas, canvas), np.uint8)).to(device)
    sizes, ids = torch.full((count, 2), canvas, device=device), torch.arange(count, device=device)

    def make() -> Views:
        return views(images, sizes, ids, out=data["image_size"], mean=0.5, std=0.25, seed=0, epoch=0)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = objective(make(), 0.5).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(0.5)

    return step, make, count


def seconds(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Time of one call."""
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def throughput(size: str = "tiny", rounds: int = 5, repeats: int = 2, out: str = "") -> None:
    """Measures every objective in turn, several times over.

    Args:
        size: Name in experiments/size.
        rounds: Rounds; in each, every objective has its turn.
        repeats: Steps per turn.
        out: JSON to write; "" takes benchmarks/results/throughput_<size>_<device>.json.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    built = {name: build(name, size, device) for name in OBJECTIVES}
    times: dict = {name: {"step": [], "views": []} for name in built}
    for round_number in range(rounds + 1):
        for name, (step, make, _) in built.items():
            once = {"step": seconds(step, repeats, device), "views": seconds(make, repeats, device)}
            for kind, value in once.items() if round_number else ():
                times[name][kind].append(value)
    objectives = {name: report(times[name], built[name][2]) for name in built}
    lines = [headline(f"{name} {size}, a step with its views", row["images_per_s"], "images/s", low=row["low"],
                      high=row["high"]) for name, row in objectives.items()]  # fmt: skip
    result = {"size": size, "rounds": rounds, "objectives": objectives, "headlines": lines}
    save(f"throughput_{size}_{device.type}", result, packages=("torch", "timm", "lightly", "numpy"), out=out)
    for name, row in objectives.items():
        print(f"{name:8} {row['images_per_s']:8.1f} images/s [{row['low']:.1f}, {row['high']:.1f}], views "
              f"{row['views_share']:.1%} of a step")  # fmt: skip


def report(times: dict, count: int) -> dict:
    """Median and range of images/s, and the share of the views."""
    speeds = sorted(count / value for value in times["step"])
    shares = [view / step for view, step in zip(times["views"], times["step"], strict=True)]
    return {
        "images_per_s": round(statistics.median(speeds), 1),
        "low": round(speeds[0], 1),
        "high": round(speeds[-1], 1),
        "views_share": round(statistics.median(shares), 4),
        "batch_size": count,
    }


if __name__ == "__main__":
    auto_cli(throughput, as_positional=False)
