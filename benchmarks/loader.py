"""Images per CPU-second of the stream against other loaders on the same images, alternating, with children counted.

    OMP_NUM_THREADS=1 python benchmarks/loader.py

For MAE the CPU decodes and makes the one crop. For SimCLR and DINO it decodes only, because the crops are made in batch
on the device: those rates count the decoding, and what the views cost where the device is this CPU stands beside them.
The other sides make their views on the CPU in both cases. Times are those of the processor, workers included, so that
other programs on the machine disturb little; only two workers against one need a quiet machine, and stay undefined
without one.
"""

import os
import resource
import tempfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from _loader_cores import _EXPERIMENTS, PEAK, SHARE, cores
from _loader_goals import goals, where
from _loader_images import write_all, write_litdata, write_mosaic, write_originals
from _loader_peers import (
    BATCH,
    CROP,
    CROPS,
    Run,
    albumentations_area,
    litdata_mae,
    mosaic_mae,
    png16,
    torchvision_v2,
    webdataset_mae,
)
from _record import alternate, save, spread, table
from jsonargparse import auto_cli

from cxrbase.data.dataset import StreamDataset
from cxrbase.data.order import Order
from cxrbase.data.shard_index import ShardIndex
from cxrbase.data.shard_store import LocalShards, ShardStore
from cxrbase.data.shards import INDEX
from cxrbase.data.stream import StreamLoader, StreamSampler
from cxrbase.views import RandomViews

QUIET = 1.5  # load average below which wall time means something
_FEW = 8  # images a pass where one takes tens of milliseconds
_SOME = 64

Jobs = dict[str, tuple[Run, int]]


def cpu_seconds() -> float:
    """CPU time of this process, of the children that ended, and of those that live."""
    live = [line for child in active_children() for line in Path(f"/proc/{child.pid}/task").glob("*/schedstat")]
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in used) + sum(
        int(line.read_text().split()[0]) / 1e9 for line in live
    )


def ours(store: ShardStore, objective: str, *, workers: int = 0, threads: int = 0) -> Run:
    """The stream: the one crop of MAE on the CPU, canvases otherwise; workers stay from pass to pass."""
    sampler = StreamSampler(Order(store.rows, seed=0), batch_size=BATCH)
    loader = StreamLoader(StreamDataset(store, crop=CROP if objective == "mae" else None), batch_size=BATCH,
                          num_workers=workers, drop_last=True, sampler=sampler,
                          persistent_workers=workers > 0)  # fmt: skip
    loader.decode_threads = threads

    def run() -> None:
        sampler.set_epoch(sampler.epoch + 1)
        for _ in loader:
            pass

    return run


def device_views(store: ShardStore, objective: str) -> Run:
    """What the device does with a batch in the experiments of an objective, on this CPU."""
    asked = yaml.safe_load((_EXPERIMENTS / "objective" / f"{objective}.yaml").read_text())
    views = RandomViews(**asked["data"]["views"]["init_args"], crop_on="cpu" if objective == "mae" else "device")
    data = StreamDataset(store, crop=CROP if objective == "mae" else None)
    images, sizes, ids = torch.utils.data.default_collate([data[row] for row in range(_FEW)])
    return lambda: views(images, sizes, ids, out=224, mean=0.5, std=0.25, seed=0, epoch=0)


def each(function: Callable[[bytes], Any], images: list[bytes]) -> Run:
    def run() -> None:
        for data in images:
            function(data)

    return run


def our_jobs(folder: Path, images: list[bytes]) -> Jobs:
    """The stream in its forms, and the parts of it."""
    store = ShardStore(ShardIndex(folder / INDEX), LocalShards(folder))
    bare = ShardStore(ShardIndex(folder / INDEX), LocalShards(folder), verify=False)
    arrays = [np.frombuffer(data, np.uint8) for data in images]
    jobs: Jobs = {"decode_only": (each(lambda data: cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), arrays), len(images)),
                  "checksum_only": (each(zlib.crc32, images), len(images))}  # fmt: skip
    for kind, objective in (("crop", "mae"), ("canvas", "dino")):
        for form, options in {"": {}, "_2_workers": {"workers": 2}, "_2_threads": {"threads": 2}}.items():
            jobs[f"{kind}{form}"] = ours(store, objective, **options), len(images)
        jobs[f"{kind}_no_checksum"] = ours(bare, objective), len(images)
    for objective in CROPS:
        jobs[f"{objective}_views_on_this_cpu"] = device_views(store, objective), _FEW
    return jobs


def transform_jobs(folder: Path) -> Jobs:
    """The same images with the views of each objective made on the CPU."""
    store = ShardStore(ShardIndex(folder / INDEX), LocalShards(folder))
    jobs: Jobs = {}
    for objective in CROPS:
        jobs[f"{objective}_albumentations"] = albumentations_area(store, objective, _SOME), _SOME
        jobs[f"{objective}_torchvision"] = torchvision_v2(folder, objective, 2 * _FEW), 2 * _FEW
    jobs["dino_torchvision_pillow_blur"] = torchvision_v2(folder, "dino", 2 * _FEW, pillow_blur=True), 2 * _FEW
    return jobs


