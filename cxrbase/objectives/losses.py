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


def balanced_probabilities(logits: Tensor, *, temperature: float, iterations: int = 3) -> Tensor:
    """Teacher probabilities that use all prototypes equally over the batch (Sinkhorn-Knopp).

    SwAV (https://arxiv.org/abs/2006.09882, section 3.1), in place of centring as in DINOv2
    (https://arxiv.org/abs/2304.07193, section 4). In logarithms, so that nothing underflows; over all devices.

    Args:
        logits: (N, K) of the teacher, all its views one below the other.
        temperature: The teacher's.
        iterations: Rounds of dividing by the sum of each prototype, then of each image.

    Returns:
        (N, K) float32, every row summing to 1.
    """
    logs = logits.float() / temperature
    for _ in range(iterations):
        logs = logs - _log_sum_over_images(logs)
        logs = logs - logs.logsumexp(dim=1, keepdim=True)
    return logs.exp()


def _log_sum_over_images(logs: Tensor) -> Tensor:
    highest = logs.max(dim=0).values
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if together:
        torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
    total = (logs - highest).exp().sum(0)
    if together:
        torch.distributed.all_reduce(total)
    return highest + total.log()


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
