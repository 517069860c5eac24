"""One data module for all objectives, sizes and places."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrbase.clock import StepClock
from cxrbase.data.canvas import CanvasStore
from cxrbase.data.manifest import Manifest, Target
from cxrbase.data.stream import Item, StreamDataset, StreamLoader, StreamSampler
from cxrbase.data.views import CPUCrop
from cxrbase.errors import ConfigError, ManifestError
from cxrbase.views import RandomViews, Views, centre_view

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phantom:
    """The embedded data set, made where it is missing.

    Args:
        patients: Number of patients; each has one to four images.
        image_size: Side of the images in pixels.
        seed: Seed of the patients.
    """

    patients: int = 1200
    image_size: int = 128
    seed: int = 0


class CXRDataModule(L.LightningDataModule):
    """Radiographs from a folder, as uint8 canvases on the CPU and as views on the device.

    Args:
        root: Folder of the images.
        manifest: CSV or Parquet file with one row per image; None takes manifest.parquet or manifest.csv in `root`, and
            without either every image below `root`.
        phantom: Parameters of the embedded data set, made in `root` where it is missing; None for real images.
        targets: Labels to score frozen features on, by name, where the manifest has no label_<name> columns.
        score_on: Labels to score on, by name; None takes all.
        views: Random views of the training images.
        image_size: Side of a large view in pixels.
        canvas_size: Longest side that is kept of an image, in pixels; None takes twice `image_size`.
        batch_size: Images per device and step.
        num_workers: Worker processes of the training loader; 0 reads in the main process.
        pretrain_on: Splits whose images are pretrained on; an unlabelled folder is split by patient first.
        cache_dir: Where decoded canvases are kept; None takes `.canvas` beside the images.
        cache_gb: Above this size canvases are decoded on access instead of being kept.
        max_bad: Largest share of unreadable images that is tolerated.
        mean: Mean of the images, in [0, 1]; 0.506 is NIH ChestX-ray14's (https://github.com/lambert-x/medical_mae).
        std: Standard deviation of the images, in [0, 1]; 0.252 is NIH ChestX-ray14's.
        seed: Seed of order and views.
    """

    def __init__(
        self,
        root: str,
        manifest: str | None = None,
        phantom: Phantom | None = None,
        targets: dict[str, Target] | None = None,
        score_on: list[str] | None = None,
        views: RandomViews | None = None,
        image_size: int = 224,
        canvas_size: int | None = None,
        batch_size: int = 256,
        num_workers: int = 0,
        pretrain_on: tuple[str, ...] = ("train",),
        cache_dir: str | None = None,
        cache_gb: float = 8.0,
        max_bad: float = 0.01,
        mean: float = 0.506,
        std: float = 0.252,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {num_workers}")
        self.root, self.manifest_path, self.phantom = Path(root), manifest, phantom
        self.targets, self.score_on, self.views = targets, score_on, views or RandomViews()
        self.image_size, self.canvas_size = image_size, canvas_size or 2 * image_size
        self.batch_size, self.num_workers, self.pretrain_on = batch_size, num_workers, pretrain_on
        self.cache_dir = Path(cache_dir) if cache_dir else self.root / ".canvas"
        self.cache_gb, self.max_bad, self.mean, self.std, self.seed = cache_gb, max_bad, mean, std, seed
        self.clock = StepClock()
        self._loader: StreamLoader | None = None
        self._resume: dict[str, int] | None = None
        self._resume_images: str | None = None
        self._images = ""

    def prepare_data(self) -> None:
        """Makes the phantom where it is missing and decodes every image once."""
        if self.phantom is not None:
            from cxrbase.data.phantom import make_phantom

            spec = self.phantom
            make_phantom(self.root, patients=spec.patients, image_size=spec.image_size, seed=spec.seed)
        self._open(self._read())

    def setup(self, stage: str) -> None:
        """Reads the manifest and maps the canvases."""
        self.manifest = self._read()
        self.store = self._open(self.manifest)
        splits = self.manifest.column("split")
        self._split_rows = {s: self.store.rows[splits[self.store.rows] == s] for s in ("train", "val", "test")}
        if self.score_on is not None and (unknown := set(self.score_on) - set(self.manifest.labels)):
            labels = ", ".join(self.manifest.labels) or "no labels"
            raise ConfigError(f"data.score_on names {', '.join(sorted(unknown))}; the manifest has {labels}")

    def train_dataloader(self) -> StreamLoader:
        """The training stream, at the position of the checkpoint where there is one."""
        rows = np.sort(np.concatenate([self._split_rows[split] for split in self.pretrain_on]))
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = StreamSampler(rows, batch_size=self.batch_size, seed=self.seed, rank=rank, world_size=world)
        loader = StreamLoader(
            StreamDataset(self.store, seed=self.seed, crop=self._cpu_crop()),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            drop_last=True,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )
        # Applied here and not by the Trainer, which drops loader state when the number of steps is asked for early.
        paths = self.manifest.column("path")[rows]
        self._images = hashlib.sha256("\n".join(paths).encode()).hexdigest()
        if self._resume is not None:
            loader.load_state_dict(self._resume)
            if self._resume_images != self._images:
                raise ConfigError(
                    "the training images are not those of the checkpoint: use the data of that run, or start "
                    "a new run without --ckpt_path"
                )
        self._loader = loader
        return loader

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Only tells the clock."""
        self.clock.mark("between")
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Views:
        """Makes the views of a training batch on the device."""
        self.clock.mark("copy")
        images, sizes, ids = batch
        epoch = self.stream.sampler.epoch
        views = self.views(
            images, sizes, ids, out=self.image_size, mean=self.mean, std=self.std, seed=self.seed, epoch=epoch
        )
        self.clock.mark("views")
        return views

    def state_dict(self) -> dict[str, Any]:
        """Position of the training stream."""
        return {"stream": self._loader.state_dict(), "images": self._images} if self._loader is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remembers the position until the loader is built."""
        self._resume, self._resume_images = state_dict.get("stream"), state_dict.get("images")

    @property
    def stream(self) -> StreamLoader:
        """The loader of the run under way."""
        assert self._loader is not None
        return self._loader

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels that frozen features are scored on."""
        return tuple(self.score_on) if self.score_on is not None else self.manifest.labels

    def labelled_rows(self, split: str) -> NDArray[np.int64]:
        """Manifest rows of a split with at least one known label among `classes`."""
        rows = self._split_rows[split]
        known: NDArray[np.int64] = rows[~np.isnan(self.labels(rows)).all(1)] if self.classes else rows[:0]
        return known

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Labels of some rows, (N, number of classes), NaN where unknown."""
        columns = [self.manifest.labels.index(name) for name in self.classes]
        labels: NDArray[np.float32] = self.manifest.label_matrix()[rows][:, columns]
        return labels

    def patients(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Patients of some rows, (N,)."""
        patients: NDArray[Any] = self.manifest.patients()[rows]
        return patients

    def eval_batches(self, rows: NDArray[np.int64], *, device: torch.device, batch_size: int = 256) -> Iterator[Tensor]:
        """The evaluation view of some rows, (B, 1, image_size, image_size) normalised, in order."""
        for start in range(0, len(rows), batch_size):
            images, sizes = self._read_rows(rows[start : start + batch_size], device)
            yield centre_view(images, sizes, out=self.image_size, mean=self.mean, std=self.std)

    def random_views(self, rows: NDArray[np.int64], *, device: torch.device) -> Views:
        """Training views of some rows, as the first epoch draws them."""
        images, sizes = self._read_rows(rows, device)
        ids = torch.tensor(rows, device=device)
        return self.views(
            images, sizes, ids, out=self.image_size, mean=self.mean, std=self.std, seed=self.seed, epoch=0
        )

    def to_grey(self, image: Tensor) -> NDArray[np.float32]:
        """Undoes the normalisation of one image, (1, H, W) -> (H, W) in [0, 1]."""
        grey: NDArray[np.float32] = (image[0].float() * self.std + self.mean).clamp(0, 1).cpu().numpy()
        return grey

    def _read(self) -> Manifest:
        if not self.root.is_dir():
            raise ManifestError(
                f"no folder {self.root}: give the folder of your images with --data.root=/path/to/images"
            )
        named = [Path(self.manifest_path)] if self.manifest_path else []
        found = named or [p for p in (self.root / "manifest.parquet", self.root / "manifest.csv") if p.is_file()]
        if found:
            manifest = Manifest.read(found[0], root=self.root, targets=self.targets)
            manifest.check_files()
        else:
            manifest = Manifest.from_folder(self.root)
        blank = int((manifest.column("split") == "").sum())
        if blank == len(manifest):
            return manifest.with_splits()
        if blank:
            logger.warning("%d of %d images have no split and are left out", blank, len(manifest))
        return manifest

    def _read_rows(self, rows: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        items: list[Item] = [StreamDataset(self.store)[int(row)] for row in rows]
        images, sizes = torch.stack([item[0] for item in items]), torch.stack([item[1] for item in items])
        return images.to(device), sizes.to(device)

    def _open(self, manifest: Manifest) -> CanvasStore:
        return CanvasStore.open(
            manifest, size=self.canvas_size, cache_dir=self.cache_dir, max_bad=self.max_bad, limit_gb=self.cache_gb
        )

    def _cpu_crop(self) -> CPUCrop | None:
        if self.views.crop_on == "device":
            return None
        return CPUCrop(self.image_size, scale=self.views.global_scale, ratio=self.views.ratio)
