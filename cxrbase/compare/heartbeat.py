"""Records the progress of a cell in a small file that anybody can read at any time."""

import json
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from cxrbase.pretraining import Pretraining
from cxrbase.whole_files import written_whole

PROGRESS = "progress.json"
_EVERY_S = 1.0  # between two notes


def say(folder: Path, **facts: Any) -> None:
    """Replaces a cell's progress; a reader finds the old or the new, never half of it."""
    with written_whole(folder / PROGRESS) as part:
        part.write_text(json.dumps(facts | {"at": time.time()}))


class Heartbeat(Callback):
    """Writes step, steps and loss of a run into the folder above the run's."""

    def __init__(self) -> None:
        self._said, self._began, self._first = 0.0, 0.0, 0

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes the state once in a while."""
        if not self._began:
            self._began, self._first = time.time(), trainer.global_step  # a resumed run has steps behind it
        if time.monotonic() - self._said < _EVERY_S:
            return
        self._said = time.monotonic()
        # What is logged is on the device, which would be waited for.
        last = pl_module.report.last if isinstance(pl_module, Pretraining) else None
        say(
            Path(trainer.default_root_dir).parent,
            stage="pretraining",
            step=trainer.global_step,
            steps=int(trainer.estimated_stepping_batches),
            loss=None if last is None else last.loss,
            began=self._began,
            first=self._first,
        )
