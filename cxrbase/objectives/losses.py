"""Losses as pure functions of tensors, computed in float32 even under autocast."""

from collections.abc import Sequence
from typing import Any

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


def contrastive_loss(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """NT-Xent: two crops of an image against the crops of all other images, those of other devices too.

    (SimCLR, https://arxiv.org/abs/2002.05709, equation 1.) One product with a mask instead of picking entries by a
    boolean index, whose size the host would have to wait for.

    Args:
        first: (B, D) projections of one crop of each image; of any length, cosines are compared.
        second: (B, D) of the other crop.
        temperature: Divides the cosines.

    Returns:
        Scalar float32, the mean over the 2B projections of this device.
    """
    own = F.normalize(torch.cat([first, second]).float(), dim=-1)
    count, rank, columns = len(own), 0, own
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank, columns = torch.distributed.get_rank(), gathered(own)
    place = torch.arange(count, device=own.device)
    itself = torch.arange(len(columns), device=own.device) == (place + rank * count)[:, None]
    logits = (own @ columns.T / temperature).masked_fill(itself, float("-inf"))
    return F.cross_entropy(logits, (place + count // 2) % count + rank * count)


def gathered(rows: Tensor) -> Tensor:
    """The rows of all devices, (W * N, D) in the order of ranks; gradients find their way back to each."""
    joined: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return joined


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every device's loss depends on these rows.
        total = gradients[0].contiguous()
        torch.distributed.all_reduce(total)
        return total.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]
