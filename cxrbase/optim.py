"""Parameter groups and schedules, all of them pure functions."""

import math
from typing import Any

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
