"""Fine-tunes one encoder on one task: epoch, threshold and temperature by validation, then the test split once."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

import cxrbase
from cxrbase.data.centre import centre_batches
from cxrbase.data.dataset import ImageStore
from cxrbase.data.labelled import LabelledImages
from cxrbase.data.manifest import Manifest
from cxrbase.errors import ConfigError
from cxrbase.evaluation.classifier import Classifier, Predicted, predict
from cxrbase.evaluation.cohort import Cohort, thin
from cxrbase.evaluation.finetune_fit import CHECKPOINT, BestEpoch, fit_classifier, identity, with_drop_path
from cxrbase.evaluation.finetune_settings import FineTune
from cxrbase.evaluation.laterals import LIMIT, open_laterals
from cxrbase.evaluation.measure import Measured, measure, plain
from cxrbase.evaluation.metrics import cluster_weights
from cxrbase.evaluation.shots import fraction, k_shot, most_shots
from cxrbase.evaluation.subgroups import subgroup_report
from cxrbase.evaluation.suite.feature_store import encoder_hash
from cxrbase.evaluation.suite.results import Result, git_commit, row_key, write_result
from cxrbase.evaluation.suite.score_task import splits_of
from cxrbase.evaluation.suite.seen import seen_by, seen_warnings
from cxrbase.evaluation.suite.shortcut import label_by_origin, origin_from_features, shortcut_warnings
from cxrbase.evaluation.task_data import TaskData
from cxrbase.evaluation.task_images import open_images
from cxrbase.models import FeatureRange, Model, save_model
from cxrbase.sizes import height_width, longest
from cxrbase.weights_fit import Encoder

logger = logging.getLogger(__name__)

Rows = NDArray[np.int64]
_SHARED = (
    "task", "counts", "seed", "split_checksum", "metrics", "lateral_check", "warnings", "settings", "git_commit",
)  # fmt: skip


def finetune(
    data: TaskData,
    encoder: Encoder,
    card: dict[str, Any],
    settings: FineTune,
    run_dir: Path,
    *,
    name: str,
    place: str = "",
    checkpoint: Path | None = None,
) -> Result | None:
    """Fits, chooses on validation, opens test once, and leaves a model folder and a result row in the run folder.

    Args:
        data: The task.
        encoder: From `load_any_encoder`.
        card: Its description.
        settings: How to fit.
        run_dir: Folder of the run; model/ and results/ are written into it.
        name: What the encoder is called in the result.
        place: Where it is from, as `load_any_encoder` takes it; tells what it was pretrained on.
        checkpoint: Of a stopped run of the same settings, to go on with.

    Returns:
        The result; None in all processes but the first where there are several.
    """
    L.seed_everything(settings.seed, verbose=False)
    size, patch = height_width(card["image_size"]), height_width(encoder.patch_embed.patch_size)
    if any(side % part for side, part in zip(size, patch, strict=True)):
        raise ConfigError(
            f"finetune.image_size is {card['image_size']}, which patches of {patch[0]} pixels do not tile"
        )
    said = {**card, "name": name, "hash": encoder_hash(encoder, card)}
    network = with_drop_path(encoder, card, settings.drop_path)
    canvas = settings.canvas_size or 2 * longest(size)
    opening: dict[str, Any] = {
        "size": canvas,
        "cache_dir": settings.cache_dir,
        "option": "--finetune.cache_dir",
        "limit_gb": settings.cache_gb,
    }
    store = open_images(data, max_bad=settings.max_bad, **opening)
    laterals = open_laterals(data, **opening)
    splits, rows = splits_of(data, store.rows)
    targets = _few(settings, splits.train, rows["train"], data)
    train = np.flatnonzero(~np.isnan(targets).all(1))
    if settings.mode == "probe" and min(settings.batch_size, len(train) // settings.devices) < 2:
        raise ConfigError(
            "a linear probe needs at least 2 images per step: raise finetune.batch_size or finetune.shots"
        )
    module = LabelledImages(
        store, targets, train=train, val=rows["val"], image_size=size, mean=card["mean"], std=card["std"],
        batch_size=settings.batch_size, num_workers=settings.num_workers, augment=settings.augment, seed=settings.seed,
    )  # fmt: skip
    classifier = Classifier(
        network, data.classes, kind=data.task.kind, mode=settings.mode, lr=settings.lr, min_lr=settings.min_lr,
        warmup=settings.warmup, layer_decay=settings.layer_decay, weight_decay=settings.weight_decay,
        betas=settings.betas, smoothing=settings.smoothing, seed=settings.seed,
    )  # fmt: skip
    best = BestEpoch(splits.val.labels, identity(settings, said, data.split_checksum, data.label_checksum))
    if not fit_classifier(classifier, module, settings, run_dir, best, checkpoint=checkpoint):
        return None
    device = _device(settings)
    classifier.to(device)
    scored = {part: predict(classifier, module.centre_batches(rows[part], device=device)) for part in ("val", "test")}
    for found_of in scored.values():
        found_of.logits[:, ~_learnt(targets[train])] = np.nan
    weights = cluster_weights(splits.test.codes().astype(str), resamples=settings.resamples, seed=0)
    found = measure(scored["val"].logits, splits.val.labels, scored["test"].logits, splits.test.labels, weights,
                    classes=data.classes, criterion=settings.threshold)  # fmt: skip
    shown = thin(train, LIMIT)

    def shown_to(images: ImageStore, rows: Rows) -> Predicted:
        return predict(classifier, centre_batches(images, rows, out=size, mean=card["mean"], std=card["std"],
                                                  device=device))  # fmt: skip

    def features_of(images: ImageStore, rows: Rows) -> NDArray[np.float32]:
        return shown_to(images, rows).pooled

    familiar = shown_to(store, shown)
    features = familiar.pooled
    check = laterals.fit(
        features_of,
        # What a view is takes no label, so few labels leave all images to learn it from.
        lambda: features if len(train) == len(rows["train"]) else features_of(store, thin(rows["train"], LIMIT)),
        scored["val"].pooled,
    )
    test = Manifest(data.manifest.table.take(rows["test"]), data.manifest.root)
    seen = seen_by(place, test, look=settings.seen, cache=run_dir / "fingerprints.parquet")
    parts = dict(splits.parts()) | {"train": splits.train.take(np.searchsorted(rows["train"], shown))}
    learnt = {"train": features} | {part: predicted.pooled for part, predicted in scored.items()}
    row = _row(data, settings, said, splits.counts(), splits.undefined(), found, best, len(train)) | {
        "subgroups": subgroup_report(scored["test"].logits, splits.test, weights, classes=data.classes),
        "shortcut": {
            "label_from_origin": label_by_origin(splits),
            "origin_from_features": origin_from_features(learnt, parts, weights),
        },
        "seen_before": None if seen is None else seen.to_dict(),
        "lateral_check": {"why_not": laterals.why} if check is None else check.to_dict(),
    }
    row["warnings"] += [*shortcut_warnings(row["shortcut"]["label_from_origin"]), *seen_warnings(seen)]
    result = Result(row, scored["test"].logits, found.probabilities, np.asarray(splits.test.labels, np.float64),
                    splits.test.codes(), {metric: found.macro(metric) for metric in found.values})  # fmt: skip
    write_result(result, run_dir / "results")
    limits = FeatureRange.of(familiar.joined, scored["val"].joined)
    made = _model_card(row, said, settings, found, canvas)
    save_model(run_dir / "model", Model(classifier.cpu(), made, limits, check))
    # As large as three models, and a finished run is not gone on with.
    (run_dir / CHECKPOINT).unlink(missing_ok=True)
    return result


def _few(settings: FineTune, train: Cohort, rows: NDArray[np.int64], data: TaskData) -> NDArray[np.float32]:
    """Targets (N, K) of all images of the task, NaN for those that are not learnt from."""
    targets = np.full(data.targets.shape, np.nan, np.float32)
    if settings.shots is None:
        chosen = rows[fraction(train, settings.fraction, seed=settings.seed)]
        targets[chosen] = data.targets[chosen]
        return targets
    place, labels = k_shot(train, settings.shots, seed=settings.seed)
    # A softmax needs the whole answer, which a drawn image of one of several classes has.
    targets[rows[place]] = data.targets[rows[place]] if data.task.kind == "multiclass" else labels
    if not len(place):
        raise ConfigError(
            f"no class has {settings.shots} patients with and without it in train: set finetune.shots to at most "
            f"{most_shots(train)}"
        )
    return targets


def _device(settings: FineTune) -> torch.device:
    return torch.device("cuda" if settings.accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def _learnt(targets: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Classes with something to tell apart in training, (K,)."""
    return np.asarray((targets > 0.5).any(0) & (targets < 0.5).any(0))


