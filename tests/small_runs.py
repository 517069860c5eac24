"""Runs of three steps without the command line, in this process or, as a script, as one of several."""

import json
import sys
from functools import partial
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor

from cxrbase.data.datamodule import CXRDataModule
from cxrbase.objectives import DINO, MAE, SimCLR
from cxrbase.pretraining import Pretraining
from cxrbase.sharding import full_state, is_sharded
from cxrbase.views import RandomViews

OPTIONS = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
KINDS = {
    "mae": (MAE, {"decoder_depth": 1}, {}),
    # As in the paper: neither Sinkhorn-Knopp nor BatchNorm. The prototypes rest for a part of the run.
    "dino": (
        DINO,
        {"num_prototypes": 64, "hidden_dim": 64, "bottleneck_dim": 64, "momentum": 0.9, "freeze_prototypes": 0.5},
        {"num_global": 2, "num_local": 2, "local_size": 16},
    ),
    "dino_balanced": (
        DINO,
        {"num_prototypes": 64, "hidden_dim": 64, "bottleneck_dim": 64, "centring": "sinkhorn", "batch_norm": True},
        {"num_global": 2},
    ),
    "simclr": (SimCLR, {"hidden_dim": 64, "projection_dim": 32}, {"num_global": 2}),
}


def train(name, root, *, batch_size=8, drop_last=True, callbacks=(), objective=None, model=None, steps=3, **trainer):
    """Trains, and returns what a checkpoint would hold of the module and its optimiser."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kind, options, views = KINDS[name]
    options = options | (objective or {})
    settings = {"lr": 0.032, "min_lr": 0.1, "warmup": 0.4} | (model or {})
    module = Pretraining(partial(kind, **options), "vit_tiny_patch16_224", OPTIONS, image_size=32, **settings)
    data = CXRDataModule(
        str(root), views=RandomViews(**views), image_size=32, canvas_size=48, batch_size=batch_size, drop_last=drop_last
    )
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    settings = {"accelerator": "cpu", "max_steps": steps, "max_epochs": 999, **quiet, **trainer}
    if settings.get("strategy") == "sharded":
        settings["strategy"] = ModelParallelStrategy(settings["devices"], 1, save_distributed_checkpoint=False)
    fitted = L.Trainer(callbacks=list(callbacks), **settings)
    fitted.fit(module, datamodule=data)
    optimizer = fitted.optimizers[0]
    names = [name for group in optimizer.param_groups for name in group["names"]]
    moments = [whole(optimizer.state[p]["exp_avg"]) for group in optimizer.param_groups for p in group["params"]]
    return {
        "steps": fitted.global_step,
        "lr": optimizer.param_groups[0]["lr"],
        "gradients": dict(zip(names, moments, strict=True)),
        "sharded": is_sharded(module.objective),
        "state": {key: value.detach().clone() for key, value in full_state(module.objective).items()},
    }


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), sys.argv[2]
    for number, settings in enumerate(json.loads((folder / "runs.json").read_text())):
        torch.save(train(**settings), folder / f"{number}-{rank}.pt")
    torch.distributed.destroy_process_group()
