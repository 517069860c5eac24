"""What a checkpoint says of its data and batches, taken up and compared when a run goes on."""

from types import NoneType
from typing import Any

import lightning as L

from cxrbase.data.datamodule import CXRDataModule
from cxrbase.errors import ConfigError
from cxrbase.joint_batch import joint_batch, reopen_epoch, return_to_step, take_up_batch

_PLAIN = (bool, int, float, str, list, tuple, NoneType)


def put_down(checkpoint: dict[str, Any], trainer: L.Trainer) -> None:
    """Completes a checkpoint by what another run must share that goes on from it, and by where that begins."""
    checkpoint.update(_said_of_data(trainer))
    reopen_epoch(checkpoint)


def _said_of_data(trainer: L.Trainer) -> dict[str, Any]:
    data = trainer.datamodule  # type: ignore[attr-defined]
    kept: dict[str, Any] = {"batch": joint_batch(trainer)}
    if isinstance(data, CXRDataModule):
        kept["normalised"] = {"mean": data.mean, "std": data.std} | data.store.reading.values()
        # Not what a class of the user's may hold beside: only plain values are read again without unpickling.
        kept["views"] = {name: value for name, value in vars(data.views).items() if isinstance(value, _PLAIN)}
    return kept


def take_up(checkpoint: dict[str, Any], trainer: L.Trainer | None, *, name: str, coupled: bool) -> None:
    """Lets a run go on where a checkpoint was saved, on images made alike, however its batches are split now.

    Args:
        checkpoint: The checkpoint, changed where its counts are to be others.
        trainer: The Trainer; None where only weights are loaded.
        name: What the objective is called.
        coupled: Whether its loss compares the images of a batch with each other.

    Raises:
        ConfigError: If pixels are made in another way, or images per step differ, or the batches do and may not.
    """
    mine = joint_batch(trainer)
    if trainer is None or mine is None:
        return
    _refuse_other_pixels(checkpoint, _said_of_data(trainer))
    reopen_epoch(checkpoint)  # those of earlier versions are saved as Lightning counts
    return_to_step(checkpoint)
    take_up_batch(checkpoint, mine, name=name, coupled=coupled)


def _refuse_other_pixels(checkpoint: dict[str, Any], now: dict[str, Any]) -> None:
    for part, prefix in (("normalised", "data"), ("views", "data.views")):
        held = checkpoint.get(part, {})  # checkpoints of earlier versions say less
        for key, value in now.get(part, {}).items():
            was, is_now = (list(each) if isinstance(each, tuple) else each for each in (held.get(key, value), value))
            if was != is_now:
                raise ConfigError(
                    f"the checkpoint was trained with {prefix}.{key} {was}, now it is {is_now}: use the same settings "
                    "to go on, or start a new run without --ckpt_path"
                )
