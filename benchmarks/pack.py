"""How long packing takes for each format of originals, and what a second process brings.

OMP_NUM_THREADS=1 python benchmarks/pack.py
"""

import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from _record import alternate, save
from jsonargparse import auto_cli

from cxrbase.data.pack import pack
from cxrbase.data.pack_image import ImageOptions, pack_image

IMAGES, CORES = 1_040_000, 16
TITLE = f"One image on one core, and hours for {IMAGES:,} images on {CORES} cores"


def benchmark(rounds: int = 5, height: int = 2500, width: int = 2000, images: int = 400, out: str = "") -> None:
    """Packs originals of every format on one core in alternating rounds, then a folder with one and two processes.

    Args:
        rounds: Each packs one image of every format; seconds are those of the processor, which other work on the
            machine changes less than those of the clock.
        height: Of the originals.
        width: Of the originals.
        images: For one and for two processes; 0 leaves this out, as on a machine that others use.
        out: JSON to write instead of the usual one.
    """
    # Here, so that the processes that pack do not load torchvision for it.
    from decode import radiograph

    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = originals(Path(folder), radiograph(height, width))
        jobs = {name: partial(pack_image, path, ImageOptions()) for name, path in files.items()}
        seconds = alternate(jobs, rounds=rounds, clock=time.process_time)
        formats = {name: row(values) for name, values in seconds.items()}
        scaled = scaling(files["png8"], Path(folder) / "scaling", images) if images else None
    measured = {
        "original": {"height": height, "width": width},
        "rounds": rounds,
        "formats": formats,
        "scaling": scaled,
        "tables": {TITLE: [{"format": name} | values for name, values in formats.items()]},
    }
    packages = ("numpy", "pillow", "opencv-python-headless", "pydicom", "simpleitk", "pyarrow")
    save("pack_cpu", measured, packages=packages, out=out)
    for name, values in formats.items():
        print(f"{name:14}", "  ".join(f"{key} {value:.2f}" for key, value in values.items()))
    print(scaled)


def originals(folder: Path, image: np.ndarray) -> dict[str, Path]:
    """One file of each format by name."""
    from decode import write_files

    (folder / "one").mkdir()
    made = {path.stem: path for path in write_files(folder / "one", image)}
    names = {"jpeg": "jpeg", "png8": "png8", "png16": "png16", "raw": "dicom_raw", "j2k": "dicom_j2k",
             "rle": "dicom_rle", "jpeg_lossless": "dicom_jpeg_lossless"}  # fmt: skip
    return {new: made[old] for old, new in names.items()}


def row(seconds: list[float]) -> dict[str, float]:
    """Processor time of one image, and what follows for all."""
    median = statistics.median(seconds)
    return {
        "ms": 1000 * median,
        "low_ms": 1000 * min(seconds),
        "high_ms": 1000 * max(seconds),
        "images_per_core_second": 1 / median,
        "hours_1m_16_cores": IMAGES * median / CORES / 3600,
    }


def scaling(original: Path, folder: Path, images: int) -> dict[str, float]:
    """Processor and clock seconds of a whole pack with one process and with two, twice in turn; the faster counts.

    Starting the processes is counted; `load` is that of the machine, above its cores the clock tells little.
    """
    root = folder / "root"
    root.mkdir(parents=True)
    for number in range(images):
        (root / f"{number:04}.png").hardlink_to(original)
    taken: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for number in range(2):
        for jobs in (1, 2):
            clock, used = time.perf_counter(), sum(os.times()[:4])
            pack([("folder", str(root))], folder / f"{number}-{jobs}", jobs=jobs, block_rows=8)
            taken[jobs].append((time.perf_counter() - clock, sum(os.times()[:4]) - used))
    clock, used = ({jobs: min(values[k] for values in taken[jobs]) for jobs in taken} for k in (0, 1))
    return {
        "images": images,
        "clock_1": clock[1],
        "clock_2": clock[2],
        "efficiency_clock": clock[1] / (2 * clock[2]),
        "processor_1": used[1],
        "processor_2": used[2],
        "efficiency_processor": used[1] / used[2],
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    auto_cli(benchmark, as_positional=False)
