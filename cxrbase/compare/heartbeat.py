"""Records the progress of a cell in a small file that anybody can read at any time."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from cxrbase.pretraining import Pretraining
from cxrbase.whole_files import written_whole

PROGRESS = "progress.json"
_EVERY_S = 1.0  # between two notes
_ALIVE_S = 30.0  # between two signs of life
_writing = threading.Lock()


def say(folder: Path, **facts: Any) -> None:
    """Replaces a cell's progress; a reader finds the old or the new, never half of it."""
    with _writing:
        _write(folder, facts)


@contextlib.contextmanager
def alive(folder: Path) -> Iterator[None]:
    """Renews the time of a cell's progress meanwhile, as scoring and decoding say nothing for many minutes."""
    over = threading.Event()
    # A daemon, so that a worker that is told to end does not wait for it.
    thread = threading.Thread(target=_renew, args=(folder, over), name="alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _renew(folder: Path, over: threading.Event) -> None:
    while not over.wait(_ALIVE_S):
        # A full disk is told by what needs it. Without a file nothing has been said yet.
        with _writing, contextlib.suppress(OSError):
            _write(folder, json.loads((folder / PROGRESS).read_text()))


def _write(folder: Path, facts: dict[str, Any]) -> None:
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
