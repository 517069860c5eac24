"""MAE that goes wrong at a step that is asked for, in one process or in all."""

from typing import Literal

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cxrbase.objectives import MAE, Loss
from cxrbase.views import Views


class Bad(torch.autograd.Function):
    """Gives the loss back as it is and its gradient spoilt."""

    @staticmethod
    def forward(ctx, loss: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient * ctx.factor, None


class Diverging(MAE):
    """MAE whose loss or gradient is spoilt once.

    Args:
        backbone: The shared ViT.
        decoder_dim: Width of the decoder.
        decoder_depth: Its depth.
        mask_ratio: Share of patches that are hidden.
        batch: Batch, counted from 1 by each process, at which it happens.
        rank: The process in which it does; None for all.
        what: A loss that is no number, a gradient that is none though the loss is finite, or a gradient far too large.
    """

    def __init__(
        self,
        backbone: VisionTransformer,
        *,
        decoder_dim: int = 32,
        decoder_depth: int = 1,
        mask_ratio: float = 0.75,
        batch: int = 3,
        rank: int | None = None,
        what: Literal["loss", "gradient", "spike"] = "gradient",
    ) -> None:
        super().__init__(backbone, decoder_dim=decoder_dim, decoder_depth=decoder_depth, mask_ratio=mask_ratio)
        self.batch, self.rank, self.what, self.count = batch, rank, what, 0

    def forward(self, views: Views, progress: float) -> Loss:
        """The loss of MAE, spoilt where it was asked for."""
        loss, logs = super().forward(views, progress)
        self.count += self.training
        mine = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        if self.count == self.batch and self.rank in (None, mine):
            factor = {"loss": 1.0, "gradient": float("nan"), "spike": 1e25}[self.what]
            loss = Bad.apply(loss, factor) + (float("nan") if self.what == "loss" else 0.0)
        return Loss(loss, logs)
