"""The training stream: each rank computes its share of an epoch's order, so that it resumes anywhere."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler

from cxrbase.data.dataset import Item, StreamDataset
from cxrbase.data.order import Order, Plan, told_apart
from cxrbase.data.stand_ins import StandIns
from cxrbase.data.threads import threaded_batches
from cxrbase.data.workers import end_workers, lost_workers, own_sigchld
from cxrbase.errors import ConfigError


class StreamSampler(DistributedSampler[Any]):
    """Deals the order of an epoch to ranks, batch by batch.

    The global stream is cut into global batches first and each rank takes every world-size-th row of each, so the order
    depends neither on ranks nor on workers. A subclass of DistributedSampler, because Lightning then leaves it alone
    and tells it the epoch.

    Args:
        order: What is drawn, in which order.
        batch_size: Batch of one rank.
        rank: This rank.
        world_size: Number of ranks.
        drop_last: Leave out the last batch of an epoch where it would be smaller, and the last accumulated batches
            where they would be fewer. Otherwise the last one is the same size on all ranks, and fewer than `world_size`
            images are left out.
        one_per_patient: Keep the images of a patient in different global batches.
        window: Shards that are mixed with each other; 0 mixes all.

    Raises:
        ConfigError: There are too few images for one batch.

    Attributes:
        on_epoch: Called when another epoch was set, whose length may differ.
        stand_ins: Told the order of each epoch; None where nothing asks for it.
    """

    on_epoch: Callable[[], None] | None = None
    stand_ins: StandIns | None = None

    def __init__(
        self,
        order: Order,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
        one_per_patient: bool = False,
        window: int = 0,
    ) -> None:
        least = batch_size * world_size if drop_last else 0
        if len(order) < world_size:
            raise ConfigError(
                f"the training split holds {len(order)} images, fewer than the {world_size} devices: set "
                f"trainer.devices to at most {len(order)}"
            )
        if len(order) < least:
            raise ConfigError(
                f"the training split holds {len(order)} images, fewer than one global batch of {least}: lower "
                f"data.batch_size to at most {len(order) // world_size}"
            )
        self.source, self.batch_size, self.drop_last = order, batch_size, drop_last
        self.rank, self.num_replicas = rank, world_size
        self.plan = self._own = Plan(batch_size * world_size if one_per_patient else 0, window)
        self.epoch, self.start, self.batches_before = 0, 0, 0
        self.accumulated, self._dealt = 1, (0, list[int]())

    @property
    def global_batch(self) -> int:
        """Images that all ranks take in one step."""
        return self.batch_size * self.num_replicas

    def accumulate(self, batches: int) -> None:
        """Sets how many batches make an optimizer step; to be called before an epoch begins.

        Raises:
            ConfigError: There are too few images for one step.
        """
        self.accumulated, images = batches, batches * self.global_batch
        if self.drop_last and len(self.source) < images:
            raise ConfigError(
                f"the training split holds {len(self.source)} images, fewer than the {images} of one optimizer step "
                f"({self.batch_size} x {self.num_replicas} devices x {batches} accumulated): lower data.batch_size or "
                "trainer.accumulate_grad_batches"
            )

    def set_epoch(self, epoch: int) -> None:
        """Starts another epoch; the same epoch keeps the position that was restored."""
        if epoch != self.epoch:
            self.epoch, self.start, self.batches_before, self.plan = epoch, 0, 0, self._own
            if self.on_epoch is not None:
                self.on_epoch()

    def restore(self, epoch: int, *, images: int, batches: int, plan: Plan) -> None:
        """Goes on within an epoch that perhaps was begun with other batches, in the order it was begun with."""
        self.epoch, self.start, self.batches_before, self.plan = epoch, images, batches, plan

    def sizes(self) -> list[int]:
        """Images of this rank in each batch that is left of the epoch."""
        left = len(self.source) - self.start
        full, rest = divmod(left, self.global_batch)
        if self.drop_last:
            over = (self.batches_before + full) % self.accumulated
            return [self.batch_size] * (full - over)
        last = rest // self.num_replicas
        return [self.batch_size] * full + [last] * (last > 0)

    def size_of(self, batch: int) -> int:
        """Images of this rank in a batch of the epoch under way, by its number in the epoch."""
        before, sizes = self._dealt
        return sizes[batch - before] if batch >= before else self.batch_size

    def __len__(self) -> int:
        """Images of this rank in the whole epoch, counting what was done before a restart by its batches."""
        return self.batches_before * self.batch_size + sum(self.sizes())

    def __iter__(self) -> Iterator[int]:
        """Yields ids of this rank from the restored position on, which are rows but for a row's further times."""
        order, position, sizes = self.source.epoch(self.epoch, self.plan), self.start, self.sizes()
        order = told_apart(order) if self.source.repeats else order
        if self.stand_ins is not None:
            self.stand_ins.begin(self.source, self.epoch, self.plan, order)
        self._dealt = self.batches_before, sizes
        self.start, self.batches_before = 0, 0
        for size in sizes:
            count = size * self.num_replicas
            yield from order[position : position + count][self.rank :: self.num_replicas].tolist()
            position += count


