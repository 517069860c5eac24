"""The joint batch of an optimizer step over devices and accumulation: whole where an epoch ends or a run goes on."""

from typing import Any

import lightning as L

from cxrbase.data.datamodule import CXRDataModule
from cxrbase.errors import ConfigError

Batch = dict[str, int]


def joint_batch(trainer: L.Trainer | None) -> Batch | None:
    """Images that all devices take at a time, and how many such batches are accumulated; None without data."""
    data = getattr(trainer, "datamodule", None)
    if trainer is None or data is None:
        return None
    return {"images": data.batch_size * trainer.world_size, "accumulated": trainer.accumulate_grad_batches}


def deal_whole_steps(trainer: L.Trainer) -> None:
    """Lets the stream know how many batches make a step, and the Trainer how long an epoch is then.

    To be called before anybody asks for the number of steps, which is when Lightning makes the loader.
    """
    data, loop = trainer.datamodule, trainer.fit_loop  # type: ignore[attr-defined]
    if trainer.accumulate_grad_batches == 1 or not isinstance(data, CXRDataModule):
        return
    loop.setup_data()
    data.stream.sampler.accumulate(trainer.accumulate_grad_batches)
    loop.max_batches = min(loop.max_batches, len(data.stream))
    assert loop._combined_loader is not None
    loop._combined_loader.limits = [loop.max_batches]
    if loop._data_fetcher is not None:
        iter(loop._data_fetcher)  # made for the length before; no image is read before the first batch is asked for


def share_in_step(trainer: L.Trainer, batch: int) -> float:
    """What a batch's loss is to be multiplied by, so that each image of its optimizer step counts the same.

    Lightning divides the loss of every batch by the number that is accumulated. That is too much where an epoch ends
    within a step or with a smaller batch, as it may with `data.drop_last=false`.

    Args:
        trainer: The Trainer.
        batch: Number of the batch in the epoch.
    """
    data, accumulated = trainer.datamodule, trainer.accumulate_grad_batches  # type: ignore[attr-defined]
    if accumulated == 1 or not isinstance(data, CXRDataModule):
        return 1.0
    first = batch - batch % accumulated
    last = int(min(first + accumulated, trainer.num_training_batches))
    size = data.stream.sampler.size_of
    return accumulated * size(batch) / sum(size(number) for number in range(first, last))


def count_next_epoch(trainer: L.Trainer) -> None:
    """Mends Lightning's count of epochs after a checkpoint that was saved with the last batch of one.

    It counts that epoch as done when it restores, but not the next one as begun, as if it were still within the first.
    """
    loop = trainer.fit_loop
    if loop.restarted_mid_epoch and loop.epoch_progress.total.completed == loop.epoch_progress.total.ready:
        loop.reset_restart_stage()


def reopen_epoch(checkpoint: dict[str, Any]) -> None:
    """Mends Lightning's count of epochs in a checkpoint from within one.

    Lightning counts an epoch as done whenever it leaves it, also where a limit of steps or time has cut it, and would
    give the next epoch the position within this one.
    """
    loops = checkpoint["loops"]["fit_loop"]
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    if batches["is_last_batch"] and batches["current"]["processed"] == batches["current"]["ready"]:
        return
    for counted in (epochs["current"], epochs["total"]):
        counted["processed"] = counted["completed"] = max(counted["ready"] - 1, 0)
    checkpoint["epoch"] = epochs["current"]["completed"]


def return_to_step(checkpoint: dict[str, Any]) -> None:
    """Sets a checkpoint from within a step to its beginning, because gradients of its batches are in no checkpoint."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    ready, processed = progress["current"]["ready"], progress["current"]["processed"]
    held = checkpoint.get("batch")
    if held is None or (progress["is_last_batch"] and processed == ready):
        return
    if over := ready - processed + processed % held["accumulated"]:
        progress["is_last_batch"] = False
        for counted in (progress["current"], progress["total"]):
            counted.update(dict.fromkeys(counted, counted["ready"] - over))
        stream = checkpoint["CXRDataModule"]["stream"]
        stream["batches"] -= over
        stream["images"] -= over * held["images"]


def take_up_batch(checkpoint: dict[str, Any], mine: Batch | None, *, name: str, coupled: bool) -> None:
    """Counts the batches of a checkpoint as this run would have, so that it goes on with as many images per step.

    Args:
        checkpoint: The checkpoint, changed where its steps were split into other batches.
        mine: As of `joint_batch`.
        name: What the objective is called.
        coupled: Whether its loss compares the images of a batch with each other.

    Raises:
        ConfigError: If images per step differ, or the batches do and may not.
    """
    held = checkpoint.get("batch")
    if held is None or mine is None or held == mine:
        return
    was, now = (f"{each['images']} images x {each['accumulated']} accumulated" for each in (held, mine))
    if held["images"] * held["accumulated"] != mine["images"] * mine["accumulated"]:
        raise ConfigError(
            f"the checkpoint was trained with {was} per step, the settings give {now} (data.batch_size x devices, "
            "trainer.accumulate_grad_batches): use the same product, or start a new run without --ckpt_path"
        )
    if coupled:
        raise ConfigError(
            f"{name} compares the images of a batch with each other, so the {was} of the checkpoint are not {now}: use "
            "the same data.batch_size x devices and the same trainer.accumulate_grad_batches, or start a new run "
            "without --ckpt_path"
        )
    _count_anew(checkpoint, held["accumulated"], mine["accumulated"])


def _count_anew(checkpoint: dict[str, Any], was: int, now: int) -> None:
    """Counts batches as if `now` and not `was` of them had made each optimizer step."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counted in (progress["current"], progress["total"]):
        # Lightning tells from the differences between these where in a step it stood.
        more = -(-counted["ready"] // was) * now - counted["ready"]
        counted.update({key: value + more for key, value in counted.items()})
    checkpoint["CXRDataModule"]["stream"]["batches"] = progress["current"]["ready"]
