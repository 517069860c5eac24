"""Images per CPU-second of the stream against other loaders on the same images, alternating, with children counted.

python benchmarks/loader.py --images 192 --rounds 3
"""

import resource
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import torch
from _record import alternate, save, spread
from jsonargparse import auto_cli

from cxrbase.data.dataset import StreamDataset
from cxrbase.data.manifest import Manifest
from cxrbase.data.order import Order
from cxrbase.data.shard_index import ShardIndex
from cxrbase.data.shard_store import LocalShards, ShardStore
from cxrbase.data.shards import FORMAT_VERSION, INDEX, PACKED_FIELDS, member_name, parquet_bytes, shard_name, write_tar
from cxrbase.data.stream import StreamLoader, StreamSampler
from cxrbase.data.views import CPUCrop
from cxrbase.views import RandomViews

_BATCH = 32
_SCALES = {"mae": [(224, (0.2, 1.0), 1)], "simclr": [(224, (0.08, 1.0), 2)],
           "dino": [(224, (0.25, 1.0), 2), (96, (0.05, 0.25), 8)]}  # fmt: skip


def cpu_seconds() -> float:
    """CPU time of this process and of the children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in used)


def picture(number: int, side: int) -> np.ndarray:
    """Smooth shapes with texture: JPEG q90 of about the size of a radiograph's."""
    rng = np.random.default_rng(number)
    coarse = cv2.resize(
        rng.uniform(40, 220, (9, 8)).astype(np.float32), (side, side * 5 // 4), interpolation=cv2.INTER_CUBIC
    )
    fine = cv2.GaussianBlur(rng.normal(0, 18, coarse.shape).astype(np.float32), (0, 0), 1.2)
    return np.clip(coarse + fine * 2 + rng.normal(0, 2, coarse.shape), 0, 255).astype(np.uint8)


def make(folder: Path, count: int, side: int) -> None:
    """The images as a pack, and as files beside it."""
    (folder / "files" / "x").mkdir(parents=True)
    (folder / "shards").mkdir()
    images = [picture(number, side) for number in range(count)]
    encoded = [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes() for image in images]
    for number, data in enumerate(encoded):
        (folder / "files" / "x" / f"{number:06}.jpg").write_bytes(data)
    tar, placed = write_tar([(member_name("made", row, "jpeg"), data) for row, data in enumerate(encoded)])
    (folder / shard_name("made", 0)).write_bytes(tar)
    table = Manifest.from_columns(
        {"path": [f"made/{n}" for n in range(count)], "split": ["train"] * count}, root="/"
    ).table
    rows = [(shard_name("made", 0), m.offset, m.size, m.crc32, i.shape[1], i.shape[0], "", "")
            for m, i in zip(placed, images, strict=True)]  # fmt: skip
    for field, values in zip(PACKED_FIELDS, zip(*rows, strict=True), strict=True):
        table = table.append_column(field, pa.array(values, field.type))
    metadata = {"version": FORMAT_VERSION, "size": side, "codec": "jpeg", "intensity": "made up"}
    (folder / INDEX).write_bytes(parquet_bytes(table, metadata))


def ours(
    folder: Path, objective: str, *, workers: int = 0, threads: int = 0, verify: bool = True, device: bool = False
) -> Callable[[], None]:
    """The stream: the one crop of MAE on the CPU, canvases otherwise; `device` also makes the views, on the CPU."""
    store = ShardStore(ShardIndex(folder / INDEX), LocalShards(folder), verify=verify)
    crop = CPUCrop(224, scale=(0.2, 1.0), ratio=(0.75, 4 / 3)) if objective == "mae" else None
    size, scale, number = _SCALES[objective][0]
    views = RandomViews(num_global=number, num_local=8 if objective == "dino" else 0, global_scale=scale)

    def run() -> None:
        loader = StreamLoader(StreamDataset(store, crop=crop), batch_size=_BATCH, num_workers=workers, drop_last=True,
                              sampler=StreamSampler(Order(store.rows, seed=0), batch_size=_BATCH))  # fmt: skip
        loader.decode_threads = threads
        for images, sizes, ids in loader:
            if device:
                views(images, sizes, ids, out=size, mean=0.5, std=0.25, seed=0, epoch=0)

    return run


def decode_only(folder: Path) -> Callable[[], None]:
    """The same bytes decoded one after the other, and nothing else."""
    store = ShardStore(ShardIndex(folder / INDEX), LocalShards(folder))
    encoded = [np.frombuffer(store.encoded(row), np.uint8) for row in store.rows]

    def run() -> None:
        for data in encoded:
            cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)

    return run


class Files(torch.utils.data.Dataset):
    """Files with a transform on the CPU."""

    def __init__(self, folder: Path, read: Callable, transforms: list[Callable]) -> None:
        self.paths, self.read, self.transforms = sorted((folder / "files" / "x").iterdir()), read, transforms

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> list:
        image = self.read(str(self.paths[row]))
        return [transform(image) for transform in self.transforms]


def through(dataset: torch.utils.data.Dataset, workers: int = 0) -> Callable[[], None]:
    def run() -> None:
        for _ in torch.utils.data.DataLoader(
            dataset, batch_size=_BATCH, shuffle=True, num_workers=workers, drop_last=True
        ):
            pass

    return run


