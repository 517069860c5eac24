"""Saves checkpoints, and lets limits end a run, at the end of an optimizer step alone."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


class StepCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, which puts off what falls between accumulated batches to the end of their step.

    Their gradients are in no checkpoint. It is the last callback of a batch, so that it knows who wants the run to end.
    """

    _asked_to_stop = False

    @property
    def state_key(self) -> str:
        """As Lightning names it, so that checkpoints of earlier versions hold its state too."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves where it is time to, and a step has ended."""
        asked = self._asked_to_stop or trainer.should_stop
        within = trainer.fit_loop._should_accumulate()
        self._asked_to_stop, trainer.should_stop = asked and within, asked and not within
        if not within:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
