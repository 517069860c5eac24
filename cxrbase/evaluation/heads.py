"""Heads that answer a task from an encoder's tokens, and the losses they are trained with."""

from typing import Literal

import torch
from timm.layers.attention_pool import AttentionPoolLatent
from torch import Tensor, nn
from torch.nn import functional as F

Mode = Literal["finetune", "probe", "attentive"]

_INIT_STD = 2e-5  # of the last layer, as RETFound and MAE start it


class Head(nn.Module):
    """Pools the patch tokens and scores the classes by one linear layer.

    Args:
        dim: Width of the tokens.
        classes: Number of scores.
        mode: `finetune` mean and LayerNorm (RETFound, MAE), `probe` mean and BatchNorm without scale (MAE's linear
            probe), `attentive` one query that attends to all tokens, then LayerNorm.
        num_heads: Heads of the attention; must divide `dim`.
    """

    def __init__(self, dim: int, classes: int, *, mode: Mode, num_heads: int = 1) -> None:
        super().__init__()
        self.pool = AttentionPoolLatent(dim, num_heads=num_heads) if mode == "attentive" else None
        self.norm: nn.Module = nn.BatchNorm1d(dim, affine=False) if mode == "probe" else nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.linear.weight, std=_INIT_STD)
        nn.init.zeros_(self.linear.bias)

    def features(self, tokens: Tensor) -> Tensor:
        """Patch tokens (B, L, D) as one vector each, (B, D); their order does not matter."""
        pooled: Tensor = self.norm(tokens.mean(1) if self.pool is None else self.pool(tokens))
        return pooled

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores (B, K) of patch tokens (B, L, D)."""
        scores: Tensor = self.linear(self.features(tokens))
        return scores


def masked_bce(logits: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy over the known labels alone.

    Args:
        logits: (B, K).
        targets: (B, K), probabilities in [0, 1], NaN unknown.
        smoothing: Share of each target that is moved to 1/2; for two classes the same as label smoothing.

    Returns:
        Mean over the known labels, in float32; 0 where none is known.
    """
    known = ~targets.isnan()
    wanted = targets.nan_to_num() * (1 - smoothing) + smoothing / 2
    loss = F.binary_cross_entropy_with_logits(logits.float(), wanted.float(), reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)


def one_of_many(logits: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with label smoothing, (B, K) logits against (B, K) targets with a single 1, in float32."""
    return F.cross_entropy(logits.float(), targets.argmax(1), label_smoothing=smoothing)


def log_odds(logits: Tensor, *, one_of: bool) -> Tensor:
    """Log-odds of each class, (B, K): the logits themselves, or those of a softmax where exactly one class is true."""
    if not one_of:
        return logits
    own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    others = logits[:, None, :].masked_fill(own, float("-inf")).logsumexp(2)
    return logits - others
