"""Attention of every block of a ViT, with its gradient, without changing the network."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cxrbase.errors import EncoderError
from cxrbase.weights_fit import Encoder


@contextmanager
def recorded_attention(network: Encoder) -> Iterator[list[Tensor]]:
    """Collects the attention of each block, (B, heads, N, N), as the network runs inside the block.

    The fused kernel never makes the matrix, so it is switched off meanwhile; the result of the network differs by
    rounding only. Gradients reach the collected tensors where they are enabled.

    Raises:
        EncoderError: The network has blocks without attention of timm's kind.
    """
    maps: list[Tensor] = []
    parts: list[Any] = [getattr(block, "attn", None) for block in network.blocks]
    if any(not isinstance(getattr(part, "attn_drop", None), nn.Module) for part in parts):
        raise EncoderError(f"attention of {type(network).__name__} cannot be read: it is not built of timm's blocks")
    fused = [part.fused_attn for part in parts]

    def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        # What enters the dropout is the softmax; in evaluation it leaves it unchanged.
        if arguments[0].requires_grad:
            arguments[0].retain_grad()
        maps.append(arguments[0])

    hooks = [part.attn_drop.register_forward_pre_hook(keep) for part in parts]
    try:
        for part in parts:
            part.fused_attn = False
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
        for part, was in zip(parts, fused, strict=True):
            part.fused_attn = was


def rollout(maps: list[Tensor]) -> Tensor:
    """Attention rollout (Abnar & Zuidema 2020, https://arxiv.org/abs/2005.00928): the product of (A + I) / 2.

    Args:
        maps: (B, heads, N, N) of each block, the first block first.

    Returns:
        (B, N, N): how much of each input token is in each output token; rows sum to 1.
    """
    result = _identity(maps[0])
    for attention in maps:
        result = (attention.detach().mean(1) + _identity(attention)) / 2 @ result
    return result


def relevance(maps: list[Tensor]) -> Tensor:
    """Relevance of Chefer et al. 2021 (https://arxiv.org/abs/2103.15679, equations 5 and 6): R + mean(grad * A)+ R.

    Args:
        maps: (B, heads, N, N) of each block with their gradients.

    Returns:
        (B, N, N), at least 0.
    """
    result = _identity(maps[0])
    for attention in maps:
        result = result + weighted(attention) @ result
    return result


def weighted(attention: Tensor) -> Tensor:
    """Positive part of attention times its gradient, averaged over heads, (B, N, N)."""
    gradient = attention.grad
    if gradient is None:
        raise ValueError("the attention has no gradient: run backward inside `recorded_attention`")
    return (attention.detach() * gradient).clamp(min=0).mean(1)


def _identity(attention: Tensor) -> Tensor:
    return torch.eye(attention.shape[-1], device=attention.device).expand(len(attention), -1, -1)
