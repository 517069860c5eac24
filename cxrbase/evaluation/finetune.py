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
from cxrbase.devices import device_of
from cxrbase.errors import ConfigError
from cxrbase.evaluation.classifier import Classifier, Predicted, predict
from cxrbase.evaluation.cohort import Cohort
from cxrbase.evaluation.finetune_data import Material, Rows
from cxrbase.evaluation.finetune_fit import CHECKPOINT, BestEpoch, fit_classifier, identity, with_drop_path
from cxrbase.evaluation.finetune_report import model_card, result_row
from cxrbase.evaluation.finetune_settings import FineTune
from cxrbase.evaluation.lateral_check import LateralCheck
from cxrbase.evaluation.laterals import LIMIT
from cxrbase.evaluation.measure import Measured, measure, shared, top1
from cxrbase.evaluation.metrics import cluster_weights
from cxrbase.evaluation.subgroups import subgroup_report
from cxrbase.evaluation.suite.feature_store import encoder_hash
from cxrbase.evaluation.suite.results import Result, write_result
from cxrbase.evaluation.suite.seen import Seen, seen_by, seen_warnings
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
    # How a class that nothing was learnt of fares on validation is chance, and chooses nothing.
    judged_by = np.where(material.learnt, material.splits.val.labels, np.nan)
    best = BestEpoch(judged_by, identity(settings, said, data.split_checksum, data.label_checksum))
    module = material.module(settings, card, size)
    if not fit_classifier(classifier, module, settings, run_dir, best, checkpoint=checkpoint):
        return None
    fitted = _Fitted.of(classifier, material, card, settings, size)
    compute = fitted.compute(settings, best.wall_s)
    judged = _Judged.of(fitted, material, settings, kind=data.task.kind)
    row = result_row(data, settings, said, material.splits, judged.found, best, len(material.train))
    row = judged.row(row, _seen(data, material, settings, run_dir, place))
    row |= {"data": material.counted(data.manifest), "compute": compute}
    row["warnings"] += read.unlike(material.store.reading)
    result = judged.result(row)
    write_result(result, run_dir / "results")
    _write_model(run_dir, fitted, judged, row, encoder=said, settings=settings, material=material)
    return result


def _write_model(
    run_dir: Path, fitted: "_Fitted", judged: "_Judged", row: dict[str, Any], *, encoder: dict[str, Any],
    settings: FineTune, material: Material,
) -> None:  # fmt: skip
    """Leaves the model folder in place of the checkpoint."""
    # What the model learnt from is what it is to be fed, also where its encoder learnt from other brightness.
    fed = encoder | {"intensity": material.store.intensity, **material.store.reading.values()}
    card = model_card(row, fed, settings, judged.found, material.canvas, material.learnt.tolist())
    save_model(run_dir / "model", Model(fitted.classifier.cpu(), card, fitted.range(), judged.check))
    # As large as three models, and a finished run is not gone on with.
    (run_dir / CHECKPOINT).unlink(missing_ok=True)


def _seen(data: TaskData, material: Material, settings: FineTune, run_dir: Path, place: str) -> Seen | None:
    """Which test images the encoder was pretrained on."""
    test = Manifest(data.manifest.table.take(material.rows["test"]), data.manifest.root)
    cache = run_dir / "fingerprints.parquet"
    return seen_by(place, test, look=settings.seen, cache=cache, root=data.task.data.root)


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
        return cls(classifier, card, size, device, scored, shown, familiar)

    def range(self) -> FeatureRange:
        """Where the features of images like those of training lie."""
        return FeatureRange.of(self.familiar.joined, self.scored["val"].joined)

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


@dataclass(frozen=True)
class _Judged:
    """A fitted classifier on the test images, which are scored once."""

    found: Measured
    together: dict[str, NDArray[np.float64]]
    subgroups: dict[str, Any]
    shortcut: dict[str, Any]
    check: LateralCheck | None
    why_unchecked: str
    test: Cohort

    @classmethod
    def of(cls, fitted: _Fitted, material: Material, settings: FineTune, *, kind: str) -> "_Judged":
        val, test = material.splits.val, material.splits.test
        weights = cluster_weights(test.codes().astype(str), resamples=settings.resamples, seed=0)
        found = measure(
            fitted.scored["val"].logits, val.labels, fitted.scored["test"].logits, test.labels, weights,
            classes=material.splits.classes, kind=kind, learnt=material.learnt, criterion=settings.threshold,
        )  # fmt: skip
        subgroups = subgroup_report(found.scores, test, weights, classes=found.classes)
        check, shortcut = fitted.lateral_check(material), fitted.shortcut(material, weights)
        together = top1(found, test.labels, weights, kind=kind)
        return cls(found, together, subgroups, shortcut, check, material.laterals.why, test)

    def row(self, row: dict[str, Any], seen: Seen | None) -> dict[str, Any]:
        """A row of `result_row` with what else is known of the test images."""
        check = {"why_not": self.why_unchecked} if self.check is None else self.check.to_dict()
        told = [*shortcut_warnings(self.shortcut["label_from_origin"]), *seen_warnings(seen)]
        return row | {
            "subgroups": self.subgroups,
            "shortcut": self.shortcut,
            "seen_before": None if seen is None else seen.to_dict(),
            "lateral_check": check,
            "metrics": row["metrics"] | shared(self.together),
            "warnings": [*row["warnings"], *told],
        }

    def result(self, row: dict[str, Any]) -> Result:
        """The row with the numbers behind it."""
        macro = {metric: self.found.macro(metric) for metric in self.found.values} | self.together
        labels = np.asarray(self.test.labels, np.float64)
        return Result(row, self.found.scores, self.found.probabilities, labels, self.test.codes(), macro)


def _predict(
    classifier: Classifier, images: ImageStore, rows: Rows, card: dict[str, Any], size: tuple[int, int],
    device: torch.device,
) -> Predicted:  # fmt: skip
    return predict(classifier, CentreViews(images, rows, out=size, mean=card["mean"], std=card["std"], device=device))


def _device(settings: FineTune) -> torch.device:
    return device_of("cpu" if settings.accelerator == "cpu" else None)
