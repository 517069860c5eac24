"""Exports an encoder as a folder for timm, transformers, onnxruntime or torch, and checks it in that program."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from cxrbase import __version__
from cxrbase.errors import ConfigError, EncoderError
from cxrbase.release import export_graph, export_timm, export_transformers
from cxrbase.release.card import model_card
from cxrbase.release.explained import is_model
from cxrbase.release.outputs import local_place
from cxrbase.release.package import WEIGHTS, preprocessing, read_licence, write_checksums
from cxrbase.weights import load_any_encoder
from cxrbase.weights_fit import Encoder

Target = Literal["timm", "hf", "onnx", "torch"]

# Largest difference of features that rounding in float32 explains, relative to the largest feature.
TOLERANCE = 1e-4


def export(encoder: str, *, to: Target, out: str | Path, licence: str = "Apache-2.0") -> dict[str, Any]:
    """Exports an encoder, opens the result with what it is made for, and compares the features.

    Every folder holds model.safetensors, encoder.json, preprocessing.json, README.md (the model card), LICENSE and
    SHA256SUMS; `cxrbase.load_encoder` reads all of them. A folder appears complete or not at all.

    Args:
        encoder: A run folder, or anything that `load_any_encoder` takes.
        to: timm: a folder for `local-dir:` of timm, which transformers' AutoModel opens too where timm is installed;
            hf: transformers' own ViTModel and image processor; onnx: encoder.onnx; torch: encoder.pt2, a program of
            torch.export.
        out: Folder that does not exist yet, or is empty.
        licence: Of the weights: an SPDX name, or a file with the text.

    Returns:
        What was measured: `max_difference` of the features between both, `checked_with`, and for onnx `opset`.

    Raises:
        ConfigError: The folder holds something, a fine-tuned model is given, or a package that checks the result is not
            installed.
        EncoderError: The encoder cannot be read, the format cannot hold it, or the result differs.
    """
    writers: dict[str, Callable[[Encoder, dict[str, Any], Path], dict[str, Any]]] = {
        "timm": export_timm.write,
        "hf": export_transformers.write,
        "onnx": export_graph.write_onnx,
        "torch": export_graph.write_program,
    }
    if to not in writers:
        raise ConfigError(f"--to must be one of {', '.join(writers)}, got {to!r}")
    out = local_place(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not an empty folder: give another --out")
    if is_model(encoder):
        raise ConfigError(f"{encoder} is a fine-tuned model: export the encoder that it was made from")
    network, card = load_any_encoder(encoder)
    card = _exported(card, to)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary) / "export"
        folder.mkdir()
        result = writers[to](network, card, folder)
        if result["max_difference"] > TOLERANCE:
            raise EncoderError(
                f"the features of the exported {to} model differ by {result['max_difference']:.2g} of the largest, "
                f"more than {TOLERANCE:g}: nothing was written; please report the network, {card['timm_name']}"
            )
        _describe(folder, card, Path(encoder), result, licence)
        if out.is_dir():
            out.rmdir()
        shutil.move(folder, out)
    return result


def _exported(card: dict[str, Any], to: Target) -> dict[str, Any]:
    arguments = {key: value for key, value in card["timm_args"].items() if key != "dynamic_img_size"}
    return {**card, "timm_args": arguments, "weights": WEIGHTS, "exported_to": to, "exported_by": __version__}


def _describe(folder: Path, card: dict[str, Any], encoder: Path, result: dict[str, Any], licence: str) -> None:
    """Writes everything that stands beside the network."""
    # The path that the weights were read from is nobody's business elsewhere.
    told = {key: value for key, value in card.items() if key != "source"}
    (folder / "encoder.json").write_text(json.dumps(told, indent=2) + "\n")
    (folder / "preprocessing.json").write_text(json.dumps(preprocessing(card), indent=2) + "\n")
    name, text = read_licence(licence)
    (folder / "LICENSE").write_text(text)
    (folder / "README.md").write_text(model_card(encoder, card, licence=name, export=result))
    write_checksums(folder)
