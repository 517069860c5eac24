"""Makes a step faster or smaller without changing its results: compiled blocks, recomputed activations."""

import os
from functools import partial
from pathlib import Path

import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch.utils.checkpoint import checkpoint

from cxrbase.errors import ConfigError
from cxrbase.lean import CrossBlock, LeanBlock


def accelerate(module: nn.Module, *, compiled: bool | str = False, recompute: bool = False) -> int:
    """Changes how the transformer blocks of a module run, in place; weights and their names stay.

    Blocks and not the whole: blocks of one shape share one compiled piece, so compiling takes one block's time, and
    what is not a block (masks, losses) needs no compiling.

    Args:
        module: An objective, or anything with blocks in it.
        compiled: True compiles by inductor; or the name of another backend of `torch.compile`, such as "cudagraphs".
        recompute: Whether activations inside blocks that are trained are computed again in the backward pass instead of
            kept: about a third more time for a fraction of the memory.

    Returns:
        Number of blocks changed.

    Raises:
        ConfigError: If there is no such backend.
    """
    known = torch.compiler.list_backends(exclude_tags=())
    backend = "inductor" if compiled is True else compiled
    if backend and backend not in known:
        raise ConfigError(f"model.compile is {backend!r}, no backend of torch.compile; there are: {', '.join(known)}")
    blocks = transformer_blocks(module)
    for block in blocks if backend or recompute else ():
        if recompute and any(parameter.requires_grad for parameter in block.parameters()):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
        if backend:
            _keep_compiled_code()
            # Every size of crop has its own code: with sizes left open, attention and products become slower.
            block.compile(backend=backend, dynamic=False)
    return len(blocks) if backend or recompute else 0


def transformer_blocks(module: nn.Module) -> list[nn.Module]:
    """All transformer blocks in a module, teachers' and decoders' too."""
    return [part for part in module.modules() if isinstance(part, Block | LeanBlock | CrossBlock)]


def _keep_compiled_code() -> None:
    """Keeps compiled code where a restart of the machine does not sweep it away, for the next run to start at once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "cxrbase" / "inductor"))
