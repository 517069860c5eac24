"""Keeps a second run out of a run's folder, where both would write the same checkpoint."""

import errno
import fcntl
import logging
from io import BufferedWriter
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from cxrbase.errors import ConfigError

logger = logging.getLogger(__name__)

LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class RunLock(Callback):
    """Holds the folder of a run from its start to its end; the death of the process gives it up.

    Raises:
        ConfigError: Another process trains into the folder.
    """

    def __init__(self) -> None:
        self._file: BufferedWriter | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Takes the folder, on the first rank alone."""
        folder = Path(trainer.default_root_dir)
        if not trainer.is_global_zero or "://" in str(folder):
            return
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("ab")
        try:
            # Of the process and not, like flock, of the open file, which worker processes would keep beyond its death.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno in _NO_LOCKS:
                logger.warning("%s has no file locks: do not start a second run in it", folder)
                return
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise ConfigError(
                f"another process trains into {folder}: wait for its end, or set --run_dir to a new folder"
            ) from error
        self._file = file

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Gives the folder up."""
        if self._file is not None:
            self._file.close()
            self._file = None
