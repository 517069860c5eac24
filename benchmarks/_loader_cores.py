"""How many CPU cores keep one H100 busy: FLOPs counted on the real step, and a share of its peak that is assumed."""

import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from torch._subclasses import FakeTensorMode

from cxrbase.compare.cost import build, flops_per_image

PEAK, SHARE = 989e12, 0.40  # dense bf16 of an H100 SXM by its data sheet; the share that is reached is assumed
_EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SIZES = {"ViT-S": "vit_s16", "ViT-B": "vit_b16", "ViT-L": "vit_l16"}


def _merged(mine: dict, other: dict) -> dict:
    return mine | {key: _merged(mine[key], value) if isinstance(value, dict) and isinstance(mine.get(key), dict)
                   else value for key, value in other.items()}  # fmt: skip


def settings(objective: str, size: str) -> dict[str, Any]:
    """What `cxrbase fit` reads from the experiments' files."""
    found: dict[str, Any] = {}
    for name in ("base", f"objective/{objective}", f"size/{size}"):
        found = _merged(found, yaml.safe_load((_EXPERIMENTS / f"{name}.yaml").read_text()))
    return {"model": found["model"], "data": found["data"] | {"root": "."}}


def counted(objective: str, size: str) -> float:
    """FLOPs of a training step per image; tensors have shapes but no content, so that ViT-L takes seconds."""
    with torch.device("meta"):
        module, data = build(settings(objective, size))
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.objective = module.objective.to_empty(device="cpu")
        flops = flops_per_image(module, data)
    torch.__future__.set_overwrite_module_params_on_conversion(False)
    return flops


def cores(rates: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """A row for each objective and size.

    Args:
        rates: Images per CPU-second of each loader, by objective.
    """
    rows = []
    for objective, loaders in rates.items():
        for name, size in SIZES.items():
            flops = counted(objective, size)
            speed = PEAK * SHARE / flops
            rows.append({"objective": objective, "size": name, "GFLOP an image": flops / 1e9,
                         "images/s of an H100 (assumed 40 %)": speed}
                        | {f"cores: {loader}": speed / rate for loader, rate in loaders.items()})  # fmt: skip
    return rows