def _row(
    data: TaskData, settings: FineTune, encoder: dict[str, Any], counts: dict[str, Any], undefined: dict[str, str],
    found: Measured, best: BestEpoch, images: int,
) -> dict[str, Any]:  # fmt: skip
    undefined = undefined | {
        name: "too few labels to learn from" for name in found.undefined() if name not in undefined
    }
    task = _task_card(data)
    shown = {key: encoder.get(key) for key in ("name", "hash", "timm_name", "image_size", "mean", "std", "format")}
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
        "counts": counts,
        "train_images": images,
        "best_epoch": best.epoch + 1,
        "validation_score": plain(best.score),
        "test_opened": 1,
        "undefined": undefined,
        "metrics": found.to_dict(),
        "warnings": [*data.warnings, *(f"{name} is undefined: {why}" for name, why in undefined.items())],
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


def _model_card(
    row: dict[str, Any], encoder: dict[str, Any], settings: FineTune, found: Measured, canvas: int
) -> dict[str, Any]:
    kept = ("timm_name", "timm_args", "image_size", "mean", "std", "intensity", "format", "name", "hash")
    return {
        "encoder": {key: encoder[key] for key in kept if key in encoder},
        "classes": list(found.classes),
        "kind": row["task"]["kind"],
        "mode": settings.mode,
        "temperatures": found.temperatures.tolist(),
        "thresholds": [plain(value) for value in found.thresholds],
        "canvas_size": canvas,
        **{key: row[key] for key in _SHARED},
    }
