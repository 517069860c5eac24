"""What the page shows for an upload: the network's input, probabilities, a map, neighbours."""

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cxrbase.data.canvas import to_canvas
from cxrbase.data.reading import Reading
from cxrbase.evaluation.features import pool_tokens
from cxrbase.release.demo.neighbours import Neighbours
from cxrbase.release.doubt import in_words
from cxrbase.release.explain import explain
from cxrbase.release.explained import open_explained
from cxrbase.release.overlay import overlay, to_original
from cxrbase.release.warnings import image_warnings
from cxrbase.report_parts import png_address
from cxrbase.states import state_hash

# Longest side of a picture that is sent to the page, in pixels.
_SHOWN = 768


class Analysis:
    """A model and, where there is one, a table of features to look for neighbours in.

    Args:
        model: As of `open_explained`.
        features: Table of `cxrbase embed` of the same network; None for no neighbours.
    """

    def __init__(self, model: str, *, features: str | None = None) -> None:
        self.model = open_explained(model)
        self.neighbours: Neighbours | None = None
        if features is not None:
            self.neighbours = Neighbours(features, weights_sha256=state_hash(self.model.network.state_dict()))

    def __call__(self, data: bytes) -> dict[str, Any]:
        """Everything that the page shows.

        Args:
            data: Bytes of an image file; they are on disk only while they are decoded.

        Raises:
            DecodeError: They are no image, or one that cannot be read.
        """
        pixels, reduced = _decode(data, self.model.reading, self.model.canvas_size)
        canvas, taken = to_canvas(reduced, self.model.canvas_size)
        view = self.model.view(torch.from_numpy(canvas)[None, None], torch.tensor([taken]))
        finding, score = self.model.choose(view, None)
        found = explain(self.model.network, view, method="relevance", score=score)[0].numpy()
        small = _small(pixels)
        shape, fed = (small.shape[0], small.shape[1]), (view.shape[-2], view.shape[-1])
        coloured = overlay(small, to_original(np.asarray(found, np.float32), shape, view=fed))
        return {
            "input": _png(_grey(view[0, 0])),
            "map": _png(coloured),
            "explained": finding or "the features as a whole",
            "probabilities": self._probabilities(view),
            "warnings": [*image_warnings(pixels), *self._odd(view), *filter(None, [in_words(self.model.unproven)])],
            "neighbours": self._nearest(view),
        }

    def _probabilities(self, view: torch.Tensor) -> list[dict[str, Any]]:
        if self.model.probabilities is None:
            return []
        with torch.inference_mode():
            values = self.model.probabilities(view)[0].tolist()
        named = zip(self.model.findings, values, strict=True)
        return [{"finding": name, "value": None if name in self.model.unlearnt else value} for name, value in named]

    def _odd(self, view: torch.Tensor) -> tuple[str, ...]:
        if self.model.warnings is None:
            return ()
        with torch.inference_mode():
            return self.model.warnings(view)[0]

    def _nearest(self, view: torch.Tensor) -> list[dict[str, Any]]:
        if self.neighbours is None:
            return []
        with torch.inference_mode():
            tokens = self.model.network.forward_features(view)
            features = pool_tokens(self.model.network, tokens)[0].numpy()
        # The name only: where a file lies is not for a picture of the page.
        return [{"name": Path(name).name, "similarity": value} for name, value in self.neighbours.nearest(features)]


def _decode(data: bytes, read: Reading, canvas_size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The image in full size, and as `cxrbase embed` reads it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload"
        path.write_bytes(data)
        return read(path), read(path, min_side=canvas_size)


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    image.thumbnail((_SHOWN, _SHOWN))
    return np.asarray(image)


def _grey(view: torch.Tensor) -> NDArray[np.uint8]:
    low, high = view.min(), view.max()
    return np.asarray(((view - low) / (high - low).clamp(min=1e-6) * 255).byte().numpy())


def _png(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return png_address(file.getvalue())
