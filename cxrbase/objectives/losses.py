"""Losses as pure functions of tensors, computed in float32 whatever the autocast around them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_patch_loss(prediction: Tensor, target: Tensor, *, norm_pix: bool) -> Tensor:
    """Mean squared error over masked patches (MAE, https://arxiv.org/abs/2111.06377, section 3).

    Args:
        prediction: (B, M, P) predicted pixels of the masked patches.
        target: (B, M, P) their true pixels.
        norm_pix: Whether each target patch is normalised by its own mean and (unbiased) variance.

    Returns:
        Scalar float32.
    """
    target = target.float()
    if norm_pix:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    return F.mse_loss(prediction.float(), target)


def teacher_probabilities(logits: Tensor, *, centre: Tensor, temperature: float) -> Tensor:
    """Centred, sharpened softmax over prototypes, (..., K) float32 (DINO, https://arxiv.org/abs/2104.14294, eq. 1)."""
    return F.softmax((logits.float() - centre) / temperature, dim=-1)


def distillation_loss(teacher: Sequence[Tensor], student: Sequence[Tensor], *, temperature: float) -> Tensor:
    """Cross-entropy of every student view against every other teacher view (DINO, algorithm 1).

    Summing the student's log-probabilities first leaves one product per teacher view instead of one per pair.

    Args:
        teacher: T tensors (B, K) of probabilities; view t of the teacher is the same crop as view t of the student.
        student: S >= T tensors (B, K) of logits.
        temperature: The student's.

    Returns:
        Scalar float32, the mean over the T * (S - 1) pairs of different views and over the batch.
    """
    logs = [F.log_softmax(logits.float() / temperature, dim=-1) for logits in student]
    total = torch.stack(logs).sum(0)
    pairs = [-(target * (total - logs[view])).sum(-1).mean() for view, target in enumerate(teacher)]
    return torch.stack(pairs).sum() / (len(teacher) * (len(student) - 1))
