"""Labelled images: keyed views on the CPU to learn from, centre views to choose and to judge by."""

from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrbase.data.augment import Augment, AugmentedCrop
from cxrbase.data.centre import CentreViews
from cxrbase.data.dataset import ImageStore, StreamDataset
from cxrbase.data.order import Order
from cxrbase.data.stream import StreamLoader, StreamSampler
from cxrbase.sizes import Size, height_width

Rows = NDArray[np.int64]
Batch = tuple[Tensor, Tensor]


class LabelledImages(L.LightningDataModule):
    """Images with targets: random views of some rows to learn from, centre views of others to choose by.

    Args:
        store: The images.
        targets: (N, K) for the rows of the store, in [0, 1], NaN unknown.
        train: Rows to learn from.
        val: Rows to choose by.
        image_size: Side, or height and width, of a view in pixels.
        mean: Subtracted after scaling to [0, 1].
        std: Divided by afterwards.
        batch_size: Images per step and process; fewer where `train` is smaller.
        num_workers: Worker processes of the training loader; 0 reads in the main process.
        augment: How training images are varied.
        seed: Seed of order and variation.
    """

    def __init__(
        self,
        store: ImageStore,
        targets: NDArray[np.float32],
        *,
        train: Rows,
        val: Rows,
        image_size: Size,
        mean: float,
        std: float,
        batch_size: int = 16,
        num_workers: int = 0,
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.store, self.targets, self.train_rows, self.val_rows = store, torch.from_numpy(targets), train, val
        self.image_size, self.mean, self.std = image_size, mean, std
        self.batch_size, self.num_workers = batch_size, num_workers
        self.augment, self.seed = augment or Augment(), seed

    @property
    def _processes(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def step_size(self) -> int:
        """Images that each process takes in a step."""
        return min(self.batch_size, max(len(self.train_rows) // self._processes, 1))

    def train_dataloader(self) -> StreamLoader:
        """Shuffled by (seed, epoch), varied by (seed, epoch, row); the incomplete last batch is dropped."""
        crop = AugmentedCrop(self.image_size, self.augment)
        return StreamLoader(
            StreamDataset(self.store, seed=self.seed, crop=crop),
            batch_size=self.step_size,
            sampler=StreamSampler(
                Order(self.train_rows, seed=self.seed),
                batch_size=self.step_size,
                rank=self.trainer.global_rank if self.trainer else 0,
                world_size=self._processes,
            ),
            num_workers=self.num_workers,
            drop_last=True,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Batch:
        """Normalised images (B, 1, H, W) of `image_size` and their targets (B, K), on the device."""
        images, _, rows = batch
        height, width = height_width(self.image_size)
        # The loader hands out squares, which a crop that is none leaves black beside it.
        scaled = (images[..., :height, :width].to(torch.float32) / 255 - self.mean) / self.std
        return scaled, self.targets[rows.cpu()].to(images.device)

    def centre_batches(self, rows: Rows, *, device: torch.device, batch_size: int = 64) -> CentreViews:
        """The centre view of some rows, (B, 1, H, W) normalised, in order."""
        return CentreViews(
            self.store, rows, out=self.image_size, mean=self.mean, std=self.std, device=device, batch_size=batch_size
        )
