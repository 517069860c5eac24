"""How many planted copies an audit finds, how many of its findings are wrong, and how long a million hashes take.

    python benchmarks/audit.py --images /path/to/radiographs

Copies are made of every image by a random crop (three of four, up to 8 % of each side), window and gamma (0.6 to 1.6),
scale (0.6 to 1.4), flip (one of five) and JPEG quality (30 to 95). A found pair that was not planted counts as wrong.
SAME in audit_align.py was chosen on copies made with seed 1; the figures are of other seeds, on the same radiographs.
"""

import io
import json
import os
import platform
import resource
import shlex
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
from input_warnings import noise, photos
from jsonargparse import auto_cli
from PIL import Image, ImageOps

from cxrbase.data.audit_align import small_image
from cxrbase.data.audit_checks import INVERTED_BORDER
from cxrbase.data.audit_duplicates import candidates
from cxrbase.data.audit_unlike import unlike
from cxrbase.data.audit_verify import near_pairs
from cxrbase.data.decode import decode, to_uint8
from cxrbase.data.fingerprint import DIGITS, digits_of, perceptual_hash
from cxrbase.data.grey import statistics


def audit(
    images: str,
    out: str = "benchmarks/results/audit_cpu.json",
    hashes: int = 1_040_000,
    seed: int = 11,
    threads: int = 2,
) -> None:
    """Measures and writes JSON.

    Args:
        images: Folder of radiographs, not searched below.
        out: JSON to write.
        hashes: Number of made-up hashes for the timing.
        seed: Seed of the copies.
        threads: Threads.
    """
    paths = sorted(p for p in Path(images).iterdir() if p.suffix in (".jpg", ".png"))
    measured, real = copies(paths, seed, threads)
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": threads},
        "versions": {name: version(name) for name in ("cxrbase", "numpy", "torch", "pillow")},
        "load_before": os.getloadavg()[0],
        "copies": measured,
        "inverted": inverted(paths),
        "unlike": unlike_others(paths),
    }
    save(result, out)
    result["million"] = million(real, hashes, seed, threads)
    save(result, out)


def save(result: dict, out: str) -> None:
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def altered(image: np.ndarray, generator: np.random.Generator) -> tuple[bytes, bool, bool]:
    cropped, flipped = generator.random() < 0.75, generator.random() < 0.2
    height, width = image.shape
    top, bottom, left, right = generator.uniform(0, 0.08, 4) * cropped
    image = image[int(top * height) : height - int(bottom * height), int(left * width) : width - int(right * width)]
    low, high, gamma = generator.uniform(0, 0.08), generator.uniform(0.92, 1), generator.uniform(0.6, 1.6)
    picture = Image.fromarray(np.uint8(255 * ((image / 255 - low) / (high - low)).clip(0, 1) ** gamma))
    scale = generator.uniform(0.6, 1.4)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    data = io.BytesIO()
    (ImageOps.mirror(picture) if flipped else picture).save(data, "JPEG", quality=int(generator.integers(30, 96)))
    return data.getvalue(), cropped, flipped


def copies(paths: list[Path], seed: int, threads: int) -> tuple[dict, np.ndarray]:
    generator, made, kinds = np.random.default_rng(seed), [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(paths):
            data, *kind = altered(to_uint8(decode(path)), generator)
            made.append(Path(folder, f"{number}.jpg"))
            made[-1].write_bytes(data)
            kinds.append(kind)
        hashes = [perceptual_hash(to_uint8(decode(path))) for path in paths + made]
        start, cpu = time.perf_counter(), time.process_time()
        found = candidates(digits_of(hashes), threads=threads)
        files = paths + made
        pairs, scores, _ = near_pairs(lambda row: small_image(files[row]), hashes, threads=threads)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    planted = {(n, len(paths) + n) for n in range(len(paths))}
    hits = planted & set(map(tuple, pairs.tolist()))
    hit = np.array([(n, len(paths) + n) in hits for n in range(len(paths))])
    right = np.array([tuple(pair) in planted for pair in pairs.tolist()])
    cropped, flipped = np.array(kinds).T
    return {
        "images": len(paths),
        "recall": hit.mean(),
        "recall_cropped": hit[cropped].mean(),
        "recall_uncropped": hit[~cropped].mean(),
        "recall_flipped": hit[flipped].mean(),
        "recall_of_candidates": len(planted & set(map(tuple, found.pairs.tolist()))) / len(paths),
        "candidates_per_image": len(found.pairs) / len(hashes),
        "precision": right.mean(),
        "wrong": int((~right).sum()),
        "lowest_right_score": float(scores[right].min()),
        "wall_s": wall,
        "cpu_s": cpu,
    }, digits_of(hashes)


def inverted(paths: list[Path]) -> dict:
    images = [to_uint8(decode(path)) for path in paths]
    rate = [
        np.mean([statistics(i)["border"] > INVERTED_BORDER for i in some])
        for some in (images, [255 - i for i in images])
    ]
    return {"flagged_as_they_are": rate[0], "flagged_as_negatives": rate[1]}


def unlike_others(paths: list[Path]) -> dict:
    """How often a radiograph, a piece of a photograph and noise are far from the rest, 20 of each among the first."""
    real = [perceptual_hash(to_uint8(decode(path))) for path in paths]
    others = {"photographs": photos(), "noise": noise()}
    strange = {
        name: [perceptual_hash(image) for image in islice(images, 0, None, 2)][:20] for name, images in others.items()
    }
    found = set(unlike(real + strange["photographs"] + strange["noise"]).tolist())
    starts = {"radiographs": 0, "photographs": len(real), "noise": len(real) + len(strange["photographs"])}
    sizes = {"radiographs": len(real)} | {name: len(hashes) for name, hashes in strange.items()}
    return {
        name: {"images": size, "flagged": len(found & set(range(starts[name], starts[name] + size)))}
        for name, size in sizes.items()
    }


def million(real: np.ndarray, count: int, seed: int, threads: int) -> dict:
    """Real images and their copies among made-up hashes.

    Those have the mean and covariance of real ones, because independent digits would be easier to tell apart.

    Args:
        real: Digits of M images and, in the same order, of their M copies.
        count: Number of made-up hashes.
        seed: Seed of the made-up hashes.
        threads: Threads.
    """
    middle, generator = (np.arange(16) + 0.5) / 16, np.random.default_rng(seed)
    values = np.log(middle / (1 - middle))[real[: len(real) // 2]]
    mean, root = values.mean(0), np.linalg.cholesky(np.cov(values.T) + 1e-3 * np.eye(DIGITS))
    digits = np.empty((count + len(real), DIGITS), np.uint8)
    for start in range(0, count, 50_000):
        part = mean + generator.standard_normal((min(50_000, count - start), DIGITS)) @ root.T
        digits[start : min(start + 50_000, count)] = np.clip(16 / (1 + np.exp(-part)), 0, 15)
    digits[count:] = real
    start, cpu = time.perf_counter(), time.process_time()
    found = candidates(digits, threads=threads)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    pairs = set(map(tuple, found.pairs.tolist()))
    half = len(real) // 2
    hit = [(count + n, count + half + n) in pairs for n in range(half)]
    return {
        "hashes": len(digits),
        "planted": half,
        "recall_of_candidates": np.mean(hit),
        "candidates": len(pairs),
        "lowest_cosine": float(found.similarity.min()),
        "wall_s": wall,
        "cpu_s": cpu,
        "load_after": os.getloadavg()[0],
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


if __name__ == "__main__":
    auto_cli(audit, as_positional=False)
