"""What all processes say of a step, without a device waiting for its host; tells a run that is no longer finite."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cxrbase.errors import CXRBaseError
from cxrbase.sharding import local


class StepLoss(NamedTuple):
    """Loss of one optimizer step, the mean over its images on all processes.

    Attributes:
        step: Optimizer steps that were done before it.
        lr: Its learning rate.
        loss: The value.
    """

    step: int
    lr: float
    loss: float


class StepReport:
    """What all processes say of an optimizer step, sent without waiting and read a step later, everywhere the same.

    A GPU copies it into pinned memory on its way. Whoever reads it while the next step is queued waits for nothing but
    a device that is more than a step behind its host.

    Attributes:
        last: The loss that was read last; None before the second step.
        asks_stop: Whether this process asks all of them to stop.
        stop: Whether one of them did.
    """

    def __init__(self) -> None:
        self.last: StepLoss | None = None
        self.asks_stop = self.stop = False
        self._sum: Tensor | None = None
        self._sent: tuple[int, float] | None = None
        self._host = torch.zeros(2)
        self._arrived: torch.cuda.Event | None = None

    def add(self, loss: Tensor) -> None:
        """Adds the share of one batch in the loss of the step."""
        part = loss.detach().float()
        self._sum = part if self._sum is None else self._sum + part

    def send(self, step: int, lr: float) -> None:
        """Ends a step; all processes must do so together.

        Args:
            step: Optimizer steps that were done before it.
            lr: Its learning rate.
        """
        if self._sum is None:
            return
        said, count = torch.stack([self._sum, torch.full_like(self._sum, self.asks_stop)]), 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            count = torch.distributed.get_world_size()
            torch.distributed.all_reduce(said)
        self._copy(said / count)
        self._sum, self._sent = None, (step, lr)

    def read(self) -> StepLoss | None:
        """The step that was sent last, if it was not read yet."""
        if self._sent is None:
            return None
        if self._arrived is not None:
            self._arrived.synchronize()
        # As an array, because that is refused of anything but the host's own memory.
        loss, asked = self._host.numpy().tolist()
        (step, lr), self._sent = self._sent, None
        self.last, self.stop = StepLoss(step, lr, loss), asked > 0
        return self.last

    def _copy(self, said: Tensor) -> None:
        if said.is_cuda and self._arrived is None:
            self._host = self._host.pin_memory()
            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._host.copy_(said, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()


@torch.no_grad()
def all_finite(tensors: Iterable[Any]) -> bool:
    """Whether all that this process holds of these tensors is finite; others are passed over. Waits for the device."""
    parts = [local(tensor) for tensor in tensors if isinstance(tensor, Tensor) and tensor.is_floating_point()]
    finite: dict[torch.device, list[Tensor]] = {}
    for part in parts:
        finite.setdefault(part.device, []).append(part.isfinite().all())
    return all(bool(torch.stack(each).all()) for each in finite.values())


def diverged(seen: str, *, step: int, lr: float, folder: Path, clip: float | None) -> CXRBaseError:
    """What to say of a run that cannot go on, with what can be done about it.

    Args:
        seen: What is not finite.
        step: Optimizer steps done.
        lr: Learning rate of the last one.
        folder: Folder of the run.
        clip: Norm that gradients are clipped to; None or 0 where they are not.
    """
    lower = "lower --model.lr or lengthen --model.warmup"
    clipped = f"--trainer.gradient_clip_val={clip / 3 if clip else 1:.2g}"
    remedy = f"start again and {lower}, or set {clipped}; there is no checkpoint from before it"
    if (folder / "last.ckpt").is_file():
        remedy = (
            f"start a new run with --model.init_from={folder}/last.ckpt and {lower}, or go on with "
            f"--ckpt_path={folder} {clipped}; that checkpoint is from before it"
        )
    return CXRBaseError(f"{seen} at step {step} with learning rate {lr:.3g}: {remedy}")
