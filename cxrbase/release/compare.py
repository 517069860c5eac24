"""Steps shared by all exports: make test images, and measure how much two networks differ."""

from typing import Any

import torch
from torch import Tensor, nn

from cxrbase.evaluation.features import pool_tokens
from cxrbase.sizes import height_width
from cxrbase.weights_fit import Encoder


class Features(nn.Module):
    """The network as one function of images, for programs that know no classes.

    Args:
        network: A ViT.
    """

    def __init__(self, network: Encoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, 2 * D), class token then mean patch (the mean alone without one), and patches (B, L, D)."""
        tokens = self.network.forward_features(images)
        return pool_tokens(self.network, tokens), tokens[:, self.network.num_prefix_tokens :]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference between two sets of features, relative to the largest of ours; infinity for other shapes."""
    if ours.shape != theirs.shape or not torch.isfinite(theirs).all():
        return float("inf")
    return float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1e-12))


def sample(card: dict[str, Any], *, batch: int) -> Tensor:
    """Random normalised images, (batch, 1, height, width), to compare networks on."""
    height, width = height_width(card["image_size"])
    return torch.randn(batch, 1, height, width, generator=torch.Generator().manual_seed(0))