def loader_jobs(folder: Path, images: list[bytes]) -> tuple[Jobs, dict[str, str]]:
    """Other loaders with the decoder and the crop of ours, and why some do not run."""
    count, jobs, missing = len(images), {}, {}
    makers: dict[str, Callable[[], Run]] = {
        f"{name}{form}": partial(make, folder, count, **options)
        for name, make in (("webdataset", webdataset_mae), ("litdata", litdata_mae))
        for form, options in {"": {}, "_2_workers": {"workers": 2}}.items()
    }
    writers = {"litdata": write_litdata, "mosaic": write_mosaic}
    for name, make in (makers | {"mosaic": partial(mosaic_mae, folder, count)}).items():
        try:
            if name in writers:
                writers[name](folder, images)
            jobs[name] = make(), count
            jobs[name][0]()
        except (ImportError, RuntimeError, OSError, ValueError) as error:
            jobs.pop(name, None)
            missing[name] = f"{type(error).__name__}: {str(error).splitlines()[-1][:200]}"
    missing["mosaic_2_workers"] = "its lock does not outlive a fork with the filelock that is installed"
    return jobs, missing


def wall_ratio(store: ShardStore, count: int) -> dict[str, float] | None:
    """How many times faster two workers are than one, in wall time; None on a busy machine."""
    if os.getloadavg()[0] > QUIET:
        return None
    jobs = {"one": ours(store, "mae", workers=1), "two": ours(store, "mae", workers=2)}
    times = alternate(jobs, rounds=5, clock=time.perf_counter)
    return spread(one / two for one, two in zip(times["one"], times["two"], strict=True))


def measure(folder: Path, originals: list[Path], count: int, side: int, rounds: int) -> dict[str, Any]:
    """Everything at one stored size."""
    images = write_all(folder, originals, count, side)
    wall = wall_ratio(ShardStore(ShardIndex(folder / INDEX), LocalShards(folder)), count)
    others, missing = loader_jobs(folder, images)
    jobs = our_jobs(folder, images) | transform_jobs(folder) | others
    jobs |= {f"png16_{read}": (png16(originals[:_FEW], read), _FEW) for read in ("simpleitk", "opencv")}
    runs = {name: run for name, (run, _) in jobs.items()}
    seconds = alternate(runs, rounds=rounds, clock=cpu_seconds, show=lambda line: print(side, line[:120], flush=True))
    times = {name: [value / (jobs[name][1] // BATCH * BATCH or jobs[name][1]) for value in values]
             for name, values in seconds.items()}  # fmt: skip
    times |= {name: [value / jobs[name][1] for value in seconds[name]] for name in ("decode_only", "checksum_only")}
    rates = {name: spread(1 / value for value in values) for name, values in times.items()}
    return {"bytes_of_an_image": float(np.mean([len(data) for data in images])), "rates": rates, "not_run": missing,
            "goals": goals(side, times, wall), "where": where(side, rates)}  # fmt: skip


def loader(
    images: int = 192, distinct: int = 12, sides: list[int] = [512, 256], rounds: int = 5, out: str = ""  # noqa: B006
) -> None:  # fmt: skip
    """Measures all of them and writes JSON.

    Args:
        images: Images of a pass, a multiple of 32; the slowest sides take fewer.
        distinct: Images among them that differ.
        sides: Short sides of the stored images in pixels; cores are counted for the first.
        rounds: Rounds that count.
        out: JSON to write; "" takes benchmarks/results/loader_cpu.json.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        originals = write_originals(Path(folder) / "originals", distinct)
        found = {side: measure(Path(folder) / str(side), originals, images, side, rounds) for side in sides}
    rates = {name: value["median"] for name, value in found[sides[0]]["rates"].items()}
    by_objective = {
        objective: {"ours": rates["crop" if objective == "mae" else "canvas"],
                    "albumentations": rates[f"{objective}_albumentations"]} for objective in CROPS}  # fmt: skip
    reached = f"{SHARE:.0%} of {PEAK / 1e12:.0f} TFLOP/s"
    assumed = f"CPU cores that one H100 needs at {sides[0]} pixels, assumed to reach {reached}"
    tables = {
        "Goal and measured: how many times the other's images per CPU-second":
            [row for part in found.values() for row in part.pop("goals")],
        "Images per CPU-second": [row for part in found.values() for row in part.pop("where")],
        assumed: cores(by_objective),
    }  # fmt: skip
    measured = {"images": images, "rounds": rounds, "unit": "images per CPU-second", "tables": tables,
                "sides": {str(side): part for side, part in found.items()}}  # fmt: skip
    packages = ("torch", "torchvision", "albumentations", "opencv-python-headless", "pillow", "webdataset", "litdata",
                "mosaicml-streaming", "simpleitk", "numpy")  # fmt: skip
    path = save("loader_cpu", measured, packages=packages, out=out)
    print(*(f"{title}\n{table(rows)}" for title, rows in tables.items()), path, sep="\n\n")


if __name__ == "__main__":
    auto_cli(loader, as_positional=False)
