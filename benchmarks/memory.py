"""Bytes a step holds at its peak, per image, and the largest batch that fits 80 GB: computed, without a GPU.

    python benchmarks/memory.py

The step is run on fake tensors, which have shapes and no numbers, while torch's MemTracker counts what is alive: weights,
gradients, AdamW's moments, activations, temporaries. Autocast to bfloat16 as on a GPU. Two batch sizes give what an image
costs and what is there without any; the largest batch leaves 5 GB to the context and to fragmentation. What an allocator
rounds up and what kernels take for themselves is not counted, and attention counts as the fused kernel keeps it.
"""

import math

import torch
from _record import save, table
from jsonargparse import auto_cli
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from cxrbase.accelerate import accelerate
from cxrbase.backbones import create_backbone
from cxrbase.objectives import DINO, MAE, Objective, SimCLR
from cxrbase.optim import param_groups
from cxrbase.views import Views

RECIPES: dict[str, tuple[type[Objective], dict]] = {
    "mae_0.90_512x2": (MAE, {"mask_ratio": 0.9, "decoder_dim": 512, "decoder_depth": 2}),
    "mae_0.75_512x8": (MAE, {"mask_ratio": 0.75, "decoder_dim": 512, "decoder_depth": 8}),
    "dino_2+8": (DINO, {}),
    "simclr": (SimCLR, {}),
}
BUDGET, RESERVED = 80e9, 5e9


def memory(sizes: list[str] = ["small", "base", "large"], batches: tuple[int, int] = (8, 16), out: str = "") -> None:  # noqa: B006
    """Counts and writes JSON.

    Args:
        sizes: ViT sizes, patches of 16 at 224 pixels.
        batches: The two batch sizes.
        out: JSON to write; "" takes benchmarks/results/memory.json.
    """
    rows = []
    for size in sizes:
        for name in RECIPES:
            for recompute in (False, True):
                low, high = (peak(name, size, count, recompute) for count in batches)
                image = (high - low) / (batches[1] - batches[0])
                fixed = low - batches[0] * image
                rows.append(
                    {
                        "size": size,
                        "recipe": name,
                        "recompute": recompute,
                        "MB an image": image / 1e6,
                        "GB without": fixed / 1e9,
                        "largest batch, computed": math.floor((BUDGET - RESERVED - fixed) / image),
                        "largest batch, measured": None,
                    }
                )
                print(rows[-1], flush=True)
    path = save("memory", {"rows": rows}, packages=("torch", "timm"), out=out)
    print(table(rows), path, sep="\n")


def peak(name: str, size: str, count: int, recompute: bool) -> float:
    """Bytes at the peak of the second step, when the optimiser's state is there."""
    kind, options = RECIPES[name]
    objective = kind(create_backbone(f"vit_{size}_patch16_224", image_size=224), **options)
    accelerate(objective, recompute=recompute)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        to_fake(objective, mode)
        large = [torch.empty(count, 1, 224, 224) for _ in range(kind.num_global_views)]
        small = [torch.empty(count, 1, 96, 96) for _ in range(8 if kind.uses_local_views else 0)]
        optimizer = torch.optim.AdamW(param_groups(objective, weight_decay=0.05), lr=1e-4, foreach=False)
        tracker = MemTracker()
        tracker.track_external(objective, optimizer)
        with tracker:
            for number in range(2):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = objective(Views(large, small), 0.5).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                objective.after_step(0.5)
                if number == 0:
                    tracker.reset_mod_stats()
    return float(tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"])


def to_fake(module: torch.nn.Module, mode: FakeTensorMode) -> None:
    """Replaces weights and buffers by tensors without numbers."""
    for part in module.modules():
        for key, value in part._parameters.items():
            if value is not None:
                fake = mode.from_tensor(value.detach())
                part._parameters[key] = torch.nn.Parameter(fake, value.requires_grad)
        for key, value in part._buffers.items():
            if value is not None:
                part._buffers[key] = mode.from_tensor(value)


if __name__ == "__main__":
    auto_cli(memory, as_positional=False)
