"""Puts the training loader together with the run that it is part of."""

import weakref
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cxrbase.data.dataset import StreamDataset
from cxrbase.data.look_ahead import LookAhead
from cxrbase.data.stream import StreamLoader, StreamSampler, tell_length


def training_loader(
    dataset: StreamDataset,
    sampler: StreamSampler,
    *,
    num_workers: int = 0,
    decode_threads: int = 0,
    trainer: Any = None,
    look_ahead: LookAhead | None = None,
) -> StreamLoader:
    """A loader that tells the run of its length, and others of its position.

    Args:
        dataset: The images.
        sampler: Their order.
        num_workers: Worker processes; 0 reads in the main process.
        decode_threads: Threads that decode in place of worker processes; 0 for none.
        trainer: Lightning's Trainer; None outside of a run.
        look_ahead: Fetches shards ahead of need, where they are in an object store.
    """
    loader = StreamLoader(
        dataset,
        batch_size=sampler.batch_size,
        sampler=sampler,
        num_workers=num_workers,
        drop_last=sampler.drop_last,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )
    loader.draw_from(sampler.source)
    # No cycles: what a loader holds is let go with the last reference to it.
    sampler.on_epoch = partial(tell_length, trainer, weakref.proxy(loader))
    if look_ahead is not None:
        loader.on_begin = partial(look_ahead.begin, sampler)
        loader.on_position = look_ahead.at
    loader.decode_threads = decode_threads
    if trainer:
        loader.quarantine_file = Path(trainer.default_root_dir) / f"quarantine-{sampler.rank}.csv"
        loader.exchange_on = trainer.strategy.root_device if sampler.num_replicas > 1 else None
    return loader
