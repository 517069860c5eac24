"""DINO: a student predicts its momentum teacher's output for other crops of the same image."""

import math
from typing import ClassVar, Literal

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cxrbase.lean import make_lean, pooled
from cxrbase.objectives.base import Loss, MomentumTeacher, Objective
from cxrbase.objectives.heads import DINOHead
from cxrbase.objectives.losses import balanced_probabilities, distillation_loss, teacher_probabilities
from cxrbase.optim import cosine
from cxrbase.views import Views


class DINO(Objective):
    """Self-distillation with no labels (Caron et al. 2021, https://arxiv.org/abs/2104.14294).

    Accumulating micro-batches gives the same update as one large batch, because teacher and centre move once per
    optimizer step; not so with `centring: sinkhorn` or `batch_norm`, which couple the images of a batch.

    Args:
        backbone: The shared ViT; the student.
        num_prototypes: Outputs of the head (65,536 in the paper).
        hidden_dim: Hidden width of the head's MLP.
        bottleneck_dim: Width before the prototypes.
        student_temperature: Temperature of the student's softmax.
        teacher_temperature: Temperature of the teacher's softmax after its warm-up.
        teacher_temperature_start: The same at the start.
        teacher_warmup: Share of the run over which the teacher's temperature rises.
        momentum: The teacher's momentum at the start; it rises to 1 along a cosine.
        centring: What keeps the teacher from saying the same of all: "mean" subtracts a running mean (the paper);
            "sinkhorn" balances prototypes over the batch (DINOv2, https://arxiv.org/abs/2304.07193), which lasts in
            short trainings with small batches, and couples the images of a batch as `batch_norm` does.
        centre_momentum: Momentum of the centre that is subtracted from the teacher's logits.
        batch_norm: Whether the head has BatchNorm. It keeps short trainings with small batches from collapsing, and
            couples the images of a batch: accumulated micro-batches are then no longer the same as one large batch.
        freeze_prototypes: Share of the run for which the prototypes stay as they are (one epoch in the paper).
    """

    num_global_views: ClassVar[int] = 2
    uses_local_views: ClassVar[bool] = True
    centre: Tensor
    centre_sum: Tensor
    centre_count: Tensor

    def __init__(
        self,
        backbone: VisionTransformer,
        *,
        num_prototypes: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        teacher_temperature_start: float = 0.04,
        teacher_warmup: float = 0.0,
        momentum: float = 0.996,
        centring: Literal["mean", "sinkhorn"] = "mean",
        centre_momentum: float = 0.9,
        batch_norm: bool = False,
        freeze_prototypes: float = 0.01,
    ) -> None:
        super().__init__(backbone)
        for name, value in {"momentum": momentum, "centre_momentum": centre_momentum}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
        if centring not in ("mean", "sinkhorn"):
            raise ValueError(f"centring must be mean or sinkhorn, got {centring!r}")
        if min(student_temperature, teacher_temperature, teacher_temperature_start) <= 0:
            raise ValueError("temperatures must be above 0")
        self.student_temperature, self.teacher_warmup = student_temperature, teacher_warmup
        self.teacher_temperatures = (teacher_temperature_start, teacher_temperature)
        self.centring: str = centring
        self.batch_coupled = batch_norm or centring == "sinkhorn"
        self.momentum, self.centre_momentum, self.freeze_prototypes = momentum, centre_momentum, freeze_prototypes
        widths = {"hidden_dim": hidden_dim, "bottleneck_dim": bottleneck_dim}
        make_lean(backbone.blocks, -1)
        self.head = DINOHead(backbone.embed_dim, num_prototypes, **widths, batch_norm=batch_norm)
        self.teacher_backbone, self.teacher_head = MomentumTeacher(backbone), MomentumTeacher(self.head)
        self.register_buffer("centre", torch.zeros(num_prototypes))
        # Gathered by forward, spent by after_step, so not part of the state that a checkpoint holds.
        self.register_buffer("centre_sum", torch.zeros(num_prototypes), persistent=False)
        self.register_buffer("centre_count", torch.zeros(()), persistent=False)

    def forward(self, views: Views, progress: float) -> Loss:
        """Cross-entropy of the student's view of every crop against the teacher's of the other large crops."""
        large, count = torch.cat(views.global_), len(views.global_)
        logits = self._teach(large)
        self._gather(logits)
        teacher = self._targets(logits, self.teacher_temperature(progress))
        frozen = bool(self.resting(progress))
        student = list(self.head(pooled(self.backbone, large), freeze_prototypes=frozen).chunk(count))
        if views.local:
            small = pooled(self.backbone, torch.cat(views.local))
            student += self.head(small, freeze_prototypes=frozen).chunk(len(views.local))
        loss = distillation_loss(teacher.chunk(count), student, temperature=self.student_temperature)
        entropy = -(teacher * teacher.clamp(min=1e-12).log()).sum(-1).mean()
        logs = {
            "teacher_entropy": entropy.detach(),
            # What is left of the loss when the teacher's own entropy, which rises and falls, is taken off.
            "divergence": (loss - entropy).detach(),
            # Made where the loss is: a copy from the host would wait for the device.
            "momentum": torch.full((), self.momentum_at(progress), device=loss.device),
        }
        return Loss(loss, logs)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Moves the teacher and the centre, once per optimizer step."""
        momentum = self.momentum_at(progress)
        self.teacher_backbone.update(self.backbone, momentum)
        self.teacher_head.update(self.head, momentum)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.centre_sum)
            torch.distributed.all_reduce(self.centre_count)
        mean = self.centre_sum / self.centre_count.clamp(min=1)
        self.centre.lerp_(mean, 1 - self.centre_momentum)
        self.centre_sum.zero_()
        self.centre_count.zero_()

    def resting(self, progress: float) -> list[nn.Parameter]:
        """The prototypes, at the beginning."""
        return list(self.head.prototypes.parameters()) if progress < self.freeze_prototypes else []

    def indifferent_loss(self, images: int) -> float:
        """Ln K: student and teacher spread evenly over the K prototypes."""
        return math.log(len(self.centre))

    def momentum_at(self, progress: float) -> float:
        """The teacher's momentum, rising to 1 along a cosine."""
        return cosine(progress, start=self.momentum, end=1.0)

    def teacher_temperature(self, progress: float) -> float:
        """The teacher's temperature, rising linearly over its warm-up."""
        start, end = self.teacher_temperatures
        return end if progress >= self.teacher_warmup else start + (end - start) * progress / self.teacher_warmup

    @property
    def teacher(self) -> VisionTransformer:
        """The teacher's backbone."""
        vit: nn.Module = self.teacher_backbone.module
        assert isinstance(vit, VisionTransformer)
        return vit

    @property
    def encoder(self) -> VisionTransformer:
        """The teacher's backbone, better than the student's throughout (section 5.1 of the paper)."""
        return self.teacher

    @torch.no_grad()
    def _teach(self, large: Tensor) -> Tensor:
        # Not in inference mode: what the student's gradient needs of the targets could not be kept.
        logits: Tensor = self.teacher_head(pooled(self.teacher, large))
        return logits.float()

    @torch.no_grad()
    def _targets(self, logits: Tensor, temperature: float) -> Tensor:
        if self.centring == "sinkhorn":
            return balanced_probabilities(logits, temperature=temperature)
        return teacher_probabilities(logits, centre=self.centre, temperature=temperature)

    @torch.no_grad()
    def _gather(self, logits: Tensor) -> None:
        # A pass without gradients (a figure, a validation batch) must not move the centre.
        if self.training:
            self.centre_sum += logits.sum(0)
            self.centre_count += len(logits)
