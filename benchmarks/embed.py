"""Processor time per image of `cxrbase embed` against the same encoder fed by a plain PIL and torchvision loader."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).parent))
from _record import alternate, save, summary

from cxrbase.evaluation.features import pool_tokens
from cxrbase.release.embed import Embedder
from cxrbase.release.inputs import Item, find_images, loaded_batches, prepare


def make_images(folder: Path, count: int, side: int) -> None:
    """Grey JPEG files of smooth shapes and noise, of a detector's size."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, : side * 5 // 6]
    for number in range(count):
        smooth = (
            120 + 60 * np.sin(rows / generator.uniform(90, 300)) + 40 * np.cos(columns / generator.uniform(90, 300))
        )
        noisy = smooth + generator.normal(0, 4, smooth.shape)
        Image.fromarray(np.uint8(noisy.clip(0, 255))).save(folder / f"{number:03}.jpg", quality=92)


def plain(embedder: Embedder, items: list[Item], batch: int, *, encode: bool = True) -> np.ndarray:
    """What a user would write: PIL opens, torchvision resizes and cuts, the encoder runs in batches."""
    card = embedder.card
    size = card["image_size"]
    prepare = transforms.Compose(
        [
            transforms.Resize(size, antialias=True),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize([card["mean"]], [card["std"]]),
        ]
    )
    found = []
    for start in range(0, len(items), batch):
        images = torch.stack([prepare(Image.open(item.path).convert("L")) for item in items[start : start + batch]])
        if encode:
            with torch.inference_mode():
                found.append(pool_tokens(embedder.network, embedder.network.forward_features(images)).numpy())
    return np.concatenate(found) if encode else np.empty(0)


def ours(embedder: Embedder, items: list[Item]) -> np.ndarray:
    return np.concatenate([features for _, features in embedder.features(items)])


def inputs(embedder: Embedder, items: list[Item]) -> None:
    """All that `cxrbase embed` does before the encoder: decode, checksum, warnings, canvas, view."""
    card, size = embedder.card, embedder.card["image_size"]
    for batch in loaded_batches(
        items, canvas_size=2 * size, read=embedder.reading, batch_size=embedder.batch_size, threads=1
    ):
        prepare(batch, size=size, mean=card["mean"], std=card["std"], device=embedder.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="timm:vit_small_patch16_224")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--side", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default="", help="JSON (default: benchmarks/results/embed_cpu.json)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), options.images, options.side)
        items = find_images([folder])
        embedder = Embedder(options.encoder, device="cpu", batch_size=options.batch, threads=1)
        a, b = ours(embedder, items), plain(embedder, items, options.batch)
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        jobs = {
            "cxrbase embed": lambda: ours(embedder, items),
            "PIL and torchvision": lambda: plain(embedder, items, options.batch),
        }
        times = alternate(jobs, rounds=options.rounds, clock=time.process_time, show=print)
        alone = {
            "cxrbase embed, with checksum and warnings": lambda: inputs(embedder, items),
            "PIL and torchvision": lambda: plain(embedder, items, options.batch, encode=False),
        }
        before = alternate(alone, rounds=options.rounds, clock=time.process_time, show=print)
    setting = vars(options) | {
        "clock": "processor time of all threads",
        "lowest_cosine_of_features": float(cosine.min()),
    }
    del setting["out"]
    save(
        "embed_cpu",
        {
            "setting": setting,
            "rows": summary(times, against="PIL and torchvision"),
            "before_the_encoder": summary(before, against="PIL and torchvision"),
        },
        packages=("torch", "torchvision", "pillow", "timm"),
        out=options.out,
    )


if __name__ == "__main__":
    main()
