"""Stochastic depth whose rate is data and no constant, so that blocks of different rates share compiled code."""

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn


class SharedDropPath(nn.Module):
    """timm's `DropPath`, same draws and same results; compilers do not look at its rate.

    Args:
        rate: Share of the images of a batch whose residual branch is left out, in [0, 1].
        scale: Whether what stays is scaled up to the same mean.
    """

    def __init__(self, rate: float, *, scale: bool = True) -> None:
        super().__init__()
        # No buffer: it must not move to the device, which its reader would wait for, nor be copied to a teacher.
        self.rate, self.scale = torch.tensor(rate, dtype=torch.float64), scale

    def forward(self, tokens: Tensor) -> Tensor:
        """Leaves out what is drawn, in training."""
        return tokens * _kept(tokens.detach(), self.rate, self.scale) if self.training else tokens


def share_drop_paths(block: nn.Module) -> None:
    """Replaces all stochastic depth in a block, that of rate 0 too, so that no block differs from the others."""
    for parent in list(block.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, DropPath):
                made = SharedDropPath(child.drop_prob, scale=child.scale_by_keep)
            elif name.startswith("drop_path") and isinstance(child, nn.Identity):
                made = SharedDropPath(0.0)
            else:
                continue
            setattr(parent, name, made.train(child.training))


# An operation of its own, which compilers do not look into: given a rate as a tensor, `bernoulli_` draws other numbers.
@torch.library.custom_op("cxrbase::kept_paths", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def _kept(tokens: Tensor, rate: Tensor, scale: bool) -> Tensor:
    """What each image's branch is multiplied by, (B, 1, ...); a rate of 0 draws nothing, as in timm."""
    shape = (len(tokens), *(1 for _ in tokens.shape[1:]))
    dropped = float(rate)
    if dropped == 0:
        return tokens.new_ones(shape)
    kept = tokens.new_empty(shape).bernoulli_(1 - dropped)
    return kept.div_(1 - dropped) if scale and dropped < 1 else kept


@_kept.register_fake
def _(tokens: Tensor, rate: Tensor, scale: bool) -> Tensor:
    return tokens.new_empty((len(tokens), *(1 for _ in tokens.shape[1:])))
