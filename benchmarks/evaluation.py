"""How long the bootstrap and the linear probe take at the size of NIH ChestX-ray14, and how often intervals hold.

python benchmarks/evaluation.py --out benchmarks/results/evaluation_cpu.json
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _record import save
from scipy.special import expit
from tqdm import tqdm

from cxrbase.evaluation.linear import LinearProbe
from cxrbase.evaluation.measure import measure
from cxrbase.evaluation.metrics import auroc, bootstrap_auroc, cluster_weights, interval

CLASSES = 14
TEST, PATIENTS = 25_596, 2_797  # official test list of NIH ChestX-ray14
TRAIN, WIDTH = 75_000, 768


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Result, wall seconds and CPU seconds over all threads of this process, which other work on the machine spares."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, {"wall_s": round(time.perf_counter() - wall, 2), "cpu_s": round(time.process_time() - cpu, 2)}


def bootstrap(resamples: int) -> dict[str, Any]:
    """Resampled AUROC alone, and all metrics, of a test set of NIH's size."""
    rng = np.random.default_rng(0)
    labels = (rng.random((TEST, CLASSES)) < np.linspace(0.005, 0.24, CLASSES)).astype(float)
    logits = rng.normal(size=labels.shape) + labels
    patients = rng.integers(0, PATIENTS, TEST).astype(str)
    weights, drawing = timed(lambda: cluster_weights(patients, resamples=resamples, seed=0))
    _, areas = timed(lambda: bootstrap_auroc(logits, labels, weights))
    names = [f"class {k}" for k in range(CLASSES)]
    _, every = timed(lambda: measure(logits, labels, logits, labels, weights, classes=names))
    return {"images": TEST, "classes": CLASSES, "resamples": resamples, "drawing": drawing,
            "auroc_auprc_sensitivity": areas, "all_metrics": every}  # fmt: skip


def probe(threads: int) -> dict[str, Any]:
    """The linear probe with its 13 values of C, on features whose variance falls as 1 / rank."""
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    scale = (1 / np.sqrt(np.arange(1, WIDTH + 1))).astype(np.float32)
    mixing = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
    table = (rng.standard_normal((TRAIN + 11_000, WIDTH), dtype=np.float32) * scale) @ mixing
    truth = table @ rng.normal(size=(WIDTH, CLASSES)) * 2 + np.linspace(-5, -1.5, CLASSES)
    labels = (rng.random(truth.shape) < expit(truth)).astype(float)
    train, val = slice(0, TRAIN), slice(TRAIN, None)
    fitted, spent = timed(lambda: LinearProbe().fit(table[train], labels[train], table[val], labels[val]))
    area = auroc(fitted.scores(table[val]), labels[val])
    return {"images": TRAIN, "width": WIDTH, "classes": CLASSES, "threads": threads, **spent,
            "val_macro_auroc": round(float(np.nanmean(area)), 4)}  # fmt: skip


def coverage(runs: int, patients: int) -> dict[str, Any]:
    """Share of simulated cohorts whose 95 % interval holds the true AUROC; one to three images per patient."""

    def cohort(count: int, seed: int) -> tuple[Any, Any, Any]:
        rng = np.random.default_rng(seed)
        who = np.repeat(np.arange(count), rng.integers(1, 4, count))
        labels = (rng.random(count) < 0.3)[who].astype(float)[:, None]
        return 1.5 * labels + 0.7 * rng.normal(size=count)[who][:, None] + rng.normal(size=labels.shape), labels, who

    scores, labels, _ = cohort(200_000, 10**6)
    truth, inside = auroc(scores, labels)[0], 0
    for seed in tqdm(range(runs), desc=f"coverage with {patients} patients"):
        scores, labels, who = cohort(patients, seed)
        weights = cluster_weights(who.astype(str), resamples=1000, seed=seed)
        low, high = interval(bootstrap_auroc(scores, labels, weights)[:, 0])
        inside += low <= truth <= high
    return {"patients": patients, "runs": runs, "share_inside": round(inside / runs, 4)}


def main() -> None:
    """Runs all three and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="", help="file for the result")
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--coverage_runs", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = options.coverage_runs
    measured = {
        "bootstrap_one_thread": bootstrap(options.resamples),
        "linear_probe": probe(min(2, os.cpu_count() or 1)),
        "coverage": [coverage(runs, count) for count in (150, 400)] if runs else [],
    }
    save("evaluation_cpu", measured, packages=("torch", "numpy"), out=options.out)


if __name__ == "__main__":
    main()