class StreamLoader(DataLoader[Item]):
    """A loader that knows how many images it has handed out, and can go on from there.

    Counted in the main process as batches leave it, so what workers hold ready is not counted.

    Attributes:
        decode_threads: Threads that decode in place of worker processes; 0 for none.
        on_begin: Called as an epoch begins.
        on_position: Told the images of the global stream that were handed out in this epoch.
        quarantine_file: CSV that names unreadable images; None for none.
        exchange_on: Device on which several processes exchange what they found unreadable; None for one process.
        waited_s: Seconds spent waiting for batches so far.
        handed_at: `time.perf_counter()` when the last batch was handed out.
    """

    sampler: StreamSampler
    dataset: StreamDataset
    decode_threads = 0
    on_begin: Callable[[], None] | None = None
    on_position: Callable[[int], None] | None = None
    quarantine_file: Path | None = None
    exchange_on: torch.device | None = None
    waited_s = 0.0
    handed_at = 0.0
    _images = 0
    _batches = 0

    def __init__(self, dataset: StreamDataset, **options: Any) -> None:
        # The data set makes whole batches, so there is nothing to collate.
        super().__init__(dataset, collate_fn=_as_it_is, **options)

    def __iter__(self) -> Any:
        """Yields batches, counts the images of the global stream and the time it took to get them.

        Raises:
            WorkerError: A worker process is gone.
            ShardError: More images are unreadable than are tolerated.
        """
        sampler = self.sampler
        self._images, self._batches = sampler.start, sampler.batches_before
        self.dataset.epoch.fill_(sampler.epoch)
        if self.on_begin is not None:
            self.on_begin()
        asked = time.perf_counter()
        batches, failed = None, True
        try:
            with lost_workers(lambda: self._iterator if batches is None else batches):
                batches = self._batches_of_epoch()
                for batch in batches:
                    self._count(batch, asked)
                    failed = False
                    yield batch
                    asked, failed = time.perf_counter(), True
            self.exchange()
            failed = False
        finally:
            if failed:
                self.close()
                end_workers(batches)  # the same ones, unless each epoch has its own

    def _count(self, batch: Any, asked: float) -> None:
        self._images += len(batch[2]) * self.sampler.num_replicas
        self._batches += 1
        # Several processes end together, where they exchange what they found: one alone would leave the others waiting.
        quarantine = self.dataset.quarantine
        (quarantine.report if self.exchange_on is None else quarantine.tell)(self.quarantine_file)
        if self.on_position is not None:
            self.on_position(self._images)
        self.handed_at = time.perf_counter()
        self.waited_s += self.handed_at - asked

    def draw_from(self, order: Order) -> None:
        """Draws these images, and stand-ins for them, from now on; to be called before workers start."""
        self.sampler.source, self.dataset.pool = order, order.rows
        self.sampler.stand_ins = self.dataset.stand_ins = StandIns(order)

    def exchange(self) -> None:
        """Puts together what all processes of the run found unreadable; they must call it at the same point.

        Raises:
            ShardError: It is more than is tolerated; in all processes.
        """
        if self.exchange_on is not None:
            self.dataset.quarantine.exchange(self.exchange_on)

    def close(self) -> None:
        """Ends the worker processes, which otherwise live as long as the loader does; another epoch starts others.

        Left to the garbage collector, which may close their queues before they are told to end, each of them is waited
        for for five seconds.
        """
        iterator, self._iterator = self._iterator, None
        end_workers(iterator)

    def _batches_of_epoch(self) -> Any:
        if not self.decode_threads:
            with own_sigchld():
                return super().__iter__()
        assert self.batch_sampler is not None
        pin = self.pin_memory and torch.cuda.is_available()
        return threaded_batches(self.dataset, self.batch_sampler, threads=self.decode_threads, pin=pin)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands; the same on every rank and for any number of workers."""
        return {
            "epoch": self.sampler.epoch,
            "images": self._images,
            "batches": self._batches,
            "plan": list(self.sampler.plan),
            "seed": self.sampler.source.seed,
            "n": len(self.sampler.source),
            "quarantine": self.dataset.quarantine.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where another run stood, also with other numbers of ranks and workers and other batches.

        Raises:
            ConfigError: If that run had another seed or another number of images.
        """
        mine = {"seed": self.sampler.source.seed, "n": len(self.sampler.source)}
        for key, value in mine.items():
            if state[key] != value:
                name = {"seed": "seed_everything", "n": "the number of training images"}[key]
                raise ConfigError(
                    f"{name} was {state[key]} in the checkpoint and is {value} now, so the run cannot go on: "
                    "use the data and seed it was started with, or start a new run without --ckpt_path"
                )
        plan = Plan(*state["plan"])
        self.sampler.restore(state["epoch"], images=state["images"], batches=state["batches"], plan=plan)
        self.dataset.quarantine.restore(state["quarantine"])
        self._images, self._batches = state["images"], state["batches"]


def _as_it_is(batch: Any) -> Any:
    return batch


def tell_length(trainer: Any, loader: StreamLoader) -> None:
    """Tells Lightning's Trainer the length of an epoch after one that was begun with other batches.

    It asks once, when it starts, and would end all later epochs early or wait for more.

    Args:
        trainer: The Trainer; None outside of a run.
        loader: Its training loader.
    """
    if trainer and trainer.fit_loop._combined_loader and trainer.limit_train_batches == 1.0:
        trainer.fit_loop.max_batches = len(loader)
        trainer.fit_loop._combined_loader.limits = [len(loader)]
