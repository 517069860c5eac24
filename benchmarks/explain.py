"""Do maps hit what is known to be there? Pointing game, deletion, insertion and shuffled weights, on the phantom.

    python benchmarks/explain.py --model runs/<fine-tuned> --root data/phantom --patients 1200

explains a model of `cxrbase fit --config experiments/task/phantom.yaml` on the test patients it has not learnt from.
Without --model a small network is trained first, which takes a core a few minutes and learns little.
"""

import argparse
import sys
from collections.abc import Callable
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
from cxrbase.release.explain import explain
from cxrbase.release.explain_checks import box_patches, deletion_insertion, follows_weights, pointing_game
from cxrbase.release.explained import Explained, open_explained
from cxrbase.release.methods import METHODS
from cxrbase.views import centre_view

SIZE = 96
# 64 patches and half a million weights: what one core trains in minutes.
OPTIONS = {"patch_size": 12, "embed_dim": 96, "depth": 4, "num_heads": 3}
SHUFFLED = 8  # images whose maps are made again with shuffled weights
TOLD = 0.6  # AUROC from which on a finding counts as one that the network sees


def read(manifest: Manifest, canvas: int, view: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, list[Any]]:
    pixels = [decode_uint8(path) for path in manifest.paths]
    canvases = torch.from_numpy(np.stack([to_canvas(image, canvas)[0] for image in pixels]))[:, None]
    sizes = torch.tensor([to_canvas(image, canvas)[1] for image in pixels])
    return view(canvases, sizes), [image.shape for image in pixels]


def centre(canvases: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    return centre_view(canvases, sizes, out=SIZE, mean=0.506, std=0.252)


def trained(training: Manifest, epochs: int) -> Explained:
    """A small network that learnt nothing but this."""
    images, _ = read(training, 2 * SIZE, centre)
    vit, head = train(images, torch.from_numpy(training.label_matrix()), epochs)

    def probabilities(view: torch.Tensor) -> torch.Tensor:
        return head(vit.forward_features(view)[:, 1:].mean(1)).sigmoid()

    def score_of(index: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda tokens: head(tokens[:, 1:].mean(1))[:, index]

    return Explained(vit, 2 * SIZE, centre, tuple(training.labels), score_of, probabilities)


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


def measure(explained: Explained, test: Manifest, most: int) -> list[dict[str, Any]]:
    """One row for each finding and method, on the first `most` test images with the finding."""
    rows, vit = [], explained.network
    if unknown := set(explained.findings) - set(test.labels):
        raise SystemExit(f"the phantom has no labels of {', '.join(sorted(unknown))}: give a model of task phantom")
    images, shapes = read(test, explained.canvas_size, explained.view)
    grid = tuple(vit.patch_embed.grid_size)
    order = [test.labels.index(name) for name in explained.findings]
    with torch.no_grad():
        areas = auroc(explained.probabilities(images).numpy(), test.label_matrix()[:, order])
    for index, name in enumerate(explained.findings):
        boxes = test.column(f"box_{name}")
        truth = np.stack([box_patches(box, shape=shape, grid=grid) for box, shape in zip(boxes, shapes, strict=True)])
        kept = np.flatnonzero(truth.any((1, 2)))[:most]
        if len(kept) < 10:
            continue
        score = explained.score_of(index)
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
    """Each method over some findings; where the network sees nothing, a map means nothing."""
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
    parser.add_argument("--model", default="", help="a fine-tuned model; without one a small network is trained")
    parser.add_argument("--most", type=int, default=24, help="images of each finding whose maps are made")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--out", default="", help="JSON (default: benchmarks/results/explain_phantom.json)")
    options = parser.parse_args()
    manifest = Manifest.read(make_phantom(Path(options.root), patients=options.patients, image_size=128, seed=0))
    training, test = manifest.select("train"), manifest.select("test")
    model = open_explained(options.model) if options.model else trained(training, options.epochs)
    rows = measure(model, test, options.most)
    setting = {
        "training_images": len(training),
        "test_images": len(test),
        "images_of_a_finding": options.most,
        "model": options.model or f"a small network, {options.epochs} epochs",
        "canvas": model.canvas_size,
    }
    seen = [row for row in rows if row["test_auroc"] >= TOLD]
    measured = {"setting": setting, "overall": overall(rows), "rows": rows}
    if seen:
        measured[f"overall_of_findings_with_auroc_from_{TOLD}"] = overall(seen)
    save("explain_phantom", measured, packages=("torch", "timm", "numpy"), out=options.out)


if __name__ == "__main__":
    main()
