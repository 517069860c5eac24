"""Scores frozen encoders on the images of a task: images seen before, features, and result rows on disk."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cxrbase.data.dataset import ImageStore
from cxrbase.data.manifest import Manifest
from cxrbase.data.reading import Reading
from cxrbase.evaluation.cohort import Splits
from cxrbase.evaluation.protocols import Protocol
from cxrbase.evaluation.suite.feature_store import FeatureStore
from cxrbase.evaluation.suite.results import Result, read_results, write_result
from cxrbase.evaluation.suite.score_task import Settings, score_task, splits_of
from cxrbase.evaluation.suite.seen import Seen, leave_out, seen_by
from cxrbase.evaluation.task_data import Rows, TaskData
from cxrbase.evaluation.task_images import open_images
from cxrbase.sizes import longest
from cxrbase.weights_fit import Encoder

logger = logging.getLogger(__name__)

_SAID = ("timm_name", "image_size", "mean", "std", "window", "crop_borders", "format", "objective", "images_seen")


@dataclass(frozen=True, eq=False)
class NamedEncoder:
    """An encoder to score.

    Args:
        name: What it is called in the results.
        place: Where it is from, as `load_any_encoder` takes it.
        network: The network.
        card: Its description.
    """

    name: str
    place: str
    network: Encoder
    card: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Trial:
    """An encoder and a task, ready to be scored.

    Args:
        encoder: The encoder.
        data: The task.
        settings: What to run.
        images: The images of the task, of a size that the encoder takes.
        splits: What is learnt from, what chooses and what is scored, without images that cannot be read.
        rows: Their rows in the manifest of the task, by split.
        seen: Which test images the encoder was pretrained on; None where that was not looked for.
    """

    encoder: NamedEncoder
    data: TaskData
    settings: Settings
    images: ImageStore
    splits: Splits
    rows: dict[str, Rows]
    seen: Seen | None


def prepare(
    encoders: Sequence[NamedEncoder],
    data: TaskData,
    settings: Settings,
    *,
    out: Path,
    canvas: Path | None = None,
    bad_option: str = "--evaluate.max_bad",
) -> list[Trial]:
    """Opens the images for each encoder and looks for those that it has seen, before any is scored.

    Args:
        encoders: All that are to be compared on the same test images: what one of them has seen is left out for all,
            where the settings ask for that.
        data: The task.
        settings: What to run.
        out: Folder with `fingerprints.parquet`.
        canvas: Where decoded images are kept; None takes `canvas` in `out`.
        bad_option: Option of the command line that sets `max_bad`, for messages.

    Raises:
        ConfigError: No test image would be left.
    """
    opening = {"cache_dir": canvas or out / "canvas", "option": "--out", "bad_option": bad_option}
    trials = [_trial(encoder, data, settings, out, opening) for encoder in encoders]
    if not settings.leave_out_seen:
        return trials
    kept = leave_out([(trial.seen, trial.rows["test"]) for trial in trials])
    return [replace(trial, seen=seen) for trial, seen in zip(trials, kept, strict=True)]


def score_encoder(
    encoder: NamedEncoder,
    data: TaskData,
    settings: Settings,
    *,
    out: Path,
    canvas: Path | None = None,
    device: str = "cpu",
    bad_option: str = "--evaluate.max_bad",
) -> list[Result]:
    """Scores one encoder on one task and writes its results; what an earlier run finished is taken from there.

    Args:
        encoder: The encoder.
        data: The task.
        settings: What to run.
        out: Folder with `results`, `features` and `fingerprints.parquet`.
        canvas: Where decoded images are kept; None takes `canvas` in `out`.
        device: Where the encoder runs.
        bad_option: Option of the command line that sets `max_bad`, for messages.
    """
    (trial,) = prepare([encoder], data, settings, out=out, canvas=canvas, bad_option=bad_option)
    return score_trial(trial, out=out, device=device)


def score_trial(trial: Trial, *, out: Path, device: str = "cpu") -> list[Result]:
    """The same of an encoder whose images are open.

    Args:
        trial: Of `prepare`.
        out: As for `score_encoder`.
        device: Where the encoder runs.
    """
    encoder, card, task = trial.encoder, trial.encoder.card, trial.data.task
    store = FeatureStore(
        encoder.network, card, manifest=trial.data.manifest, images=trial.images, folder=out / "features", device=device
    )
    features = {split: store.features(own, name=f"{encoder.name} {split}") for split, own in trial.rows.items()}
    said = {"name": encoder.name, "hash": store.encoder_hash} | {key: card[key] for key in _SAID if key in card}
    folder = out / "results"
    done = {result.row["key"]: result for result in read_results(folder, task=task.name, encoder=encoder.name)}
    results = []
    for result in score_task(
        features, trial.splits, encoder=said, task=_about(trial, store.data_hash), settings=trial.settings,
        seen=trial.seen, done=done,
    ):  # fmt: skip
        write_result(result, folder)
        results.append(result)
    whole = [result for result in results if not Protocol.parse(result.row["protocol"]).drawn]
    for warning in dict.fromkeys(w for result in whole for w in result.row["warnings"]):
        logger.warning("%s on %s: %s", encoder.name, task.name, warning)
    return results


def _trial(encoder: NamedEncoder, data: TaskData, settings: Settings, out: Path, opening: Mapping[str, Any]) -> Trial:
    size, read = 2 * longest(encoder.card["image_size"]), Reading.of(encoder.card)
    images = open_images(data, size=size, read=read, max_bad=settings.max_bad, limit_gb=settings.cache_gb, **opening)
    splits, rows = splits_of(data, images.rows)
    test = Manifest(data.manifest.table.take(rows["test"]), data.manifest.root)
    prints, root = out / "fingerprints.parquet", data.task.data.root
    seen = seen_by(encoder.place, test, look=settings.seen, cache=prints, root=root)
    return Trial(encoder, data, settings, images, splits, rows, seen)


def _about(trial: Trial, data_hash: str) -> dict[str, Any]:
    """What is said of the task in each row."""
    data, task = trial.data, trial.data.task
    warnings = [*data.warnings, *Reading.of(trial.encoder.card).unlike(trial.images.reading)]
    return {
        "name": task.name, "title": task.title, "kind": task.kind, "classes": list(data.classes),
        "labels": data.label_counts, "label_checksum": data.label_checksum, "data_hash": data_hash,
        "manifest_hash": trial.data.manifest.fingerprint(),  # patients and groups, which intervals and gaps are made of
        "policy": {"uncertain": task.uncertain, "soft_value": task.soft_value, "blank": task.blank},
        "unreadable": len(data.manifest) - len(trial.images.rows), "warnings": warnings,
    }  # fmt: skip
