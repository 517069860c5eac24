"""An encoder as the folder that timm opens with `local-dir:`, and transformers through timm."""

import json
from pathlib import Path
from typing import Any

import timm
import torch

from cxrbase.data.reading import Reading
from cxrbase.evaluation.features import pool_tokens
from cxrbase.release.compare import difference, sample
from cxrbase.release.package import WEIGHTS
from cxrbase.states import write_state
from cxrbase.weights_fit import Encoder


def write(network: Encoder, card: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Writes config.json and model.safetensors, opens them with timm alone and compares.

    Args:
        network: The encoder.
        card: Its description.
        folder: An empty folder.

    Returns:
        max_difference and checked_with.
    """
    write_state(folder / WEIGHTS, network.state_dict())
    (folder / "config.json").write_text(json.dumps(_config(network, card), indent=2) + "\n")
    again: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = sample(card, batch=2)
    with torch.inference_mode():
        ours = pool_tokens(network, network.forward_features(images))
        theirs = pool_tokens(network, again.forward_features(images))
    return {"max_difference": difference(ours, theirs), "checked_with": f"timm {timm.__version__}"}


def _config(network: Encoder, card: dict[str, Any]) -> dict[str, Any]:
    images = sample(card, batch=1)
    # What timm's transforms take: a ratio of 1 resizes the shorter side to the input, then the centre is cut out.
    config = {
        "input_size": list(images.shape[1:]),
        "fixed_input_size": True,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": [card["mean"]],
        "std": [card["std"]],
        "num_classes": 0,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    return {
        "architecture": card["timm_name"],
        "num_classes": 0,
        "num_features": network.embed_dim,
        "global_pool": network.global_pool,
        # Their `num_classes` stands above, and may not be given twice.
        "model_args": {key: value for key, value in card["timm_args"].items() if key != "num_classes"},
        "pretrained_cfg": config,
        # Nothing of timm's, which takes images that are decoded; for who reads this file alone.
        "decoding": Reading.of(card).values(),
    }
