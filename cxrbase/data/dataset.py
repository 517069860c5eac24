"""Images by row for the training stream, with the handling of unreadable ones."""

import logging
import math
import time
from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from cxrbase.data.order import REPEAT
from cxrbase.data.quarantine import Quarantine
from cxrbase.data.reading import Reading
from cxrbase.data.stand_ins import StandIns
from cxrbase.data.views import CPUCrop
from cxrbase.errors import CorruptError, DecodeError, ShardError
from cxrbase.sizes import longest

logger = logging.getLogger(__name__)

Item = tuple[Tensor, Tensor, int]
Batch = tuple[Tensor, Tensor, Tensor]
OnCorrupt = Literal["skip", "raise"]
_STAND_INS = 100
_NEAREST = 20  # draws from rows that suit better; where half of them are lost, all fail once in a million
# Seconds between tries of an image that a disk failed to give.
_PAUSES = (0.5, 1.0, 2.0)


class ImageStore(Protocol):
    """Whatever holds the images."""

    rows: NDArray[np.int64]
    size: int

    @property
    def reading(self) -> Reading:
        """How the files that the images are from were read."""

    @property
    def intensity(self) -> str:
        """What brightness means in the images, in words."""

    def image(self, row: int) -> NDArray[np.uint8]:
        """(H, W) uint8, no side longer than `size`; DecodeError or CorruptError where it cannot be read."""

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        """Names of some rows, for messages."""

    def sharing(self, row: int) -> NDArray[np.int64]:
        """Rows whose bytes are lost together with those of a row."""

    def __len__(self) -> int:
        """Rows of the manifest."""


class StreamDataset(Dataset[Item]):
    """Canvases by manifest row.

    Args:
        store: Where the images are.
        seed: Seed of the run, for the CPU crop and for stand-ins.
        crop: The CPU crop, if there is one.
        pool: Rows that stand in for unreadable ones; None takes all of the store.
        on_corrupt: `skip` enters an unreadable image into the quarantine and reads another in its place, so that
            batches keep their size; `raise` ends the run. What a disk fails to give is tried again for some seconds
            before.
        quarantine: Where unreadable images are entered; None makes one that tolerates none.

    Attributes:
        stand_ins: Where stand-ins are looked for first; None draws them from all of the pool.
    """

    stand_ins: StandIns | None = None

    def __init__(
        self,
        store: ImageStore,
        *,
        seed: int = 0,
        crop: CPUCrop | None = None,
        pool: NDArray[np.int64] | None = None,
        on_corrupt: OnCorrupt = "raise",
        quarantine: Quarantine | None = None,
    ) -> None:
        self.store, self.seed, self.crop, self.on_corrupt = store, seed, crop, on_corrupt
        self.pool = store.rows if pool is None else pool
        self.quarantine = quarantine or Quarantine(len(store), limit=0.0, names=store.names)
        # Shared memory, because workers that live for several epochs must see the epoch change.
        self.epoch = torch.zeros((), dtype=torch.int64)
        self.epoch.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        """Rows of the manifest."""
        return len(self.store)

    @property
    def side(self) -> int:
        """Height and width of what is handed out, in pixels."""
        return self.store.size if self.crop is None else longest(self.crop.size)

    def __getitem__(self, wanted: int) -> Item:
        """One image: (1, C, C) uint8, its valid height and width, and its id; see `fill`."""
        canvas = np.empty((self.side, self.side), np.uint8)
        found, height, width = self.fill(canvas, wanted)
        return torch.from_numpy(canvas)[None], torch.tensor([height, width]), found

    def __getitems__(self, ids: list[int]) -> Batch:
        """A batch, written in its place; PyTorch's loader asks for it where there is this method."""
        batch = self.empty(len(ids), shared=get_worker_info() is not None)
        self.fill_slots(batch, ids, range(len(ids)))
        return batch

    def empty(self, count: int, *, pin: bool = False, shared: bool = False) -> Batch:
        """A batch of any content: (B, 1, C, C) uint8, valid heights and widths, and ids.

        Args:
            count: Its images.
            pin: Page-locked memory.
            shared: Memory that other processes see, so that a worker's batch is not copied once more on its way.
        """
        shape = (count, 1, self.side, self.side)
        if shared:
            # As torch's own collation does it.
            storage = torch.UntypedStorage._new_shared(math.prod(shape), device="cpu")  # type: ignore[no-untyped-call]
            images = torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)  # type: ignore[call-overload]
        else:
            images = torch.empty(shape, dtype=torch.uint8, pin_memory=pin)
        return images, torch.empty((count, 2), dtype=torch.int64), torch.empty(count, dtype=torch.int64)

    def fill_slots(self, batch: Batch, ids: list[int], slots: Iterable[int]) -> None:
        """Reads the images of some slots of a batch; any number of threads may do so.

        Args:
            batch: Of `empty`.
            ids: Ids of the whole batch.
            slots: Which of them to read.
        """
        images, sizes, found = (part.numpy() for part in batch)
        for slot in slots:
            found[slot], sizes[slot, 0], sizes[slot, 1] = self.fill(images[slot, 0], ids[slot])

    def fill(self, canvas: NDArray[np.uint8], wanted: int) -> tuple[int, int, int]:
        """Writes one image into a canvas; any number of threads may do so.

        Args:
            canvas: (C, C) uint8 of any content.
            wanted: Id of an image, as of `told_apart`: its row of the manifest, where an epoch draws each once.

        Returns:
            The id that was read, which is of another row where this one is unreadable, and the height and width it
            takes.
        """
        image, row = self._readable(wanted)
        found = wanted - wanted % REPEAT + row
        if self.crop is not None:
            image = self.crop(image, (self.seed, int(self.epoch), found))
        height, width = image.shape
        canvas[:height, :width] = image
        canvas[height:] = 0
        canvas[:height, width:] = 0
        return found, height, width

    def _readable(self, wanted: int) -> tuple[NDArray[np.uint8], int]:
        for candidate in self._candidates(wanted):
            if self.quarantine.holds(candidate):
                continue
            try:
                return self._patiently(candidate), candidate
            except (CorruptError, DecodeError) as error:
                if self.on_corrupt == "raise":
                    raise
                self.quarantine.lock_up(candidate, error, self.store.sharing)
        raise ShardError(
            f"{_STAND_INS} images drawn in place of an unreadable one are unreadable too: see the warnings"
        )

    def _patiently(self, row: int) -> NDArray[np.uint8]:
        for number, pause in enumerate(_PAUSES):
            try:
                return self.store.image(row)
            except (CorruptError, DecodeError) as error:
                if not error.may_pass:
                    raise
                if not number:
                    logger.warning("%s; trying again for %g s", error, sum(_PAUSES))
            time.sleep(pause)
        return self.store.image(row)

    def _candidates(self, wanted: int) -> Iterator[int]:
        """A row, then those that stand in for it: the same in any worker and after a restart."""
        row = wanted % REPEAT
        yield row
        generator = np.random.Generator(np.random.PCG64([self.seed, int(self.epoch), row]))
        for rows in () if self.stand_ins is None else self.stand_ins.nearest(wanted):
            for _ in range(_NEAREST if len(rows) else 0):
                yield int(rows[generator.integers(len(rows))])
        for _ in range(_STAND_INS):
            yield int(self.pool[generator.integers(len(self.pool))])
