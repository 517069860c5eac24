"""What loader.py compares the stream with: other transforms in the same loader, and other loaders of the same crop."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cxrbase.data.shard_store import ShardStore
from cxrbase.data.views import CPUCrop

BATCH = 32
# Size, share of the area, and how many of each crop.
CROPS = {"mae": [(224, (0.2, 1.0), 1)], "simclr": [(224, (0.08, 1.0), 2)],
         "dino": [(224, (0.25, 1.0), 2), (96, (0.05, 0.25), 8)]}  # fmt: skip
CROP = CPUCrop(224, scale=(0.2, 1.0), ratio=(0.75, 4 / 3))
Run = Callable[[], Any]


class Mapped(Dataset):
    """Images by number through transforms on the CPU."""

    def __init__(self, count: int, read: Callable[[int], Any], transforms: list[Callable]) -> None:
        self.count, self.read, self.transforms = count, read, transforms

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> list:
        image = self.read(row)
        return [transform(image) for transform in self.transforms]


def passes(loader: Any) -> Run:
    """One pass over a loader."""

    def run() -> None:
        for _ in loader:
            pass

    return run


def through(dataset: Dataset, workers: int = 0) -> Run:
    """One pass over a data set, shuffled; its workers stay for the next."""
    return passes(DataLoader(dataset, batch_size=min(BATCH, len(dataset)), shuffle=True, num_workers=workers,
                             drop_last=True, persistent_workers=workers > 0))  # fmt: skip


def albumentations_area(store: ShardStore, objective: str, count: int, workers: int = 0) -> Run:
    """The same packed images; area-averaged crops, blur and jitter where the objective has them, float32."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations as A

    transforms: list[Callable] = []
    for size, scale, number in CROPS[objective]:
        steps = [A.RandomResizedCrop((size, size), scale=scale, interpolation=cv2.INTER_AREA), A.HorizontalFlip()]
        if objective != "mae":
            steps += [A.RandomBrightnessContrast(0.4, 0.4, p=0.8), A.GaussianBlur((0, 0), (0.1, 2.0), p=0.5)]
        chain = A.Compose([*steps, A.Normalize(0.5, 0.25, max_pixel_value=255.0), A.ToTensorV2()])
        transforms += [lambda image, chain=chain: chain(image=image)["image"]] * number
    return through(Mapped(count, lambda row: store.image(row)[..., None], transforms), workers)


def torchvision_v2(folder: Path, objective: str, count: int, *, pillow_blur: bool = False) -> Run:
    """The reference recipes: an image folder read by Pillow, then torchvision's transforms on three channels.

    `pillow_blur` blurs as DINO's own repository does, which is many times faster than torchvision's blur.
    """
    from PIL import Image

    paths = sorted((folder / "files" / "x").iterdir())
    transforms = [chain for kind, (size, scale, number) in enumerate(CROPS[objective]) for place in range(number)
                  for chain in [_reference(objective, size, scale, kind + place, pillow_blur)]]  # fmt: skip
    return through(Mapped(count, lambda row: Image.open(paths[row]).convert("RGB"), transforms))


def _reference(objective: str, size: int, scale: tuple[float, float], place: int, pillow_blur: bool) -> Callable:
    """MAE's main_pretrain.py, SimCLR's paper, or DINO's DataAugmentationDINO; `place` 0 and 1 are its large crops."""
    from PIL import ImageFilter
    from torchvision.transforms import v2

    def by_pillow(image: Any) -> Any:
        return image.filter(ImageFilter.GaussianBlur(radius=float(np.random.uniform(0.1, 2.0))))

    steps: list = [v2.RandomResizedCrop(size, scale=scale, antialias=True, interpolation=v2.InterpolationMode.BICUBIC),
                   v2.RandomHorizontalFlip()]  # fmt: skip
    if objective != "mae":
        blur = by_pillow if pillow_blur else v2.GaussianBlur(23 if size == 224 else 9, (0.1, 2.0))
        often = {"simclr": (0.5, 0.5), "dino": (1.0, 0.1)}[objective][place] if size == 224 else 0.5
        steps += [v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8), v2.RandomGrayscale(0.2),
                  v2.RandomApply([v2.Lambda(blur) if pillow_blur else blur], often)]  # fmt: skip
        steps += [v2.RandomSolarize(128, 0.2)] if objective == "dino" and size == 224 and place == 1 else []
    return v2.Compose(
        [*steps, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
    )


def png16(paths: list[Path], read: str) -> Run:
    """The one crop of MAE from original 16-bit PNG files."""

    def by_simpleitk(path: str) -> np.ndarray:
        import SimpleITK as sitk

        return sitk.GetArrayFromImage(sitk.ReadImage(path))

    reader = {"simpleitk": by_simpleitk, "opencv": lambda path: cv2.imread(path, cv2.IMREAD_UNCHANGED)}[read]

    def crop(row: int) -> torch.Tensor:
        image = reader(str(paths[row]))
        top, left, height, width = CROP.box(image.shape, (0, 0, row))
        part = cv2.resize(image[top : top + height, left : left + width], (224, 224), interpolation=cv2.INTER_AREA)
        return torch.from_numpy((part >> 4).astype(np.uint8))[None]

    return through(Mapped(len(paths), crop, [lambda view: view]))


def mae_crop(data: bytes, row: int) -> torch.Tensor:
    """The decoder and the crop of the stream, for all other loaders."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    return torch.from_numpy(CROP(image, (0, 0, row)))[None]


def webdataset_mae(folder: Path, count: int, workers: int = 0) -> Run:
    import webdataset

    def decode(sample: dict) -> torch.Tensor:
        return mae_crop(sample["jpg"], int(sample["__key__"].rsplit("-", 1)[1]))

    shards = sorted(str(path) for path in (folder / "shards").iterdir())
    data = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(64).map(decode).batched(BATCH)
    return passes(webdataset.WebLoader(data, batch_size=None, num_workers=workers, persistent_workers=workers > 0))


def litdata_mae(folder: Path, count: int, workers: int = 0) -> Run:
    import litdata

    data = litdata.StreamingDataset(
        str(folder / "litdata"), cache_dir=str(folder / f"litdata_cache_{workers}"), shuffle=True, drop_last=True,
        transform=lambda sample: mae_crop(sample["jpg"], sample["key"]),
    )  # fmt: skip
    kept = {"persistent_workers": True} if workers else {}
    return passes(litdata.StreamingDataLoader(data, batch_size=BATCH, num_workers=workers, **kept))


def mosaic_mae(folder: Path, count: int) -> Run:
    import streaming

    class Crops(streaming.StreamingDataset):
        def __getitem__(self, row: int) -> torch.Tensor:
            sample = super().__getitem__(row)
            return mae_crop(sample["jpg"], sample["key"])

    # It reads its own folder unless a remote is named; a fresh name keeps apart what it leaves in shared memory.
    os.symlink(folder / "mosaic", folder / (name := f"mosaic_{uuid.uuid4().hex[:8]}"))
    data = Crops(local=str(folder / name), shuffle=True, batch_size=BATCH)
    return passes(streaming.StreamingDataLoader(data, batch_size=BATCH, num_workers=0, drop_last=True))
