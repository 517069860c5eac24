"""One data module for all objectives, image sizes and storage locations."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrbase.data.begun_with import BegunWith
from cxrbase.data.canvas import CanvasStore
from cxrbase.data.centre import Canvases, Centre
from cxrbase.data.dataset import ImageStore, OnCorrupt, StreamDataset
from cxrbase.data.decode import Window
from cxrbase.data.images import Phantom, default_cache, fetch_index, is_packed, names_of, open_packed, read_manifest
from cxrbase.data.look_ahead import LookAhead
from cxrbase.data.manifest import SPLITS, Manifest, Target
from cxrbase.data.order import Order
from cxrbase.data.quarantine import Quarantine
from cxrbase.data.reading import Reading
from cxrbase.data.selection import ImageTable, Selection
from cxrbase.data.shard_cache import ShardCache, warn_of_wider
from cxrbase.data.shard_store import ShardStore
from cxrbase.data.stream import StreamLoader, StreamSampler
from cxrbase.data.training_loader import training_loader
from cxrbase.data.views import CPUCrop
from cxrbase.errors import ConfigError
from cxrbase.ranges import check_range
from cxrbase.sizes import Size, longest
from cxrbase.views import RandomViews, Views

logger = logging.getLogger(__name__)


class CXRDataModule(L.LightningDataModule):
    """Radiographs as uint8 canvases on the CPU and as views on the device.

    Args:
        root: Folder of the images; or of packed ones, then also an fsspec URL such as s3://bucket/folder.
        manifest: CSV or Parquet file with one row per image; None takes manifest.parquet or manifest.csv in `root`, and
            without either every image below `root`. Not with packed images.
        phantom: Parameters of the embedded data set, made in `root` where it is missing; None for real images.
        targets: Labels to score frozen features on, by name, where the manifest has no label_<name> columns.
        score_on: Labels to score on, by name; None takes all.
        views: Random views of the training images.
        image_size: Side, or [height, width], of a large view in pixels.
        canvas_size: Longest side that is kept of an image, in pixels; None takes twice that of `image_size`, or what
            99 % of packed images fit.
        batch_size: Images per device and step.
        drop_last: Leave out the last batch of an epoch where it would be smaller.
        num_workers: Worker processes of the training loader; 0 reads in the main process.
        decode_threads: Threads that decode in place of worker processes; 0 for none.
        pretrain_on: Splits whose images are pretrained on; splits that a data set lacks are dealt by patient first.
        select: What pretraining draws of these splits, and how often; None draws everything once per epoch.
        window: How deeper images become 8 bits: `percentile`, or `dicom` for the VOI LUT or window of the file; None
            takes `percentile`, or what images were packed with, where another value is refused.
        crop_borders: Cut off borders that are black throughout; None does not, or takes what images were packed with.
        cache_dir: Where decoded canvases, or shards of an object store, are kept; None takes `.canvas` beside the
            images, or a folder in ~/.cache/cxrbase.
        cache_gb: Above this size canvases are decoded on access; shards of an object store are kept up to it.
        on_corrupt: `skip` names an unreadable image, reads another in its place and goes on; `raise` ends the run.
        max_bad: Largest share of unreadable images that is tolerated.
        mean: Of the images, in [0, 1]; NIH ChestX-ray14's (https://github.com/lambert-x/medical_mae).
        std: Standard deviation, in [0, 1]; from there too.
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
        image_size: Size = 224,
        canvas_size: int | None = None,
        batch_size: int = 256,
        drop_last: bool = True,
        num_workers: int = 0,
        decode_threads: int = 0,
        pretrain_on: tuple[str, ...] = ("train",),
        select: Selection | None = None,
        window: Window | None = None,
        crop_borders: bool | None = None,
        cache_dir: str | None = None,
        cache_gb: float = 8.0,
        on_corrupt: OnCorrupt = "skip",
        max_bad: float = 0.01,
        mean: float = 0.506,
        std: float = 0.252,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_range("[1, inf)", batch_size=batch_size, canvas_size=canvas_size)
        check_range("[0, inf)", num_workers=num_workers, decode_threads=decode_threads, cache_gb=cache_gb)
        check_range("[0, 1]", mean=mean, max_bad=max_bad)
        check_range("(0, 1]", std=std)
        if not pretrain_on or not set(pretrain_on) <= set(SPLITS):
            raise ValueError(f"pretrain_on must name some of {', '.join(SPLITS)}, got {list(pretrain_on)}")
        if num_workers and decode_threads:
            raise ConfigError("data.num_workers and data.decode_threads exclude each other: set one of them to 0")
        self.root, self.manifest_path, self.phantom, self.pretrain_on = root, manifest, phantom, pretrain_on
        self.targets, self.score_on, self.views = targets, score_on, views or RandomViews()
        self.image_size, self.canvas_size, self.batch_size = image_size, canvas_size, batch_size
        self.drop_last, self.num_workers, self.decode_threads = drop_last, num_workers, decode_threads
        self.select, self._asked = select or Selection(), {"window": window, "crop_borders": crop_borders}
        self.reading = Reading(window or Reading.window, bool(crop_borders))
        self.cache_dir = Path(cache_dir) if cache_dir else default_cache(root)
        self.cache_gb, self.on_corrupt, self.max_bad = cache_gb, on_corrupt, max_bad
        self.mean, self.std, self.seed = mean, std, seed
        self._found: Manifest | None = None
        self._loader: StreamLoader | None = None
        self._look_ahead: LookAhead | None = None
        self._resume: dict[str, Any] | None = None
        self._images = ""

    def prepare_data(self) -> None:
        """Makes the phantom where it is missing, and decodes every image once or fetches the index of packed ones."""
        if self.phantom is not None:
            self.phantom.make(Path(self.root))
        if is_packed(self.root):
            fetch_index(self.root, self.cache_dir, self.cache_gb)
        else:
            self._open()

    def setup(self, stage: str) -> None:
        """Reads what is known about the images and opens them."""
        self.manifest, self.store, self._window = self._open(prepared=True)
        self.quarantine = Quarantine(len(self.store), limit=self.max_bad, names=self.store.names)
        skips = self.quarantine if self.on_corrupt == "skip" else None
        self.centre = Centre(self.store, out=self.image_size, mean=self.mean, std=self.std, quarantine=skips)
        if isinstance(self.store, ShardStore) and isinstance(self.store.place, ShardCache):
            self._look_ahead = LookAhead(self.store.place, self.store.index.shard_names)
        splits = self.manifest.splits()
        if blank := int((splits == "").sum()):
            logger.warning("%d of %d images have no split and are left out", blank, len(splits))
        self._split_rows = {s: self.store.rows[splits[self.store.rows] == s] for s in ("train", "val", "test")}
        self._begun_with = BegunWith(self.store, wanted=np.isin(splits, self.pretrain_on))
        if self.score_on is not None and (unknown := set(self.score_on) - set(self.manifest.labels)):
            labels = ", ".join(self.manifest.labels) or "no labels"
            raise ConfigError(f"data.score_on names {', '.join(sorted(unknown))}; the manifest has {labels}")

    def train_dataloader(self) -> StreamLoader:
        """The training stream, at the position of the checkpoint where there is one."""
        self._loader = loader = self._make_loader(self._order())
        # Applied here and not by the Trainer, which drops loader state when the number of steps is asked for early.
        self._restore()
        return loader

    def _order(self) -> Order:
        called = names_of(self.root, self.manifest_path, self.manifest)
        order = Order(
            self.select.parts(self.manifest, self._begun_with.rows, called=called),
            seed=self.seed,
            patients=self.manifest.patient_codes() if self.select.one_per_patient else None,
            shards=self.store.index.shard if isinstance(self.store, ShardStore) else None,
        )
        self._images = self.manifest.images_hash(order.rows)
        return order

    def _make_loader(self, order: Order) -> StreamLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        dataset = StreamDataset(
            self.store,
            seed=self.seed,
            crop=self._cpu_crop(),
            pool=order.rows,
            on_corrupt=self.on_corrupt,
            quarantine=self.quarantine,
        )
        sampler = StreamSampler(
            order,
            batch_size=self.batch_size,
            rank=rank,
            world_size=world,
            drop_last=self.drop_last,
            one_per_patient=self.select.one_per_patient,
            window=self._window,
        )
        return training_loader(
            dataset,
            sampler,
            num_workers=self.num_workers,
            decode_threads=self.decode_threads,
            trainer=self.trainer,
            look_ahead=self._look_ahead,
        )

    def teardown(self, stage: str) -> None:
        """Stops fetching and decoding, and names what was found unreadable last."""
        if self._loader is not None:
            self._loader.close()
            self.quarantine.tell(self._loader.quarantine_file)
        if self._look_ahead is not None:
            self._look_ahead.close()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Views:
        """Makes the views of a training batch on the device."""
        return self._views(*batch, epoch=self.stream.sampler.epoch)

    def state_dict(self) -> dict[str, Any]:
        """Position of the training stream, and what all processes found unreadable; asked of all of them together."""
        if self._loader is None:
            return {}
        self._loader.exchange()
        return {"stream": self._loader.state_dict(), "images": self._images, **self._begun_with.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the position up, or remembers it until the loader is built."""
        self._resume = state_dict or None
        # Strategies that spread weights restore when the number of steps, and so the loader, was asked for already.
        self._restore()

    def _restore(self) -> None:
        if self._resume is None or self._loader is None:
            return
        if self._begun_with.take_up(self._resume, self.quarantine):
            self._loader.draw_from(self._order())
        self._loader.load_state_dict(self._resume["stream"])
        if isinstance(self.store, ShardStore) and isinstance(self.store.place, ShardCache):
            warn_of_wider(self.store.index, self._loader.sampler.plan.window, self.store.place.limit)
        if self._resume["images"] != self._images:
            raise ConfigError(
                "the training images are not those of the checkpoint: use the data of that run, or start "
                "a new run without --ckpt_path"
            )

    @property
    def intensity(self) -> str:
        """What brightness means in the images."""
        return self.store.intensity

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
        return np.asarray(self.manifest.label_matrix()[rows][:, columns])

    def patients(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Patients of some rows, (N,)."""
        return np.asarray(self.manifest.patients()[rows])

    def random_views(self, canvases: Canvases, *, device: torch.device) -> Views:
        """Training views of some images, as the first epoch draws them."""
        parts = (canvases.images, canvases.sizes, torch.from_numpy(canvases.rows))
        return self._views(*(part.to(device) for part in parts), epoch=0)

    def to_grey(self, image: Tensor) -> NDArray[np.float32]:
        """Undoes the normalisation of one image, (1, H, W) -> (H, W) in [0, 1]."""
        grey: NDArray[np.float32] = (image[0].float() * self.std + self.mean).clamp(0, 1).cpu().numpy()
        return grey

    def _views(self, images: Tensor, sizes: Tensor, ids: Tensor, *, epoch: int) -> Views:
        mean, std, out = self.mean, self.std, self.image_size
        return self.views(images, sizes, ids, out=out, mean=mean, std=std, seed=self.seed, epoch=epoch)

    def _open(self, *, prepared: bool = False) -> tuple[ImageTable, ImageStore, int]:
        """What is known about the images, the images, and how many shards may be mixed; 0 for all."""
        if is_packed(self.root):
            if self.manifest_path:
                raise ConfigError(f"data.manifest={self.manifest_path} is for folders: leave it out for packed images")
            if self.targets:
                raise ConfigError("data.targets is for manifests: packed images keep the label_<name> columns they had")
            opened = open_packed(self.root, size=self.canvas_size, cache=self.cache_dir, limit_gb=self.cache_gb)
            opened[0].reading.refuse(self._asked)
            return opened
        if not prepared or self._found is None:
            self._found = read_manifest(Path(self.root), named=self.manifest_path, targets=self.targets)
        store = CanvasStore.open(
            self._found, size=self.canvas_size or 2 * longest(self.image_size), cache_dir=self.cache_dir,
            read=self.reading, max_bad=self.max_bad, limit_gb=self.cache_gb, prepared=prepared,
        )  # fmt: skip
        return self._found, store, 0

    def _cpu_crop(self) -> CPUCrop | None:
        if self.views.crop_on == "device":
            return None
        return CPUCrop(self.image_size, scale=self.views.global_scale, ratio=self.views.ratio)
