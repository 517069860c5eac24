"""The central view on which encoders are scored, for any rows of any store."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrbase.cores import available_cores
from cxrbase.data.dataset import ImageStore
from cxrbase.data.quarantine import Quarantine
from cxrbase.data.shard_store import ShardStore
from cxrbase.errors import CorruptError, DecodeError
from cxrbase.sizes import Size
from cxrbase.views import centre_view

Rows = NDArray[np.int64]
_FEWEST_SHARDS = 16  # that a sample of an object store is drawn from, lest it be of one source alone


@dataclass(frozen=True)
class Canvases:
    """Images as they are stored.

    Args:
        rows: Their rows of the manifest, (B,).
        images: (B, 1, C, C) uint8.
        sizes: Height and width that each takes of its canvas, (B, 2).
    """

    rows: Rows
    images: Tensor
    sizes: Tensor


def read_canvases(
    store: ImageStore, rows: Rows, *, device: torch.device, quarantine: Quarantine | None = None
) -> Canvases:
    """Reads some rows, in order.

    Args:
        store: Where the images are.
        rows: Rows of its manifest, (N,).
        device: Where the images are put.
        quarantine: What cannot be read is entered there and left out; None raises.

    Raises:
        DecodeError: An image cannot be read; CorruptError where it is packed.
    """
    canvases = np.zeros((len(rows), 1, store.size, store.size), np.uint8)
    sizes, read = np.zeros((len(rows), 2), np.int64), np.zeros(len(rows), bool)

    def fill(place: int) -> None:
        row = int(rows[place])
        if quarantine is not None and quarantine.holds(row):
            return
        try:
            image = store.image(row)
        except (CorruptError, DecodeError) as error:
            if quarantine is None:
                raise
            quarantine.lock_up(row, error, store.sharing)
            return
        height, width = image.shape
        canvases[place, 0, :height, :width], sizes[place], read[place] = image, (height, width), True

    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(fill, range(len(rows))))
    kept = slice(None) if read.all() else read
    return Canvases(rows[kept], torch.from_numpy(canvases[kept]).to(device), torch.from_numpy(sizes[kept]).to(device))


class CentreViews:
    """Centre views of some rows, in order and batch by batch: (B, 1, H, W) normalised.

    Args:
        store: Where the images are.
        rows: Rows of its manifest, (N,).
        out: Side, or height and width, of a view in pixels.
        mean: Subtracted after scaling to [0, 1].
        std: Divided by afterwards.
        device: Where views are made.
        batch_size: Images at a time.
        quarantine: What cannot be read is entered there and left out; None raises.

    Attributes:
        rows: Of the images that were handed out, once all were.
    """

    def __init__(
        self, store: ImageStore, rows: Rows, *, out: Size, mean: float, std: float, device: torch.device,
        batch_size: int = 64, quarantine: Quarantine | None = None,
    ) -> None:  # fmt: skip
        self.store, self.asked, self.device, self.batch_size = store, rows, device, batch_size
        self.out, self.mean, self.std, self.quarantine = out, mean, std, quarantine
        self.rows = rows[:0]

    def __len__(self) -> int:
        """Batches, at most."""
        return -(-len(self.asked) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        """Reads and hands out the views.

        Raises:
            DecodeError: An image cannot be read and there is no quarantine; CorruptError where it is packed.
        """
        seen = [self.rows]
        for start in range(0, len(self.asked), self.batch_size):
            rows = self.asked[start : start + self.batch_size]
            got = read_canvases(self.store, rows, device=self.device, quarantine=self.quarantine)
            seen.append(got.rows)
            if len(got.rows):
                yield centre_view(got.images, got.sizes, out=self.out, mean=self.mean, std=self.std)
        self.rows = np.concatenate(seen)


class Centre:
    """The view that a run judges its encoder on.

    Args:
        store: Where the images are.
        out: Side, or height and width, of a view in pixels.
        mean: Subtracted after scaling to [0, 1].
        std: Divided by afterwards.
        quarantine: What cannot be read is entered there and left out; None raises.
    """

    def __init__(
        self, store: ImageStore, *, out: Size, mean: float, std: float, quarantine: Quarantine | None = None
    ) -> None:
        self.store, self.out, self.mean, self.std, self.quarantine = store, out, mean, std, quarantine
        # Of an object store, each shard is fetched whole.
        whole = isinstance(store, ShardStore) and not store.place.stays
        self._shards = store.index.shard if isinstance(store, ShardStore) and whole else None

    def few(self, rows: Rows, limit: int) -> Rows:
        """At most `limit` of some rows, evenly spaced; of an object store from few shards."""
        return few_rows(rows, limit, shards=self._shards)

    def batches(self, rows: Rows, *, device: torch.device, batch_size: int = 256) -> CentreViews:
        """The views of some rows, in order; see `CentreViews`."""
        return CentreViews(
            self.store, rows, out=self.out, mean=self.mean, std=self.std, device=device, batch_size=batch_size,
            quarantine=self.quarantine,
        )  # fmt: skip

    def canvases(self, rows: Rows) -> Canvases:
        """Some rows as they are stored, on the CPU."""
        return read_canvases(self.store, rows, device=torch.device("cpu"), quarantine=self.quarantine)

    def views(self, canvases: Canvases, *, device: torch.device, batch_size: int = 256) -> Iterator[Tensor]:
        """The views of what was read, batch by batch, (B, 1, H, W) normalised."""
        for start in range(0, len(canvases.rows), batch_size):
            part = slice(start, start + batch_size)
            images, sizes = canvases.images[part].to(device), canvases.sizes[part].to(device)
            yield centre_view(images, sizes, out=self.out, mean=self.mean, std=self.std)


def few_rows(rows: Rows, limit: int, *, shards: Rows | None = None) -> Rows:
    """At most `limit` rows, evenly spaced, so that the choice does not depend on a random state.

    Args:
        rows: Sorted rows of the manifest.
        limit: How many.
        shards: Shard of each row of the manifest, where each is fetched whole; the rows are then of few shards.
    """
    if len(rows) <= limit:
        return rows
    if shards is not None:
        held = np.unique(shards[rows])
        wanted = max(_FEWEST_SHARDS, math.ceil(limit * len(held) / len(rows)))
        rows = rows[np.isin(shards[rows], _evenly(held, wanted))]
    return _evenly(rows, limit)


def _evenly(values: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    if len(values) <= count:
        return values
    return values[np.linspace(0, len(values) - 1, count).round().astype(np.int64)]
