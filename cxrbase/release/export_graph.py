"""Exports an encoder as a program for any batch size: ONNX, checked in onnxruntime, or torch.export."""

import contextlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import Dim

from cxrbase.errors import ConfigError, EncoderError
from cxrbase.release.compare import Features, difference, sample
from cxrbase.release.package import WEIGHTS
from cxrbase.states import write_state
from cxrbase.weights_fit import Encoder

ONNX = "encoder.onnx"
PROGRAM = "encoder.pt2"
# Released with ONNX 1.15; onnxruntime 1.17 and later run it.
OPSET = 20
# Batch sizes that a program is compared at; it is traced at 2.
_BATCHES = (1, 2, 5)
_MOST_IN_ONNX = 1_500_000_000  # bytes, above which torch writes a second file


def write_onnx(network: Encoder, card: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Writes encoder.onnx, `images` to `features` and `patch_tokens`, and compares it with torch in onnxruntime.

    Args:
        network: The encoder.
        card: Its description.
        folder: An empty folder.

    Returns:
        max_difference over several batch sizes, checked_with and opset.

    Raises:
        ConfigError: A package is not installed.
        EncoderError: The network cannot be traced.
    """
    lacking = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if lacking:
        raise ConfigError(f"--to onnx needs {', '.join(lacking)}: pip install 'cxrbase[export]'")
    large = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    if large > _MOST_IN_ONNX:
        raise EncoderError(
            f"the network has {large / 1e9:.1f} GB of weights, and one ONNX file can hold {_MOST_IN_ONNX / 1e9:.1f}: "
            "use --to torch"
        )
    module = Features(network).eval()
    with _explained("ONNX"), _silent():
        torch.onnx.export(
            module, (sample(card, batch=2),), folder / ONNX, input_names=["images"],
            output_names=["features", "patch_tokens"], opset_version=OPSET, dynamo=True, external_data=False,
            dynamic_shapes={"images": {0: Dim("batch", min=1)}}, verbose=False,
        )  # fmt: skip
    _strip(folder / ONNX)
    write_state(folder / WEIGHTS, network.state_dict())
    return _in_onnxruntime(module, card, folder)


def write_program(network: Encoder, card: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Writes encoder.pt2, a program of torch.export, loads it again and compares it at several batch sizes.

    Args:
        network: The encoder.
        card: Its description.
        folder: An empty folder.

    Returns:
        max_difference over several batch sizes and checked_with.

    Raises:
        EncoderError: The network cannot be traced.
    """
    module = Features(network).eval()
    with _explained("torch"):
        program = torch.export.export(
            module, (sample(card, batch=2),), dynamic_shapes={"images": {0: Dim("batch", min=1)}}
        )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # names files of this machine
        torch.export.save(program, folder / PROGRAM)
    again = torch.export.load(folder / PROGRAM).module()
    write_state(folder / WEIGHTS, network.state_dict())
    worst = 0.0
    for batch in _BATCHES:
        images = sample(card, batch=batch)
        with torch.inference_mode():
            worst = max(worst, *map(difference, module(images), again(images)))
    return {"max_difference": worst, "checked_with": f"torch {torch.__version__}"}


def _strip(path: Path) -> None:
    """Takes out where in the source each operation comes from, which names files of this machine."""
    import onnx

    model = onnx.load(path)
    for node in model.graph.node:
        del node.metadata_props[:]
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _in_onnxruntime(module: Features, card: dict[str, Any], folder: Path) -> dict[str, Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in _BATCHES:
        images = sample(card, batch=batch)
        with torch.inference_mode():
            ours = module(images)
        theirs = [torch.from_numpy(np.asarray(part)) for part in session.run(None, {"images": images.numpy()})]
        worst = max(worst, *map(difference, ours, theirs))
    return {"max_difference": worst, "checked_with": f"onnxruntime {onnxruntime.__version__}", "opset": OPSET}


@contextlib.contextmanager
def _explained(target: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, TypeError, ValueError, torch._dynamo.exc.TorchDynamoException) as error:
        reason = " ".join(str(error).split())[:200]
        raise EncoderError(f"the network cannot be written as a program of {target}: {reason}") from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The exporter reports each of its passes to the user, who asked for a file."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(before)
