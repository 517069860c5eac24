"""BatchNorm over the joint batch of all devices, so that a head sees the same statistics however many there are."""

from typing import Any

import torch
from torch import Tensor, nn


class SharedBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm1d whose mean and variance are those of all devices; in one process, and in evaluation, it is plain.

    torch's SyncBatchNorm does the same, but not on a CPU.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalises (B, D); every device must hold equally many rows."""
        if not (self.training and _devices() > 1):
            return super().forward(input)
        rows = input.float()
        count = len(rows) * _devices()
        mean = _total(rows.sum(0)) / count
        centred = rows - mean
        variance = _total(centred.square().sum(0)) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        normed = centred * (variance + self.eps).rsqrt()
        if self.affine:
            normed = normed * self.weight + self.bias
        return normed.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, rate)
        self.running_var.lerp_(variance, rate)


def share_batch_norm(module: nn.Module) -> None:
    """Makes every BatchNorm1d below a module a shared one, in place; parameters and their names stay."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm1d:
                setattr(parent, name, _shared(child))


def _shared(plain: nn.BatchNorm1d) -> SharedBatchNorm1d:
    size, momentum, tracked = plain.num_features, plain.momentum, plain.track_running_stats
    shared = SharedBatchNorm1d(size, plain.eps, momentum, affine=plain.affine, track_running_stats=tracked)
    # The very same tensors, so that an optimiser or a teacher that holds them goes on doing so.
    for name, parameter in plain.named_parameters(recurse=False):
        setattr(shared, name, parameter)
    for name, buffer in plain.named_buffers(recurse=False):
        setattr(shared, name, buffer)
    return shared.train(plain.training)


def _devices() -> int:
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if together else 1


def _total(part: Tensor) -> Tensor:
    total: Tensor = _Total.apply(part)  # type: ignore[no-untyped-call]
    return total


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every device's loss depends on the total.
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total
