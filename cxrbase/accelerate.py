"""Makes a step faster or smaller without changing its results: compiled blocks, recomputed activations."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn
from torch.utils.checkpoint import checkpoint

from cxrbase.drop_path import share_drop_paths
from cxrbase.errors import ConfigError
from cxrbase.lean import CrossBlock, LeanBlock

_REFUSED = "cudagraphs"


def accelerate(module: nn.Module, *, compiled: bool | str = False, recompute: bool = False) -> int:
    """Changes how the transformer blocks of a module run, in place; weights and their names stay.

    Blocks and not the whole: blocks of one kind share one compiled piece for each size of crop, whatever their rates of
    stochastic depth, so compiling takes one block's time, and what is not a block (masks, losses) needs no compiling.

    Args:
        module: An objective, or anything with blocks in it.
        compiled: True compiles by inductor; or the name of another backend of `torch.compile`, but not "cudagraphs".
        recompute: Whether activations inside blocks that are trained are computed again in the backward pass instead of
            kept: about a third more time for a fraction of the memory.

    Returns:
        Number of blocks changed.

    Raises:
        ConfigError: If there is no such backend, or no block.
    """
    backend = "inductor" if compiled is True else compiled
    if not (backend or recompute):
        return 0
    if backend:
        _check(backend)
        _keep_compiled_code()
    blocks = transformer_blocks(module)
    if not blocks:
        raise ConfigError(
            "model.compile and model.recompute change transformer blocks, and the network has none: leave them out"
        )
    for block in blocks:
        if backend:
            share_drop_paths(block)
        if recompute and any(parameter.requires_grad for parameter in block.parameters()):
            _recompute(block, backend)
        elif backend:
            # Every size of crop has its own code: with sizes left open, attention and products become slower.
            block.compile(backend=backend, dynamic=False)
    return len(blocks)


def transformer_blocks(module: nn.Module) -> list[nn.Module]:
    """All transformer blocks in a module, teachers' and decoders' too, of whatever kind an encoder's are."""
    of_encoders = {id(block) for vit in module.modules() if isinstance(vit, VisionTransformer) for block in vit.blocks}
    return [
        part for part in module.modules() if isinstance(part, Block | LeanBlock | CrossBlock) or id(part) in of_encoders
    ]


def _recompute(block: nn.Module, backend: str | bool) -> None:
    """Makes a block compute its activations again in the backward pass, by compiled code where there is a backend.

    `checkpoint` is around what is compiled: the compiler would pass over it, and some backends would draw other random
    numbers the second time. The function is the class's and the method the block's, so a copy runs its own weights.
    """
    forward: Callable[..., Any] = type(block).forward
    if backend:
        forward = torch.compile(forward, backend=str(backend), dynamic=False)
    block.forward = MethodType(partial(checkpoint, forward, use_reentrant=False), block)  # type: ignore[method-assign]


def _check(backend: str) -> None:
    known = [name for name in torch.compiler.list_backends(exclude_tags=()) if name != _REFUSED]
    if backend == _REFUSED:
        raise ConfigError(
            f"model.compile is {backend!r}, which would record every block as a graph of its own that overwrites what "
            "the one before gave: set it to true"
        )
    if backend not in known:
        raise ConfigError(f"model.compile is {backend!r}, no backend of torch.compile; there are: {', '.join(known)}")


def _keep_compiled_code() -> None:
    """Keeps compiled code where a restart of the machine does not sweep it away, for the next run to start at once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "cxrbase" / "inductor"))
