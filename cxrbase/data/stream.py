"""The training stream: an order that is arithmetic over (seed, epoch), so that it resumes exactly and anywhere."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from cxrbase.data.canvas import CanvasStore
from cxrbase.data.views import CPUCrop
from cxrbase.errors import ConfigError

Item = tuple[Tensor, Tensor, int]


class StreamDataset(Dataset[Item]):
    """Canvases by manifest row.

    Args:
        store: Decoded canvases.
        seed: Seed of the run, for the CPU crop.
        crop: The CPU crop, if there is one.
    """

    def __init__(self, store: CanvasStore, *, seed: int = 0, crop: CPUCrop | None = None) -> None:
        self.store, self.seed, self.crop = store, seed, crop
        # Shared memory, because workers that live for several epochs must see the epoch change.
        self.epoch = torch.zeros((), dtype=torch.int64)
        self.epoch.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        """Rows of the manifest."""
        return len(self.store)

    def __getitem__(self, row: int) -> Item:
        """One image: (1, C, C) uint8, its valid height and width, and its row."""
        image, (height, width) = self.store.read(row)
        if self.crop is not None:
            image = self.crop(image[:height, :width], (self.seed, int(self.epoch), row))
            height, width = image.shape
        return torch.from_numpy(np.array(image))[None], torch.tensor([height, width]), row


class StreamSampler(DistributedSampler[Any]):
    """Order as a pure function of (seed, epoch), dealt to ranks batch by batch.

    The global stream is cut into global batches first and each rank takes every world-size-th row of each, so the order
    depends neither on ranks nor on workers. A subclass of DistributedSampler, because Lightning then leaves it alone
    and tells it the epoch.

    Args:
        rows: Manifest rows to draw from, (N,) int64.
        batch_size: Batch of one rank.
        seed: Seed of the run.
        rank: This rank.
        world_size: Number of ranks.
    """

    def __init__(
        self, rows: NDArray[np.int64], *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if len(rows) < batch_size * world_size:
            raise ConfigError(
                f"the training split holds {len(rows)} images, fewer than one global batch of "
                f"{batch_size * world_size}: lower data.batch_size to at most {len(rows) // world_size}"
            )
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.rank, self.num_replicas = rank, world_size
        self.epoch, self.start = 0, 0

    @property
    def global_batch(self) -> int:
        """Images that all ranks take in one step."""
        return self.batch_size * self.num_replicas

    def set_epoch(self, epoch: int) -> None:
        """Starts another epoch; the same epoch keeps the position that was restored."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def order(self) -> NDArray[np.int64]:
        """All rows in the order of this epoch."""
        shuffled: NDArray[np.int64] = np.random.Generator(np.random.PCG64([self.seed, self.epoch])).permutation(
            self.rows
        )
        return shuffled

    def __len__(self) -> int:
        """Images of this rank in a full epoch, also after a resume."""
        return len(self.rows) // self.global_batch * self.batch_size

    def __iter__(self) -> Iterator[int]:
        """Yields rows of this rank from the restored position on; the incomplete last batch is dropped."""
        order, position, self.start = self.order(), self.start, 0
        while position + self.global_batch <= len(order):
            yield from order[position : position + self.global_batch][self.rank :: self.num_replicas].tolist()
            position += self.global_batch


class StreamLoader(DataLoader[Item]):
    """A loader that knows how many images it has handed out, and can go on from there.

    Counted in the main process as batches leave it, so what workers hold ready is not counted.

    Attributes:
        waited_s: Seconds spent waiting for batches so far.
        handed_at: `time.perf_counter()` when the last batch was handed out.
    """

    sampler: StreamSampler
    dataset: StreamDataset
    waited_s = 0.0
    handed_at = 0.0
    _done = 0

    def __iter__(self) -> Any:
        """Yields batches, counts the images of the global stream and the time it took to get them."""
        self._done = self.sampler.start
        self.dataset.epoch.fill_(self.sampler.epoch)
        asked = time.perf_counter()
        for batch in super().__iter__():
            self._done += self.sampler.global_batch
            self.handed_at = time.perf_counter()
            self.waited_s += self.handed_at - asked
            yield batch
            asked = time.perf_counter()

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands; the same on every rank and for any number of workers."""
        return {
            "epoch": self.sampler.epoch,
            "images": self._done,
            "seed": self.sampler.seed,
            "n": len(self.sampler.rows),
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where another run stood.

        Raises:
            ConfigError: If that run had another seed or another number of images.
        """
        mine = {"seed": self.sampler.seed, "n": len(self.sampler.rows)}
        for key, value in mine.items():
            if state[key] != value:
                name = {"seed": "seed_everything", "n": "the number of training images"}[key]
                raise ConfigError(
                    f"{name} was {state[key]} in the checkpoint and is {value} now, so the run cannot go on: "
                    "use the data and seed it was started with, or start a new run without --ckpt_path"
                )
        self.sampler.epoch, self.sampler.start = state["epoch"], state["images"]
        self._done = state["images"]
