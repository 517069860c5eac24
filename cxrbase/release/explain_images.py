"""Explains one image file: maps of a model folder or an encoder, as overlays at the resolution of the original."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxrbase.data.canvas import to_canvas
from cxrbase.errors import ConfigError
from cxrbase.release.explain import Score, explain
from cxrbase.release.explain_checks import UNCHANGED, follows_weights
from cxrbase.release.explained import Explained, open_explained
from cxrbase.release.methods import METHODS, Method, check_method
from cxrbase.release.outputs import local_place
from cxrbase.release.overlay import write_overlay
from cxrbase.release.overview import overview

OVERVIEW = "overview.png"
# What is said of a map that follows the weights, of one that does not, and of one that cannot be compared.
_NOTES = {True: "", False: "does not change with the weights", None: "not compared: the same everywhere"}


def explain_image(
    model: str, image: str | Path, *, out: str | Path, methods: Sequence[Method] = METHODS, finding: str | None = None
) -> list[dict[str, Any]]:
    """Writes an overlay for each method, and checks that the map depends on the network.

    Args:
        model: A model folder of fine-tuning, or an encoder as of `load_any_encoder`.
        image: DICOM, PNG, JPEG ...
        out: Folder for <method>.png and `OVERVIEW`, where all of them have a scale; made where it is missing.
        methods: Which.
        finding: Class of the model to explain; None takes the one with the highest probability. Encoders have none.

    Returns:
        For each method: method, file, finding, randomised (rank correlation with the map of shuffled weights), and
        follows_weights, whether that is low enough; both None where one of the maps is the same everywhere.

    Raises:
        ConfigError: The model has no such finding, there is no such method, a map exists already, or the image is a
            folder.
        DecodeError: The image cannot be read.
    """
    methods = list(dict.fromkeys(methods))
    if not methods:
        raise ConfigError(f"no method is named: take some of {', '.join(METHODS)}")
    for method in methods:
        check_method(method)
    if Path(image).is_dir():
        raise ConfigError(f"one image is explained at a time, and {image} is a folder: name a file in it")
    out = local_place(out)
    names = [OVERVIEW, *(f"{method}.png" for method in methods)]
    if there := [name for name in names if (out / name).exists()]:
        raise ConfigError(f"{out} holds {there[0]} already: give another --out, or remove it")
    explained = open_explained(model)
    pixels = explained.reading(image)
    # The network is fed as `cxrbase embed` feeds it, in reduced resolution; the overlay has the full one.
    canvas, taken = to_canvas(explained.reading(image, min_side=explained.canvas_size), explained.canvas_size)
    view = explained.view(torch.from_numpy(canvas)[None, None], torch.tensor([taken]))
    name, score = explained.choose(view, finding)
    out.mkdir(parents=True, exist_ok=True)
    fed = (view.shape[-2], view.shape[-1])
    rows, maps = [], []
    for method in methods:
        found = explain(explained.network, view, method=method, score=score)[0].cpu().numpy()
        maps.append((method, np.asarray(found, np.float32)))
        write_overlay(pixels, maps[-1][1], out / f"{method}.png", view=fed)
        rows.append(_row(explained, view, method, name, score, out))
    notes = [_NOTES[row["follows_weights"]] for row in rows]
    figure = overview(pixels, maps, view=fed, about=_about(explained, view, name), notes=notes)
    figure.savefig(out / OVERVIEW, dpi=100)
    return rows


def _row(
    explained: Explained, view: torch.Tensor, method: Method, name: str | None, score: Score | None, out: Path
) -> dict[str, Any]:
    same = follows_weights(explained.network, view, method=method, score=score)
    return {
        "method": method,
        "file": str(out / f"{method}.png"),
        "finding": name,
        "randomised": None if math.isnan(same) else round(same, 3),
        "follows_weights": None if math.isnan(same) else same < UNCHANGED,
    }


def _about(explained: Explained, view: torch.Tensor, name: str | None) -> str:
    if name is None or explained.probabilities is None:
        return "what the features of the encoder rest on"
    with torch.inference_mode():
        chance = float(explained.probabilities(view)[0, explained.findings.index(name)])
    doubt = ", which this model did not tell better than chance" if name in explained.unproven else ""
    return f"{name}, probability {chance:.2f}{doubt}"
