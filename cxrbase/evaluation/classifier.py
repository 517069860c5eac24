"""One classifier for linear probe, attentive probe and full fine-tuning: an encoder, a head and their optimiser."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor, nn

from cxrbase.errors import CXRBaseError
from cxrbase.evaluation.heads import Head, Mode, log_odds, masked_bce, one_of_many
from cxrbase.evaluation.metrics import auroc, macro
from cxrbase.evaluation.task import Kind
from cxrbase.optim import layer_decayed_groups, scaled_lr, warmup_cosine
from cxrbase.weights_fit import Encoder

_HEAD_WIDTH = 64  # of the attentive probe, as in ViTs


class Features(NamedTuple):
    """What a classifier makes of B images.

    Args:
        pooled: What the last layer of the head scores, (B, D).
        middle: Mean and standard deviation of the patch tokens after half of the blocks, (B, 2 D). Training for a task
            moves the last blocks most, until they map every image to one of its answers; halfway, what is no radiograph
            still looks like none.
    """

    pooled: Tensor
    middle: Tensor

    @property
    def joined(self) -> Tensor:
        """Both, (B, 3 D)."""
        return torch.cat([self.pooled, self.middle], dim=1)


class Predicted(NamedTuple):
    """Log-odds (N, K) in float64 and, in float32, pooled (N, D) and joined features (N, 3 D), see `Features`."""

    logits: NDArray[np.float64]
    pooled: NDArray[np.float32]
    joined: NDArray[np.float32]


class Classifier(L.LightningModule):
    """An encoder with a head for a task.

    Defaults are RETFound's (https://github.com/rmaphoh/RETFound): AdamW at 5e-3 per 256 images, layer-wise decay 0.65,
    weight decay 0.05, warm-up over a fifth of the run, label smoothing 0.1.

    Args:
        encoder: A ViT; its drop path rate is set by who made it.
        classes: Names of the K classes.
        kind: `binary` and `multilabel` score each class by itself, `multiclass` by a softmax.
        mode: `finetune` trains everything, `probe` and `attentive` the head on a frozen encoder.
        lr: Peak learning rate per 256 images.
        min_lr: Learning rate at the end, as a share of the peak; 0.0032 is RETFound's 1e-6.
        warmup: Share of the steps over which the learning rate rises from 0.
        layer_decay: Factor of the learning rate from one layer to the one below.
        weight_decay: AdamW's; biases, norms, embeddings and tokens have none.
        betas: AdamW's moments.
        smoothing: Label smoothing where there is a single answer; multilabel has none.
        seed: Seed of stochastic depth.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: Sequence[str],
        *,
        kind: Kind = "multilabel",
        mode: Mode = "finetune",
        lr: float = 5e-3,
        min_lr: float = 0.0032,
        warmup: float = 0.2,
        layer_decay: float = 0.65,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.999),
        smoothing: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.classes, self.kind, self.mode = tuple(classes), kind, mode
        self.lr, self.min_lr, self.warmup, self.layer_decay = lr, min_lr, warmup, layer_decay
        self.weight_decay, self.betas, self.seed = weight_decay, betas, seed
        self.smoothing = 0.0 if kind == "multilabel" else smoothing
        self.encoder = encoder
        if mode == "finetune":
            # The mean is normalised instead of each token, as MAE and RETFound do.
            encoder.norm = nn.Identity()
        if hasattr(encoder, "fc_norm"):
            encoder.fc_norm = nn.Identity()
        width = int(encoder.embed_dim)
        heads = max(width // _HEAD_WIDTH, 1)
        self.head = Head(width, len(self.classes), mode=mode, num_heads=heads if width % heads == 0 else 1)
        encoder.requires_grad_(mode == "finetune")

    def train(self, mode: bool = True) -> "Classifier":
        """A frozen encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.train(mode and self.mode == "finetune")
        return self

    def tokens(self, images: Tensor) -> Tensor:
        """Patch tokens (B, L, D) of normalised images (B, 1, H, W)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.mode == "finetune"):
            tokens: Tensor = self.encoder.forward_features(images)
        return tokens[:, int(self.encoder.num_prefix_tokens) :]

    def features(self, images: Tensor) -> Features:
        """Features of normalised images (B, 1, H, W), without their gradients where the encoder is frozen."""
        encoder: Any = self.encoder  # timm's return type covers every way to call it
        half = max(len(encoder.blocks) // 2 - 1, 0)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.mode == "finetune"):
            tokens, (middle,) = encoder.forward_intermediates(images, indices=[half], output_fmt="NLC")
        spread = middle.std(1, correction=0)
        pooled = self.head.features(tokens[:, int(encoder.num_prefix_tokens) :])
        return Features(pooled, torch.cat([middle.mean(1), spread], dim=1))

    def forward(self, images: Tensor) -> Tensor:
        """Log-odds of each class, (B, K), of normalised images (B, 1, H, W)."""
        return log_odds(self.head(self.tokens(images)), one_of=self.kind == "multiclass")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of the known labels."""
        part = batch_idx * self.trainer.world_size + self.global_rank
        torch.manual_seed(hash((self.seed, self.current_epoch, part)) & (2**63 - 1))
        images, targets = batch
        loss = (one_of_many if self.kind == "multiclass" else masked_bce)(
            self.head(self.tokens(images)), targets, smoothing=self.smoothing
        )
        if not torch.isfinite(loss):
            raise CXRBaseError(f"the loss is {float(loss.detach())} at step {self.global_step}: lower --finetune.lr")
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with layer-wise decay, warm-up and a cosine per step."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        groups = layer_decayed_groups(
            self,
            depth=len(self.encoder.blocks),
            layer_decay=self.layer_decay,
            lr=scaled_lr(self.lr, batch_size=data.step_size, devices=self.trainer.world_size),
            weight_decay=self.weight_decay,
        )
        optimizer = torch.optim.AdamW(groups, betas=self.betas)
        total = max(int(self.trainer.estimated_stepping_batches), 1)

        def multiplier(step: int) -> float:
            return warmup_cosine(min(step / total, 1.0), warmup=self.warmup, end=self.min_lr)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def predict(classifier: Classifier, batches: Iterable[Tensor]) -> Predicted:
    """Log-odds and features of batches of normalised images, in float32 and evaluation mode."""
    width = classifier.head.linear.in_features
    none = Features(torch.zeros(0, width), torch.zeros(0, 2 * width))
    was, parts = classifier.training, [_predicted(torch.zeros(0, len(classifier.classes)), none)]
    classifier.eval()
    device_type = next(classifier.parameters()).device.type
    with torch.inference_mode(), torch.autocast(device_type, enabled=False):
        for images in batches:
            found = classifier.features(images)
            logits = log_odds(classifier.head.linear(found.pooled), one_of=classifier.kind == "multiclass")
            parts.append(_predicted(logits, found))
    classifier.train(was)
    return Predicted(*(np.concatenate(tables) for tables in zip(*parts, strict=True)))


def _predicted(logits: Tensor, found: Features) -> Predicted:
    features = (table.float().cpu().numpy() for table in (found.pooled, found.joined))
    return Predicted(logits.double().cpu().numpy(), *features)


def validation_score(logits: NDArray[np.float64], truth: NDArray[Any]) -> float:
    """What chooses an epoch: macro AUROC over the classes that validation can judge; minus the log loss without any.

    Args:
        logits: (V, K) log-odds.
        truth: (V, K) labels, 1 present, 0 absent, NaN unknown or of a class that is not to count.
    """
    area = macro(auroc(logits, truth))
    if not np.isnan(area):
        return area
    known = ~np.isnan(truth)
    loss = np.logaddexp(0, logits) - np.nan_to_num(truth) * logits
    return -float(loss[known].mean()) if known.any() else float("-inf")
