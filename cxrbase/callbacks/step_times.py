"""Splits the time of a training step: waiting, copying, views, forward, backward, optimiser, teacher."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from cxrbase.clock import StepClock

# Phase, and its short name in the progress bar.
PHASES = {"wait": "wait", "copy": "copy", "views": "views", "forward": "fwd", "backward": "bwd",
          "optimiser": "opt", "teacher": "ema"}  # fmt: skip


class StepTimes(Callback):
    """Logs time/<phase>_ms, the mean over the last steps, and keeps the shares of their sum for the progress bar.

    Logging, other callbacks and what the loop does between steps count as none of the phases. Waiting is the host's
    time; on a GPU the other phases are the device's.

    Args:
        every_n_steps: Optimizer steps between two points of the curves, which are means over batches.
        enabled: Whether anything is timed.

    Attributes:
        shares: Per cent of the last steps' time by the short name of a phase; empty before there were any.
    """

    def __init__(self, every_n_steps: int = 20, enabled: bool = True) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps, self.enabled = every_n_steps, enabled
        self.clock, self.shares = StepClock(), dict[str, int]()
        self._waited, self._batches, self._step = 0.0, 0, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Counts from the step that the run begins with."""
        self._step = trainer.global_step

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hands the clock to those who know where a phase ends."""
        if self.enabled:
            self.clock.start(pl_module.device)
            pl_module.clock = self.clock  # type: ignore[assignment]

    def on_train_batch_start(self, *args: Any) -> None:
        """The views are there."""
        self.clock.mark("views")

    def on_before_backward(self, *args: Any) -> None:
        """The loss is there."""
        self.clock.mark("forward")

    def on_after_backward(self, *args: Any) -> None:
        """The gradient is there."""
        self.clock.mark("backward")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Now and then logs the means of the last batches."""
        self._batches += 1
        if not self.enabled or trainer.global_step < self._step + self.every_n_steps:
            return
        stream = trainer.datamodule.stream  # type: ignore[attr-defined]
        spent = self.clock.spent() | {"wait": stream.waited_s - self._waited}
        self._waited = stream.waited_s
        seconds = {phase: spent.get(phase, 0.0) for phase in PHASES}
        total = max(sum(seconds.values()), 1e-9)
        means = {f"time/{phase}_ms": 1000 * value / self._batches for phase, value in seconds.items()}
        self.shares = {PHASES[phase]: round(100 * value / total) for phase, value in seconds.items()}
        pl_module.log_dict(means, rank_zero_only=True)
        self._batches, self._step = 0, trainer.global_step
