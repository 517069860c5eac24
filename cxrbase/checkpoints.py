"""Writes checkpoints completely or not at all, so that a kill always leaves the last good one."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from cxrbase.errors import CXRBaseError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, forces it to the disk, renames; Lightning's own moves a file from /tmp, unforced."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Saves one checkpoint.

        Args:
            checkpoint: What Lightning gathered.
            path: Where it goes; object storage is left to Lightning, as it has no half-written objects.
            storage_options: Not used.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # One name, so that what a killed process left is overwritten by the next.
        temporary = target.with_name(target.name + ".tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch tells of a full disk by the latter
            temporary.unlink(missing_ok=True)
            said = " ".join(str(error).split())
            raise CXRBaseError(
                f"cannot write {target}, is the disk full? The last checkpoint stays ({said})"
            ) from error
        os.replace(temporary, target)
        _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename last through a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
