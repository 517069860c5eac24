"""The joint batch of an optimizer step, of all devices and accumulated batches: whole at the end of an epoch."""

import lightning as L

from cxrbase.data.datamodule import CXRDataModule


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
