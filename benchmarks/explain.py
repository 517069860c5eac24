"""Do maps hit what is known to be there? Pointing game, deletion, insertion and shuffled weights, on the phantom."""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
from _record import save

from cxrbase.backbones import create_backbone
from cxrbase.data.canvas import to_canvas
from cxrbase.data.decode import decode_uint8
from cxrbase.data.manifest import Manifest
from cxrbase.data.phantom import make_phantom
from cxrbase.evaluation.metrics import auroc
from cxrbase.release.explain import METHODS, explain
from cxrbase.release.explain_checks import box_patches, deletion_insertion, follows_weights, pointing_game
from cxrbase.views import centre_view

SIZE = 96
# 64 patches and half a million weights: what one core trains in minutes.
OPTIONS = {"patch_size": 12, "embed_dim": 96, "depth": 4, "num_heads": 3}
GRID = (SIZE // 12, SIZE // 12)
MOST, SHUFFLED = 24, 8  # images with a finding whose maps are made, and made again with shuffled weights


def read(manifest: Manifest) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    pixels = [decode_uint8(path) for path in manifest.paths]
    canvases = torch.from_numpy(np.stack([to_canvas(image, 2 * SIZE)[0] for image in pixels]))[:, None]
    sizes = torch.tensor([to_canvas(image, 2 * SIZE)[1] for image in pixels])
    return centre_view(canvases, sizes, out=SIZE, mean=0.506, std=0.252), [image.shape for image in pixels]


def train(images: torch.Tensor, labels: torch.Tensor, epochs: int) -> tuple[Any, nn.Linear]:
    torch.manual_seed(0)
    vit = create_backbone("vit_tiny_patch16_224", image_size=SIZE, options=OPTIONS)
    head = nn.Linear(OPTIONS["embed_dim"], labels.shape[1])
    parameters = [*vit.parameters(), *head.parameters()]
    steps = epochs * (len(images) // 32)
    optimiser = torch.optim.AdamW(parameters, 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps)
    for _ in tqdm(range(steps), desc="training"):
        rows = torch.randint(len(images), (32,))
        logits = head(vit.forward_features(images[rows])[:, 1:].mean(1))
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(logits, labels[rows]).backward()
        optimiser.step()
        schedule.step()
    return vit.eval(), head


def measure(vit: Any, head: nn.Linear, test: Manifest, images: torch.Tensor, shapes: list[Any]) -> list[dict[str, Any]]:
    rows = []
    labels = test.label_matrix()
    with torch.no_grad():
        areas = auroc(head(vit.forward_features(images)[:, 1:].mean(1)).numpy(), labels)
    for index, name in enumerate(test.labels):
        boxes = test.column(f"box_{name}")
        truth = np.stack([box_patches(box, shape=shape, grid=GRID) for box, shape in zip(boxes, shapes, strict=True)])
        kept = np.flatnonzero(truth.any((1, 2)))[:MOST]
        if len(kept) < 10:
            continue

        def score(tokens: torch.Tensor, index: int = index) -> torch.Tensor:
            return head(tokens[:, 1:].mean(1))[:, index]

        for method in tqdm(METHODS, desc=name):
            maps = explain(vit, images[kept], method=method, score=score)
            game = pointing_game(maps, truth[kept])
            random = torch.rand(maps.shape, generator=torch.Generator().manual_seed(0))
            curves = {}
            for which, ranked in (("map", maps), ("random", random)):
                deletion, insertion = deletion_insertion(vit, images[kept], ranked, score)
                curves[which] = {
                    "deletion": round(float(deletion.mean()), 4),
                    "insertion": round(float(insertion.mean()), 4),
                }
            rows.append(
                {
                    "finding": name,
                    "test_auroc": round(float(areas[index]), 4),
                    "method": method,
                    "hits": game.hits,
                    "images": game.images,
                    "hit_rate": round(game.rate, 4),
                    "chance": round(game.chance, 4),
                    "logit": curves,
                    "correlation_with_shuffled_weights": round(
                        follows_weights(vit, images[kept[:SHUFFLED]], method=method, score=score), 4
                    ),
                }
            )
    return rows


def overall(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Each method over all findings; read with the network's AUROC, for where it sees nothing a map means nothing."""
    found = {}
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        count = sum(row["images"] for row in own)
        values = {
            "findings": len(own),
            "macro_test_auroc": float(np.mean([row["test_auroc"] for row in own])),
            "images": count,
            "hit_rate": sum(row["hits"] for row in own) / count,
            "chance": sum(row["chance"] * row["images"] for row in own) / count,
        }
        for curve in ("deletion", "insertion"):
            values[f"{curve}_minus_random"] = float(
                np.mean([row["logit"]["map"][curve] - row["logit"]["random"][curve] for row in own])
            )
        values["correlation_with_shuffled_weights"] = float(
            np.mean([row["correlation_with_shuffled_weights"] for row in own])
        )
        found[method] = {name: round(value, 4) for name, value in values.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--root", default="data/phantom_explain", help="folder of the phantom, made where it is missing"
    )
    parser.add_argument("--patients", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--out", default="", help="JSON (default: benchmarks/results/explain_phantom.json)")
    options = parser.parse_args()
    manifest = Manifest.read(make_phantom(Path(options.root), patients=options.patients, image_size=128, seed=0))
    training, test = manifest.select("train"), manifest.select("test")
    images, _ = read(training)
    vit, head = train(images, torch.from_numpy(training.label_matrix()), options.epochs)
    test_images, shapes = read(test)
    rows = measure(vit, head, test, test_images, shapes)
    setting = {"training_images": len(training), "test_images": len(test), "image_size": SIZE, "epochs": options.epochs}
    measured = {"setting": setting, "overall": overall(rows), "rows": rows}
    save("explain_phantom", measured, packages=("torch", "timm", "numpy"), out=options.out)


if __name__ == "__main__":
    main()
