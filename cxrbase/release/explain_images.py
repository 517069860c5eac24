"""Explains one image file: maps of a model folder or an encoder, as overlays at the resolution of the original."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxrbase.data.canvas import to_canvas
from cxrbase.data.decode import decode_uint8
from cxrbase.errors import ConfigError
from cxrbase.release.explain import METHODS, Method, explain
from cxrbase.release.explain_checks import UNCHANGED, follows_weights
from cxrbase.release.explained import Explained, open_explained
from cxrbase.release.overlay import write_overlay


def explain_image(
    model: str, image: str | Path, *, out: str | Path, methods: Sequence[Method] = METHODS, finding: str | None = None
) -> list[dict[str, Any]]:
    """Writes an overlay for each method, and checks that the map depends on the network.

    Args:
        model: A model folder of fine-tuning, or an encoder as of `load_any_encoder`.
        image: DICOM, PNG, JPEG ...
        out: Folder for <method>.png, made where it is missing.
        methods: Which.
        finding: Class of the model to explain; None takes the one with the highest probability. Encoders have none.

    Returns:
        For each method: method, file, finding, randomised (rank correlation with the map of shuffled weights), and
        follows_weights, whether that is low enough.

    Raises:
        ConfigError: The model has no such finding, there is no such method, a map exists already, or the image is a
            folder.
        DecodeError: The image cannot be read.
    """
    for method in methods:
        if method not in METHODS:
            raise ConfigError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if Path(image).is_dir():
        raise ConfigError(f"one image is explained at a time, and {image} is a folder: name a file in it")
    if there := [method for method in methods if (Path(out) / f"{method}.png").exists()]:
        raise ConfigError(f"{out} holds {there[0]}.png already: give another --out, or remove it")
    explained = open_explained(model)
    pixels = decode_uint8(image)
    # The network is fed as `cxrbase embed` feeds it, in reduced resolution; the overlay has the full one.
    canvas, taken = to_canvas(decode_uint8(image, min_side=explained.canvas_size), explained.canvas_size)
    view = explained.view(torch.from_numpy(canvas)[None, None], torch.tensor([taken]))
    name, score = explained.choose(view, finding)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    return [_one(explained, view, pixels, method, name, score, out) for method in methods]


def _one(
    explained: Explained, view: torch.Tensor, pixels: Any, method: Method, name: str | None, score: Any, out: Path
) -> dict[str, Any]:
    found = explain(explained.network, view, method=method, score=score)[0].cpu().numpy()
    path = out / f"{method}.png"
    write_overlay(pixels, np.asarray(found, np.float32), path, view=(view.shape[-2], view.shape[-1]))
    same = follows_weights(explained.network, view, method=method, score=score)
    return {
        "method": method,
        "file": str(path),
        "finding": name,
        "randomised": round(same, 3),
        "follows_weights": same < UNCHANGED,
    }
