"""On SIGTERM, saves at the end of the optimizer step and exits, so that a scheduler can restart the run."""

import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from cxrbase.divergence import StepReport
from cxrbase.pretraining import Pretraining

logger = logging.getLogger(__name__)

EXIT_CODE = 128 + signal.SIGTERM
_WORKER_GRACE_S = 30  # schedulers commonly give 30 s between SIGTERM and SIGKILL


class Requeue(Callback):
    """Replaces Lightning's handling of SIGTERM, which stops between accumulated batches and saves nothing."""

    def __init__(self) -> None:
        self._report, self._step = StepReport(), 0
        self._before: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes the signal over, and tells the workers, which a stream starts with its first batch."""
        if isinstance(loader := trainer.train_dataloader, DataLoader):
            loader.worker_init_fn = outlive_sigterm
        assert isinstance(pl_module, Pretraining)
        self._report, self._step = pl_module.report, trainer.global_step
        # Lightning asks all processes in every batch whether it has had the signal, and waits for the device to answer.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _ask_nobody  # type: ignore[method-assign]
        self._before = signal.signal(signal.SIGTERM, self._note)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves and exits where it was asked for and an optimizer step has just ended, on all ranks at once.

        Several ranks learn of it with what they say of a step anyway, a step later.
        """
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if not (self._report.asks_stop if trainer.world_size == 1 else self._report.stop):
            return
        folder = Path(trainer.default_root_dir)
        trainer.save_checkpoint(folder / "last.ckpt", weights_only=False)
        logger.warning("SIGTERM: saved at step %d; resume with --ckpt_path=%s", trainer.global_step, folder)
        raise SystemExit(EXIT_CODE)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Gives the signal back."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._report.asks_stop = True


def _ask_nobody() -> None:
    pass


def outlive_sigterm(worker: int) -> None:
    """Keeps a loader's worker alive for a while after SIGTERM, which a scheduler sends to the whole process group.

    A worker that dies at once takes the batch with it that is needed to reach the end of the step.
    """
    signal.signal(signal.SIGTERM, _die_later)


def _die_later(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_WORKER_GRACE_S)
