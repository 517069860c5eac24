"""Counts images per second and the share of time spent waiting for data."""

import time
from collections import deque
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

_TOTALS = ("images", "busy_s", "wait_s", "loss_first")


class Throughput(Callback):
    """Logs train/images_per_s and train/data_wait_fraction, and keeps the totals of the run for its summary.

    Busy is the time from the hand-out of a batch to the end of its step; other callbacks' time counts as neither.

    Args:
        every_n_steps: Optimizer steps between two points of the curves, and over which the last loss is averaged.

    Attributes:
        recent_per_s: Images per second between the last two points; None before.
    """

    def __init__(self, every_n_steps: int = 20) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.images, self.busy_s, self.wait_s = 0, 0.0, 0.0
        self.recent_per_s: float | None = None
        self._first: torch.Tensor | float | None = None
        self._last: float | None = None
        self._losses: deque[torch.Tensor] = deque(maxlen=every_n_steps)
        self._recent: list[tuple[int, float, float]] = []
        self._waited, self._step = 0.0, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Makes room for the losses of the last steps, each of which takes several batches where they accumulate."""
        self._step = trainer.global_step
        self._losses = deque(maxlen=self.every_n_steps * trainer.accumulate_grad_batches)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds one batch and now and then logs the mean of the last ones."""
        stream = trainer.datamodule.stream  # type: ignore[attr-defined]
        images = len(batch.global_[0]) * trainer.world_size
        busy, wait = time.perf_counter() - stream.handed_at, stream.waited_s - self._waited
        self._waited = stream.waited_s
        self.images, self.busy_s, self.wait_s = self.images + images, self.busy_s + busy, self.wait_s + wait
        # Kept where they are: reading one would wait for the device.
        self._losses.append(outputs["objective"])
        if self._first is None:
            self._first = self._losses[0]
        self._recent.append((images, busy, wait))
        if trainer.global_step >= self._step + self.every_n_steps:
            self._step = trainer.global_step
            self._log(pl_module)

    @property
    def loss_first(self) -> float | None:
        """Loss of the first batch."""
        return None if self._first is None else float(self._first)

    @property
    def loss_last(self) -> float | None:
        """Mean loss of the batches of the last steps; of a run without a step left, as it was then."""
        return float(torch.stack(list(self._losses)).mean()) if self._losses else self._last

    @property
    def images_per_s(self) -> float:
        """Images per second of training, waiting included."""
        return self.images / max(self.busy_s + self.wait_s, 1e-9)

    @property
    def data_wait_fraction(self) -> float:
        """Share of training time spent waiting for data, in [0, 1]."""
        return self.wait_s / max(self.busy_s + self.wait_s, 1e-9)

    def state_dict(self) -> dict[str, Any]:
        """Totals, so that a resumed run reports the whole run."""
        return {key: getattr(self, key) for key in (*_TOTALS, "loss_last")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the totals up again."""
        self.images, self.busy_s, self.wait_s, self._first = (state_dict[key] for key in _TOTALS)
        self._last = state_dict.get("loss_last")  # checkpoints of earlier versions have none

    def _log(self, pl_module: L.LightningModule) -> None:
        images, busy, wait = (sum(column) for column in zip(*self._recent, strict=True))
        self._recent.clear()
        self.recent_per_s = images / (busy + wait)
        pl_module.log("train/images_per_s", self.recent_per_s, rank_zero_only=True)
        pl_module.log("train/data_wait_fraction", wait / (busy + wait), rank_zero_only=True)
