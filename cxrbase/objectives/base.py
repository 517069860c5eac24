"""The interface between objectives and the training loop, and the momentum teacher some objectives use."""

import copy
from collections.abc import Iterable
from typing import ClassVar, NamedTuple, Self

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cxrbase.sharding import local
from cxrbase.views import Views


class Loss(NamedTuple):
    """What one forward pass gives back.

    Attributes:
        loss: Scalar float32 with a graph.
        logs: Detached scalars to log, by name.
    """

    loss: Tensor
    logs: dict[str, Tensor]


class Objective(nn.Module):
    """A self-supervised objective over a shared ViT: its heads, its teacher if any, its loss.

    `forward` changes no persistent state (BatchNorm statistics aside); only `after_step` does, which is called once per
    optimizer step. So micro-batches can be accumulated without moving the teacher too often.

    Attributes:
        num_global_views: Large crops that `forward` needs.
        uses_local_views: Whether small crops are used where there are any.
        min_batch_size: Smallest batch per device that the loss is defined for.
        batch_coupled: Whether images of one batch act on each other, so that accumulation differs from a larger batch.
    """

    num_global_views: ClassVar[int] = 1
    uses_local_views: ClassVar[bool] = False
    min_batch_size: ClassVar[int] = 1
    batch_coupled: bool = False

    def __init__(self, backbone: VisionTransformer) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, views: Views, progress: float) -> Loss:
        """Computes the loss of one batch.

        Args:
            views: Crops of the batch.
            progress: Share of optimizer steps done, in [0, 1].
        """
        raise TypeError(f"{type(self).__name__} must define forward(views, progress)")

    def after_step(self, progress: float) -> None:
        """Updates teacher and centre; called once after every optimizer step."""

    def resting(self, progress: float) -> Iterable[nn.Parameter]:
        """Parameters that the optimizer step to come is to leave as they are."""
        return ()

    def indifferent_loss(self, images: int) -> float | None:
        """Loss of a network that says the same of every image, where collapsed runs stay; None where there is none.

        Args:
            images: Images of a batch on all devices.
        """
        return None

    @property
    def encoder(self) -> VisionTransformer:
        """The network to evaluate and to export."""
        return self.backbone


class MomentumTeacher(nn.Module):
    """An exponential moving average of a student: never trained, always in evaluation mode, float32.

    Args:
        student: The module to copy; must not have run forward if it carries weight norm.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(student).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, whatever the mode of the parent."""
        return super().train(False)

    @torch.no_grad()
    def update(self, student: nn.Module, momentum: float) -> None:
        """Moves the parameters towards the student's by 1 - momentum and copies its buffers."""
        # Teacher and student are spread alike where they are: every process moves its own part.
        mine = [local(p) for p in self.module.parameters()]
        theirs = [local(p) for p in student.parameters()]
        torch._foreach_lerp_(mine, theirs, 1 - momentum)
        for own, other in zip(self.module.buffers(), student.buffers(), strict=True):
            own.copy_(other)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Runs the teacher without a graph."""
        output: Tensor = self.module(images)
        return output
