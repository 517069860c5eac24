"""Fine-tunes one encoder on one task: epoch, threshold and temperature by validation, then the test split once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from cxrbase.data.centre import CentreViews, few_rows
from cxrbase.data.dataset import ImageStore
from cxrbase.data.manifest import Manifest
from cxrbase.data.reading import Reading
from cxrbase.errors import ConfigError
from cxrbase.evaluation.classifier import Classifier, Predicted, predict
from cxrbase.evaluation.finetune_data import Material, Rows
from cxrbase.evaluation.finetune_fit import CHECKPOINT, BestEpoch, fit_classifier, identity, with_drop_path
from cxrbase.evaluation.finetune_report import model_card, result_row
from cxrbase.evaluation.finetune_settings import FineTune
from cxrbase.evaluation.lateral_check import LateralCheck
from cxrbase.evaluation.laterals import LIMIT
from cxrbase.evaluation.measure import measure, top1
from cxrbase.evaluation.metrics import cluster_weights
from cxrbase.evaluation.subgroups import subgroup_report
from cxrbase.evaluation.suite.feature_store import encoder_hash
from cxrbase.evaluation.suite.results import Result, write_result
from cxrbase.evaluation.suite.seen import seen_by, seen_warnings
from cxrbase.evaluation.suite.shortcut import label_by_origin, origin_from_features, shortcut_warnings
from cxrbase.evaluation.task_data import TaskData
from cxrbase.models import FeatureRange, Model, save_model
from cxrbase.sizes import height_width
from cxrbase.weights_fit import Encoder


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
    size, read = _tiled(card, encoder), Reading.of(card)
    said = {**card, "name": name, "hash": encoder_hash(encoder, card)}
    network = with_drop_path(encoder, card, settings.drop_path)
    material = Material.of(data, settings, size, read)
    classifier = _classifier(network, data, settings)
    best = BestEpoch(material.splits.val.labels, identity(settings, said, data.split_checksum, data.label_checksum))
    module = material.module(settings, card, size)
    if not fit_classifier(classifier, module, settings, run_dir, best, checkpoint=checkpoint):
        return None
    fitted = _Fitted.of(classifier, material, card, settings, size)
    test = Manifest(data.manifest.table.take(material.rows["test"]), data.manifest.root)
    root = data.task.data.root
    seen = seen_by(place, test, look=settings.seen, cache=run_dir / "fingerprints.parquet", root=root)
    weights = cluster_weights(material.splits.test.codes().astype(str), resamples=settings.resamples, seed=0)
    val, tested = material.splits.val, material.splits.test
    found = measure(fitted.scored["val"].logits, val.labels, fitted.scored["test"].logits, tested.labels, weights,
                    classes=data.classes, criterion=settings.threshold)  # fmt: skip
    compute = fitted.compute(settings, best.wall_s)
    check = fitted.lateral_check(material)
    row = result_row(data, settings, said, material.splits, found, best, len(material.train)) | {
        "subgroups": subgroup_report(fitted.scored["test"].logits, tested, weights, classes=data.classes),
        "shortcut": fitted.shortcut(material, weights),
        "seen_before": None if seen is None else seen.to_dict(),
        "lateral_check": {"why_not": material.laterals.why} if check is None else check.to_dict(),
        "data": material.counted(data.manifest), "compute": compute,
    }  # fmt: skip
    row["metrics"] |= top1(found, tested.labels, weights, kind=data.task.kind)
    row["warnings"] += [*shortcut_warnings(row["shortcut"]["label_from_origin"]), *seen_warnings(seen),
                        *read.unlike(material.store.reading)]  # fmt: skip
    result = Result(row, fitted.scored["test"].logits, found.probabilities, np.asarray(tested.labels, np.float64),
                    tested.codes(), {metric: found.macro(metric) for metric in found.values})  # fmt: skip
    write_result(result, run_dir / "results")
    limits = FeatureRange.of(fitted.familiar.joined, fitted.scored["val"].joined)
    # What the model learnt from is what it is to be fed, also where its encoder learnt from other brightness.
    fed = said | {"intensity": material.store.intensity, **material.store.reading.values()}
    made = model_card(row, fed, settings, found, material.canvas)
    save_model(run_dir / "model", Model(classifier.cpu(), made, limits, check))
    # As large as three models, and a finished run is not gone on with.
    (run_dir / CHECKPOINT).unlink(missing_ok=True)
    return result


def _tiled(card: dict[str, Any], encoder: Encoder) -> tuple[int, int]:
    """Height and width of the images, which patches have to tile."""
    size, patch = height_width(card["image_size"]), height_width(encoder.patch_embed.patch_size)
    if any(side % part for side, part in zip(size, patch, strict=True)):
        raise ConfigError(
            f"finetune.image_size is {card['image_size']}, which patches of {patch[0]} pixels do not tile"
        )
    return size


def _classifier(network: Encoder, data: TaskData, settings: FineTune) -> Classifier:
    return Classifier(
        network, data.classes, kind=data.task.kind, mode=settings.mode, lr=settings.lr, min_lr=settings.min_lr,
        warmup=settings.warmup, layer_decay=settings.layer_decay, weight_decay=settings.weight_decay,
        betas=settings.betas, smoothing=settings.smoothing, seed=settings.seed,
    )  # fmt: skip


@dataclass(frozen=True)
class _Fitted:
    """A fitted classifier, and what it says of validation, test and some training images."""

    classifier: Classifier
    card: dict[str, Any]
    size: tuple[int, int]
    device: torch.device
    scored: dict[str, Predicted]
    shown: Rows
    familiar: Predicted

    @classmethod
    def of(
        cls, classifier: Classifier, material: Material, card: dict[str, Any], settings: FineTune, size: tuple[int, int]
    ) -> "_Fitted":
        device = _device(settings)
        classifier.to(device)
        shown = few_rows(material.train, LIMIT)
        rows = {"val": material.rows["val"], "test": material.rows["test"], "train": shown}
        scored = {
            part: _predict(classifier, material.store, chosen, card, size, device) for part, chosen in rows.items()
        }
        familiar = scored.pop("train")
        for found in scored.values():
            found.logits[:, ~material.learnt] = np.nan
        return cls(classifier, card, size, device, scored, shown, familiar)

    def features(self, images: ImageStore, rows: Rows) -> NDArray[np.float32]:
        """Features of some rows of a store, (M, D)."""
        return _predict(self.classifier, images, rows, self.card, self.size, self.device).pooled

    def lateral_check(self, material: Material) -> LateralCheck | None:
        """What tells laterals from the frontal images of the task."""
        rows, known = material.rows["train"], self.familiar.pooled
        return material.laterals.fit(
            self.features,
            # What a view is takes no label, so few labels leave all images to learn it from.
            lambda: known if len(material.train) == len(rows) else self.features(material.store, few_rows(rows, LIMIT)),
            self.scored["val"].pooled,
        )

    def compute(self, settings: FineTune, seconds: float) -> dict[str, Any]:
        """What fitting took."""
        gpu = torch.cuda.get_device_name() if self.device.type == "cuda" else ""
        return {
            "wall_s": round(seconds, 2),
            "device": gpu or self.device.type,
            "devices": settings.devices,
            "precision": settings.precision or "32-true",
            "parameters": sum(weight.numel() for weight in self.classifier.parameters()),
        }

    def shortcut(self, material: Material, weights: NDArray[np.generic]) -> dict[str, Any]:
        """What the source, site or origin of an image tells, and whether features tell them."""
        splits, rows = material.splits, material.rows["train"]
        parts = dict(splits.parts()) | {"train": splits.train.take(np.searchsorted(rows, self.shown))}
        learnt = {"train": self.familiar.pooled} | {part: found.pooled for part, found in self.scored.items()}
        return {
            "label_from_origin": label_by_origin(splits),
            "origin_from_features": origin_from_features(learnt, parts, weights),
        }


def _predict(
    classifier: Classifier, images: ImageStore, rows: Rows, card: dict[str, Any], size: tuple[int, int],
    device: torch.device,
) -> Predicted:  # fmt: skip
    return predict(classifier, CentreViews(images, rows, out=size, mean=card["mean"], std=card["std"], device=device))


def _device(settings: FineTune) -> torch.device:
    return torch.device("cuda" if settings.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
