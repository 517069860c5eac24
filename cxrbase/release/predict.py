"""A fine-tuned model's probabilities for images, with warnings about each image."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any, Literal, TextIO

import torch
from tqdm import tqdm

from cxrbase.cores import available_cores
from cxrbase.devices import device_of
from cxrbase.errors import ConfigError
from cxrbase.models import Model, load_model
from cxrbase.release.feature_warnings import feature_warnings
from cxrbase.release.inputs import Item, Loaded, find_images, loaded_batches, warn_of_packs
from cxrbase.sizes import longest

Form = Literal["csv", "json"]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        path: As named.
        probabilities: Calibrated, by finding, None of one that training could not teach; None where the image could
            not be read.
        present: Whether each probability reaches the threshold that validation chose; None where it chose none, or
            there is no probability.
        distance: Of the features to those of the training images, about 1 for images like them.
        warnings: What is odd about the image.
        error: Why it could not be read, "" where it could.
    """

    path: str
    probabilities: dict[str, float | None] | None
    present: dict[str, bool | None] | None
    distance: float | None
    warnings: tuple[str, ...]
    error: str


@dataclass
class Written:
    """What a table holds: images, and of them those with warnings and those that could not be read."""

    images: int = 0
    warned: int = 0
    bad: int = 0


def predict(
    model: str | Path,
    images: Sequence[str],
    *,
    batch_size: int = 32,
    device: str | None = None,
    threads: int | None = None,
) -> Iterator[Prediction]:
    """Scores images in order.

    Args:
        model: A model folder or fine-tuning run.
        images: As of `find_images`.
        batch_size: Images per step.
        device: cpu, cuda ...; None takes a GPU where there is one.
        threads: That decode; None takes one per core.

    Raises:
        ConfigError: There is no such device.
        ModelError: There is no such model.
        ManifestError: There are no such images.
    """
    place = device_of(device)
    loaded, items = load_model(model), find_images(images)
    warn_of_packs(items, loaded.reading)
    loaded.network.to(place)
    # What cannot work is said now, and not when the first prediction is asked for.
    return _predictions(loaded, items, batch_size=batch_size, device=place, threads=threads or available_cores())


def _predictions(
    loaded: Model, items: Sequence[Item], *, batch_size: int, device: torch.device, threads: int
) -> Iterator[Prediction]:
    canvas = int(loaded.card.get("canvas_size") or 2 * longest(loaded.image_size))
    with tqdm(total=len(items), desc="predicting", unit="image", mininterval=1.0) as bar:
        for batch in loaded_batches(
            items, canvas_size=canvas, read=loaded.reading, batch_size=batch_size, threads=threads
        ):
            yield from predict_batch(loaded, batch, device=device)
            bar.update(len(batch))


def predict_batch(model: Model, batch: Sequence[Loaded], *, device: torch.device) -> list[Prediction]:
    """Predictions of read images, in order, unreadable ones included.

    Args:
        model: Whose network is on `device`.
        batch: As of `inputs.load`.
        device: Where it runs.
    """
    good = [image for image in batch if not image.error]
    scored: Iterator[tuple[list[float], float, tuple[str, ...]]] = iter(())
    if good:
        canvases = torch.stack([torch.from_numpy(image.canvas)[None] for image in good]).to(device)
        with torch.inference_mode():
            view = model.view(canvases, torch.tensor([image.taken for image in good], device=device))
            features = model.features(view)
            distances, odd = feature_warnings(model, features)
            scored = iter(zip(model.probabilities_of(features).cpu().tolist(), distances, odd, strict=True))
    return [_bad(image.item, image.error) if image.error else _one(model, image, *next(scored)) for image in batch]


def _bad(item: Item, error: str) -> Prediction:
    return Prediction(item.name, None, None, None, (), error)


def _one(model: Model, image: Loaded, probabilities: list[float], distance: float, odd: tuple[str, ...]) -> Prediction:
    # What the head gives for a class that it never learnt is where it started, and no probability.
    known = [value if name in model.learnt else None for name, value in zip(model.classes, probabilities, strict=True)]
    judged = zip(model.classes, known, model.thresholds, strict=True)
    present = {name: None if value is None or limit is None else value >= limit for name, value, limit in judged}
    named = dict(zip(model.classes, known, strict=True))
    return Prediction(image.item.name, named, present, distance, (*image.warnings, *odd), "")


def write_predictions(
    predictions: Iterable[Prediction], classes: Sequence[str], file: TextIO, *, form: Form
) -> Written:
    """Writes a table or a list of objects, row by row as they come.

    Args:
        predictions: In the order they shall have.
        classes: Findings, in the order of the columns.
        file: Open for text.
        form: csv or json.
    """
    if form not in ("csv", "json"):
        raise ConfigError(f"format must be csv or json, got {form!r}")
    written = Written()
    for row in (_json if form == "json" else _csv)(predictions, classes, file):
        written.images += 1
        written.warned += bool(row.warnings)
        written.bad += bool(row.error)
    return written


def _json(predictions: Iterable[Prediction], classes: Sequence[str], file: TextIO) -> Iterator[Prediction]:
    before = "[\n"
    for prediction in predictions:
        row = vars(prediction) | {"warnings": list(prediction.warnings)}
        file.write(before + indent(json.dumps(row, indent=2, allow_nan=False), "  "))
        before = ",\n"
        yield prediction
    file.write("[]\n" if before == "[\n" else "\n]\n")


def _csv(predictions: Iterable[Prediction], classes: Sequence[str], file: TextIO) -> Iterator[Prediction]:
    columns = ["path", *classes, *(f"present_{name}" for name in classes), "distance", "warnings", "error"]
    table = csv.writer(file, lineterminator="\n")
    table.writerow(columns)
    for prediction in predictions:
        table.writerow(_row(prediction, classes))
        yield prediction


def _row(prediction: Prediction, classes: Sequence[str]) -> list[Any]:
    chances, present = prediction.probabilities or {}, prediction.present or {}
    distance = "" if prediction.distance is None else f"{prediction.distance:.3f}"
    return [
        prediction.path,
        *("" if (chance := chances.get(name)) is None else f"{chance:.6f}" for name in classes),
        *("" if present.get(name) is None else int(bool(present[name])) for name in classes),
        distance,
        "; ".join(prediction.warnings),
        prediction.error,
    ]
