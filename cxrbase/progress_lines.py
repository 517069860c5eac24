"""Progress of a run whose output is a file or a pipe, where a bar cannot be redrawn."""

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

logger = logging.getLogger(__name__)


def can_redraw() -> bool:
    """Whether there is a terminal or a notebook, on which a progress bar can be drawn again and again."""
    console = Console()
    return console.is_terminal or console.is_jupyter


class ProgressLines(Callback):
    """Logs how far a run is: after ten seconds, then ever more rarely, at least every five minutes.

    Args:
        facts: Gives what else to say of a module in training, by name.
        first_s: Seconds to the first line, and the fewest between two.
    """

    def __init__(self, facts: Callable[[Any], dict[str, Any]] = lambda _: {}, first_s: float = 10.0) -> None:
        self.facts, self.first_s = facts, first_s
        self._began, self._next, self._step = 0.0, first_s, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the watch; the steps of a resumed run are not this process's."""
        self._began, self._next, self._step = time.monotonic(), self.first_s, trainer.global_step

    @rank_zero_only
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Now and then logs a line."""
        spent = time.monotonic() - self._began
        done = trainer.global_step - self._step
        if spent < self._next or done == 0:
            return
        self._next = spent + min(max(self.first_s, spent / 50), 300.0)
        left = (trainer.estimated_stepping_batches - trainer.global_step) * spent / done
        said = [f"step {trainer.global_step:,} of {trainer.estimated_stepping_batches:,}"]
        said += [f"{name} {value}" for name, value in self.facts(pl_module).items()]
        logger.info("%s, %s left", ", ".join(said), timedelta(seconds=round(left)))
