"""SimCLR: two crops of an image attract, all other images of the batch repel."""

import math
from typing import ClassVar

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cxrbase.lean import make_lean, pooled
from cxrbase.objectives.base import Loss, Objective
from cxrbase.objectives.losses import contrastive_loss
from cxrbase.views import Views


class SimCLR(Objective):
    """Contrastive learning with in-batch negatives (Chen et al. 2020, https://arxiv.org/abs/2002.05709).

    Negatives are the other images of the micro-batch (of all devices), so accumulating micro-batches is not the same as
    one large batch: use a larger batch per device instead.

    Args:
        backbone: The shared ViT.
        hidden_dim: Hidden width of the projection head.
        projection_dim: Width of the space that is contrasted (128 in the paper).
        temperature: Temperature of the similarities (0.1 in the paper's ImageNet runs).
    """

    num_global_views: ClassVar[int] = 2
    min_batch_size: ClassVar[int] = 2
    batch_coupled = True

    def __init__(
        self,
        backbone: VisionTransformer,
        *,
        hidden_dim: int = 2048,
        projection_dim: int = 128,
        temperature: float = 0.1,
    ) -> None:
        super().__init__(backbone)
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        # Imported here: lightly takes seconds to load and the other objectives do without it.
        from lightly.models.modules.heads import SimCLRProjectionHead

        make_lean(backbone.blocks, -1)
        self.head = SimCLRProjectionHead(backbone.embed_dim, hidden_dim, projection_dim)
        self.temperature = temperature

    def forward(self, views: Views, progress: float) -> Loss:
        """NT-Xent over the two crops of every image."""
        features = self.head(pooled(self.backbone, torch.cat(views.global_[:2])))
        # In float32: at temperature 0.1 bf16 similarities put 2 % error on the gradient.
        with torch.autocast(features.device.type, enabled=False):
            first, second = features.float().chunk(2)
            return Loss(self.contrast(first, second), {})

    def indifferent_loss(self, images: int) -> float:
        """ln(2N - 1): all 2N - 1 other projections are equally near."""
        return math.log(max(2 * images - 1, 1))

    def contrast(self, first: Tensor, second: Tensor) -> Tensor:
        """NT-Xent of two (B, D) projections, with the negatives of all devices."""
        return contrastive_loss(first, second, temperature=self.temperature)