def albumentations_area(folder: Path, objective: str) -> Callable[[], None]:
    """Area-averaged crops and normalisation to float32 on the CPU; blur and jitter too where the objective has them."""
    import albumentations as A

    transforms = []
    for size, scale, count in _SCALES[objective]:
        steps = [A.RandomResizedCrop((size, size), scale=scale, interpolation=cv2.INTER_AREA), A.HorizontalFlip()]
        if objective != "mae":
            steps += [A.RandomBrightnessContrast(0.4, 0.4, p=0.8), A.GaussianBlur((0, 0), (0.1, 2.0), p=0.5)]
        chain = A.Compose([*steps, A.Normalize(0.5, 0.25, max_pixel_value=255.0), A.ToTensorV2()])
        transforms += [lambda image, chain=chain: chain(image=image)["image"]] * count
    return through(Files(folder, lambda path: cv2.imread(path, cv2.IMREAD_GRAYSCALE)[..., None], transforms))


def torchvision_v2(folder: Path, objective: str) -> Callable[[], None]:
    """The reference recipe: Pillow, then torchvision's transforms on three channels."""
    from PIL import Image
    from torchvision.transforms import v2

    transforms = []
    for size, scale, count in _SCALES[objective]:
        steps = [v2.RandomResizedCrop(size, scale=scale, antialias=True, interpolation=v2.InterpolationMode.BICUBIC),
                 v2.RandomHorizontalFlip()]  # fmt: skip
        if objective != "mae":
            steps += [v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8), v2.RandomGrayscale(0.2),
                      v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], 0.5)]  # fmt: skip
        steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
        transforms += [v2.Compose(steps)] * count
    return through(Files(folder, lambda path: Image.open(path).convert("RGB"), transforms))


def webdataset_mae(folder: Path) -> Callable[[], None]:
    import webdataset

    crop = CPUCrop(224, scale=(0.2, 1.0), ratio=(0.75, 4 / 3))

    def decode(sample: dict) -> torch.Tensor:
        image = cv2.imdecode(np.frombuffer(sample["jpg"], np.uint8), cv2.IMREAD_GRAYSCALE)
        return torch.from_numpy(crop(image, (0, 0, hash(sample["__key__"]) & 0xFFFF)))

    def run() -> None:
        shard = str(folder / shard_name("made", 0))
        data = webdataset.WebDataset(shard, shardshuffle=False).shuffle(64).map(decode).batched(_BATCH)
        for _ in webdataset.WebLoader(data, batch_size=None, num_workers=0):
            pass

    return run


def loader(images: int = 192, side: int = 512, rounds: int = 3, out: str = "") -> None:
    """Measures all of them.

    Args:
        images: Images of a pass.
        side: Short side of the stored images in pixels.
        rounds: Rounds that count.
        out: JSON to write; "" takes benchmarks/results/loader_<side>.json.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder_:
        folder = Path(folder_)
        make(folder, images, side)
        jobs = {"decode_only": decode_only(folder), "canvas_in_process": ours(folder, "dino"),
                "canvas_2_threads": ours(folder, "dino", threads=2),
                "canvas_2_workers": ours(folder, "dino", workers=2),
                "mae_crop_no_checksum": ours(folder, "mae", verify=False), "mae_webdataset": webdataset_mae(folder),
                "mae": ours(folder, "mae"), "dino_views_on_this_cpu": ours(folder, "dino", device=True)}  # fmt: skip
        for objective in _SCALES:
            jobs[f"{objective}_albumentations_area"] = albumentations_area(folder, objective)
            jobs[f"{objective}_torchvision_v2"] = torchvision_v2(folder, objective)
        times = alternate(jobs, rounds=rounds, warm_up=1, clock=cpu_seconds)
    rates = {name: spread(images / value for value in values) for name, values in times.items()}

    def ratio(mine: str, theirs: str) -> dict:
        return spread(b / a for a, b in zip(times[mine], times[theirs], strict=True))

    ratios = {
        "mae over albumentations (goal 1.4)": ratio("mae", "mae_albumentations_area"),
        "simclr over albumentations (goal 1.8)": ratio("canvas_2_threads", "simclr_albumentations_area"),
        "dino over albumentations (goal 4)": ratio("canvas_2_threads", "dino_albumentations_area"),
        "dino over torchvision (goal 15)": ratio("canvas_2_threads", "dino_torchvision_v2"),
        "mae over webdataset (goal 1.2)": ratio("mae", "mae_webdataset"),
        "threads over workers": ratio("canvas_2_threads", "canvas_2_workers"),
        "canvas in process over decode only (goal 0.85)": ratio("canvas_in_process", "decode_only"),
        "canvas by threads over decode only (goal 0.85)": ratio("canvas_2_threads", "decode_only"),
        "mae over mae without checksum (goal 0.95)": ratio("mae", "mae_crop_no_checksum"),
    }
    found = {"side": side, "images": images, "unit": "images per CPU-second", "rates": rates, "ratios": ratios}
    packages = ("torch", "torchvision", "albumentations", "opencv-python-headless", "webdataset", "numpy")
    print(save(f"loader_{side}", found, packages=packages, out=out).read_text())
    print({name: round(statistics.median([value["median"]]), 3) for name, value in ratios.items()})


if __name__ == "__main__":
    auto_cli(loader, as_positional=False)
