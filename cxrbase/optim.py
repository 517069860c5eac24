"""Parameter groups and schedules as pure functions, and parameters that a step leaves out."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

# Names that timm's ViTs exclude from weight decay, wherever they stand in the path of a wrapped module.
UNDECAYED_NAMES = frozenset({"pos_embed", "cls_token", "reg_token", "mask_token"})


def param_groups(module: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Splits trainable parameters into decayed and undecayed ones (biases, 1-D tensors, embeddings and tokens).

    Args:
        module: The module to optimise.
        weight_decay: Decay of the first group; the second has none.

    Returns:
        Two groups for a torch optimiser, with "names" beside "params".
    """
    decayed: list[tuple[str, nn.Parameter]] = []
    undecayed: list[tuple[str, nn.Parameter]] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim <= 1 or bool(UNDECAYED_NAMES.intersection(name.split(".")))
            (undecayed if plain else decayed).append((name, parameter))
    return [
        {"params": [parameter for _, parameter in group], "weight_decay": decay, "names": [name for name, _ in group]}
        for group, decay in ((decayed, weight_decay), (undecayed, 0.0))
    ]


def rest(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Lets parameters stay as they are in the step to come, which Adam then does not count for them.

    A gradient of zero would let their weights decay and use up the correction that their first moments need.

    Args:
        optimizer: Adam or AdamW.
        parameters: Some of its parameters, whose gradients are dropped.
    """
    for parameter in parameters:
        parameter.grad = None
        if parameter not in optimizer.state:
            # As Adam begins: a checkpoint without moments would not be restored where weights are spread.
            step = torch.zeros((), device=parameter.device if optimizer.defaults["fused"] else "cpu")
            moments = {name: torch.zeros_like(parameter, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": step, **moments}


def warmup_cosine(progress: float, *, warmup: float, end: float = 0.0) -> float:
    """Linear warm-up, then half a cosine: the multiplier of the peak learning rate.

    Args:
        progress: Share of optimizer steps done, in [0, 1].
        warmup: Share of steps spent warming up, in [0, 1).
        end: Multiplier reached at progress 1.

    Returns:
        A multiplier in [0, 1].
    """
    if progress < warmup:
        return progress / warmup
    return cosine(min((progress - warmup) / (1 - warmup), 1.0), start=1.0, end=end)


def cosine(progress: float, *, start: float, end: float) -> float:
    """Half a cosine from `start` at progress 0 to `end` at progress 1."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def scaled_lr(base: float, *, batch_size: int, devices: int = 1, accumulate: int = 1) -> float:
    """The learning rate for the global batch, from one written per 256 images (https://arxiv.org/abs/1706.02677)."""
    return base * batch_size * devices * accumulate / 256


def layer_decayed_groups(
    module: nn.Module, *, depth: int, layer_decay: float, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups of trainable parameters whose learning rate falls with their distance from the head (BEiT, MAE, RETFound).

    Stem, tokens and position are layer 0, block i is layer i + 1, everything else (norms, heads) is layer depth + 1;
    layer i has the learning rate lr * layer_decay ** (depth + 1 - i).

    Args:
        module: The module to optimise, with the blocks of a timm ViT in `blocks.<i>.`, wherever that stands.
        depth: Number of blocks.
        layer_decay: Factor per layer, in (0, 1]; 1 gives all layers the same learning rate.
        lr: Learning rate of layer depth + 1.
        weight_decay: Decay of the parameters that have one; see `param_groups`.

    Returns:
        Groups for a torch optimiser, with "lr", "layer" and "names" beside "params"; empty ones are left out.
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for group in param_groups(module, weight_decay=weight_decay):
        for name, parameter in zip(group["names"], group["params"], strict=True):
            layer = layer_of(name, depth=depth)
            made = groups.setdefault(
                (layer, group["weight_decay"] > 0),
                {"params": [], "names": [], "layer": layer, "weight_decay": group["weight_decay"]}
                | {"lr": lr * layer_decay ** (depth + 1 - layer)},
            )
            made["params"].append(parameter)
            made["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def layer_of(name: str, *, depth: int) -> int:
    """Layer of a parameter by its name: 0 for stem, tokens and position, i + 1 for block i, depth + 1 for the rest."""
    parts = name.split(".")
    if UNDECAYED_NAMES.intersection(parts) or "patch_embed" in parts:
        return 0
    block = parts[parts.index("blocks") + 1] if "blocks" in parts[:-1] else ""
    return int(block) + 1 if block.isdigit() else depth + 1
