"""What a fine-tuning run says of itself: its result row, and the card of its model folder."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import cxrbase
from cxrbase.evaluation.cohort import Splits
from cxrbase.evaluation.finetune_fit import BestEpoch
from cxrbase.evaluation.finetune_settings import FineTune
from cxrbase.evaluation.measure import Measured, plain
from cxrbase.evaluation.suite.results import git_commit, row_key
from cxrbase.evaluation.task_data import TaskData
from cxrbase.evaluation.unscored import Unscored

_FED = ("timm_name", "image_size", "mean", "std", "window", "crop_borders")
_SHARED = (
    "task", "counts", "seed", "split_checksum", "metrics", "subgroups", "data", "compute", "train_images", "best_epoch",
    "lateral_check", "warnings", "settings", "git_commit",
)  # fmt: skip


def result_row(
    data: TaskData, settings: FineTune, encoder: dict[str, Any], splits: Splits, found: Measured, best: BestEpoch,
    images: int,
) -> dict[str, Any]:  # fmt: skip
    """One row of results.

    Args:
        data: The task.
        settings: How was fitted.
        encoder: Card of the encoder, with its name and hash.
        splits: The images of the task that can be read.
        found: The scores.
        best: The epoch that was chosen.
        images: How many were learnt from.
    """
    unscored = Unscored.of(splits, found)
    task = _task_card(data)
    shown = {key: encoder.get(key) for key in ("name", "hash", *_FED, "format")}
    return {
        "key": row_key(encoder=encoder["hash"], task=task, settings=asdict(settings), split=data.split_checksum),
        "encoder": shown,
        "task": task,
        "protocol": settings.protocol,
        "protocol_text": (
            f"{settings.mode} for {settings.epochs} epochs, epoch {best.epoch + 1} chosen by validation; temperature "
            f"by log loss and threshold by {settings.threshold} on validation; test scored once; 95 % intervals of "
            f"{settings.resamples} resamples of patients"
        ),
        "seed": settings.seed,
        "split_checksum": data.split_checksum,
        "label_checksum": data.label_checksum,
        "label_counts": data.label_counts,
        "counts": splits.counts(),
        "train_images": images,
        "best_epoch": best.epoch + 1,
        # None where validation has no label of a class that was learnt, so that all epochs were alike.
        "validation_score": plain(best.score) if math.isfinite(best.score) else None,
        "test_opened": 1,
        "undefined": unscored.undefined,
        "uncalibrated": unscored.uncalibrated,
        "metrics": found.to_dict(),
        "warnings": [*data.warnings, *unscored.warnings()],
        "settings": asdict(settings),
        "version": cxrbase.__version__,
        "git_commit": git_commit(),
    }


def _task_card(data: TaskData) -> dict[str, Any]:
    task = data.task
    return {
        "name": task.name,
        "title": task.title,
        "kind": task.kind,
        "findings": list(data.classes),
        "views": task.views,
        "warnings": data.warnings,
    }


def model_card(
    row: dict[str, Any], encoder: dict[str, Any], settings: FineTune, found: Measured, canvas: int,
    learnt: Sequence[bool],
) -> dict[str, Any]:  # fmt: skip
    """What a model folder tells of its model, to those who use it.

    Args:
        row: Of `result_row`, with its further parts.
        encoder: Card of the encoder, with its name and hash, and how the images that it was fitted to were read.
        settings: How was fitted.
        found: Temperatures and thresholds.
        canvas: Longest side that is kept of an image, in pixels.
        learnt: Which classes had something to tell apart in training, (K,).
    """
    kept = (*_FED, "timm_args", "intensity", "format", "name", "hash")
    return {
        "encoder": {key: encoder[key] for key in kept if key in encoder},
        "classes": list(found.classes),
        "learnt": [name for name, one in zip(found.classes, learnt, strict=True) if one],
        "kind": row["task"]["kind"],
        "mode": settings.mode,
        "temperatures": found.temperatures.tolist(),
        "thresholds": [plain(value) for value in found.thresholds],
        "canvas_size": canvas,
        **{key: row[key] for key in _SHARED},
    }
