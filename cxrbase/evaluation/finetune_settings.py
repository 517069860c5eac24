"""Settings of fine-tuning, with RETFound's recipe as the defaults."""

from dataclasses import dataclass, field
from typing import Literal

from cxrbase.data.augment import Augment
from cxrbase.errors import ConfigError
from cxrbase.evaluation.decisions import Criterion
from cxrbase.evaluation.heads import Mode
from cxrbase.evaluation.suite.seen import Look
from cxrbase.sizes import Size
from cxrbase.trainer_checks import refuse_precision


@dataclass(frozen=True)
class FineTune:
    """How an encoder is fitted to a task; the defaults of `finetune` are RETFound's.

    Args:
        mode: `finetune` everything, or a `probe` (linear) or `attentive` probe on the frozen encoder.
        shots: Learn from this many patients with and without each class; where an image has exactly one class, from
            this many of each; None takes all.
        fraction: Learn from this share of the training patients, in (0, 1].
        epochs: Passes over the training images.
        batch_size: Images per step and device.
        lr: Peak learning rate per 256 images.
        min_lr: Learning rate at the end, as a share of the peak.
        warmup: Share of the steps over which the learning rate rises; 0.2 is 10 of 50 epochs.
        layer_decay: Factor of the learning rate from one layer to the one below, in (0, 1].
        drop_path: Stochastic depth rate of the last block.
        weight_decay: AdamW's.
        betas: AdamW's moments.
        smoothing: Label smoothing of tasks with a single answer.
        augment: How training images are varied.
        image_size: Side, or [height, width], of the images in pixels; None takes the encoder's.
        canvas_size: Longest side that is kept of an image; None takes twice the image size.
        threshold: What the threshold makes largest on validation: youden, f1 or accuracy.
        resamples: Of the bootstrap over patients.
        seen: What is looked for among the images that the encoder was pretrained on: `near` copies and exact ones,
            `exact` alone, or `off`, because every one of those images may have to be read.
        num_workers: Worker processes of the training loader.
        cache_dir: Where decoded images are kept; None takes `.canvas` in the folder of the images.
        cache_gb: Above this size images are decoded on access.
        max_bad: Largest share of unreadable images that is tolerated.
        accelerator: `cpu`, `gpu` or `auto`.
        devices: How many fit together, each on its part of every step; validation and test are scored by the first.
        precision: Of the training: 32-true, bf16-mixed or 16-mixed; None takes what the device computes best.
        seed: Of the head, the order, the variation and the draw of few images.
    """

    mode: Mode = "finetune"
    shots: int | None = None
    fraction: float = 1.0
    epochs: int = 50
    batch_size: int = 16
    lr: float = 5e-3
    min_lr: float = 0.0032
    warmup: float = 0.2
    layer_decay: float = 0.65
    drop_path: float = 0.2
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    smoothing: float = 0.1
    augment: Augment = field(default_factory=Augment)
    image_size: Size | None = None
    canvas_size: int | None = None
    threshold: Criterion = "youden"
    resamples: int = 2000
    seen: Look = "off"
    num_workers: int = 0
    cache_dir: str | None = None
    cache_gb: float = 8.0
    max_bad: float = 0.01
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    precision: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.resamples < 1:
            raise ConfigError(
                f"epochs, batch_size and resamples must be at least 1, got {self.epochs}, {self.batch_size}, "
                f"{self.resamples}"
            )
        refuse_precision(self.precision, option="--finetune.precision")
        if self.devices < 1:
            raise ConfigError(f"devices must be at least 1, got {self.devices}")
        if not 0 < self.fraction <= 1 or (self.shots is not None and (self.shots < 1 or self.fraction < 1)):
            raise ConfigError(
                f"fraction must be in (0, 1] and shots at least 1, not both, got {self.fraction} and {self.shots}"
            )
        if not 0 < self.layer_decay <= 1 or not 0 <= self.warmup < 1 or not 0 <= self.smoothing < 1:
            raise ConfigError(
                "layer_decay must be in (0, 1], warmup and smoothing in [0, 1), got "
                f"{self.layer_decay}, {self.warmup} and {self.smoothing}"
            )

    @property
    def protocol(self) -> str:
        """Name in the results, such as finetune, probe-8shot or attentive-10%."""
        few = f"-{self.shots}shot" if self.shots else f"-{100 * self.fraction:g}%" if self.fraction < 1 else ""
        return self.mode + few
