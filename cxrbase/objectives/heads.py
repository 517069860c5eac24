"""Projection heads on top of the backbone's pooled features."""

from timm.layers.weight_init import trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F


class DINOHead(nn.Module):
    """Three-layer MLP, L2-normalised bottleneck, cosine similarity to prototypes of unit length.

    (DINO, https://arxiv.org/abs/2104.14294, appendix C.) The prototypes are normalised where they are used, which is
    weight norm with its gain held at 1, without the hooks that stop a module from being copied or compiled.

    Args:
        dim: Width of the input.
        num_prototypes: Width of the output.
        hidden_dim: Width of the two hidden layers.
        bottleneck_dim: Width before the prototypes.
        batch_norm: Whether the hidden layers have BatchNorm, as an option of the authors' code for small trainings.
    """

    def __init__(
        self,
        dim: int,
        num_prototypes: int,
        *,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (dim, hidden_dim):
            layers += [nn.Linear(width, hidden_dim), *([nn.BatchNorm1d(hidden_dim)] if batch_norm else []), nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden_dim, bottleneck_dim))
        self.prototypes = nn.Linear(bottleneck_dim, num_prototypes, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Tensor, freeze_prototypes: bool = False) -> Tensor:
        """Maps (B, dim) to (B, num_prototypes) cosine similarities; frozen prototypes get a gradient of zero."""
        weight = self.prototypes.weight
        if freeze_prototypes:
            # Zero rather than none: distributed training waits for a gradient of every parameter.
            weight = weight.detach() + 0 * weight
        return F.linear(F.normalize(self.mlp(features), dim=-1), F.normalize(weight, dim=-1))
