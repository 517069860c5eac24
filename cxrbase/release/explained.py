"""One interface to everything that can be explained: a fine-tuned model with findings, or an encoder alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cxrbase.data.reading import Reading
from cxrbase.errors import ConfigError
from cxrbase.models import CARD_FILE, Model, load_model
from cxrbase.release.doubt import unproven
from cxrbase.release.explain import Score
from cxrbase.release.feature_warnings import feature_warnings
from cxrbase.sizes import longest
from cxrbase.views import centre_view
from cxrbase.weights import load_any_encoder
from cxrbase.weights_fit import Encoder


@dataclass(frozen=True)
class Explained:
    """A network and what it says about an image.

    Attributes:
        network: The encoder.
        canvas_size: Longest side that is read of an image, in pixels.
        reading: How files are read.
        view: From canvases (B, 1, C, C) uint8 and sizes (B, 2) to the input of the network.
        findings: Names of the classes; none of an encoder alone.
        score_of: The log-odds of a class as a function of all tokens.
        probabilities: (B, K) of the input.
        warnings: Words for what is odd about each image of the input.
        unproven: Findings that the model did not tell better than chance on its test patients, as of `unproven`.
        unlearnt: Findings that its training images could not teach, which have no probability and no map.
    """

    network: Encoder
    canvas_size: int
    reading: Reading
    view: Callable[[Tensor, Tensor], Tensor]
    findings: tuple[str, ...] = ()
    score_of: Callable[[int], Score] | None = None
    probabilities: Callable[[Tensor], Tensor] | None = None
    warnings: Callable[[Tensor], list[tuple[str, ...]]] | None = None
    unproven: tuple[str, ...] = ()
    unlearnt: tuple[str, ...] = ()

    def choose(self, view: Tensor, finding: str | None) -> tuple[str | None, Score | None]:
        """The finding to explain and its score; the most probable where none is named.

        Raises:
            ConfigError: There is no such finding.
        """
        if self.score_of is None or self.probabilities is None:
            if finding is not None:
                raise ConfigError(
                    f"an encoder knows no finding {finding!r}: give a model, which cxrbase fit makes of it on a task"
                )
            return None, None
        if finding is not None and finding not in self.findings:
            raise ConfigError(f"the model has no finding {finding!r}; it has {', '.join(self.findings)}")
        known = [name for name in self.findings if name not in self.unlearnt]
        if finding in self.unlearnt or not known:
            raise ConfigError(
                f"the model learnt nothing about {finding or 'any finding'}, as its training images had no examples "
                f"with and without it: choose another; it learnt {', '.join(known) or 'none'}"
            )
        index = self.findings.index(finding or self._likeliest(view, known))
        return self.findings[index], self.score_of(index)

    def _likeliest(self, view: Tensor, known: Sequence[str]) -> str:
        assert self.probabilities is not None
        with torch.inference_mode():
            chances = self.probabilities(view)[0].tolist()
        return max(known, key=lambda name: chances[self.findings.index(name)])


def is_model(name: str) -> bool:
    """Whether this is a fine-tuned model's folder or run, and not an encoder's."""
    path = Path(name)
    return (path / CARD_FILE).is_file() or (path / "model" / CARD_FILE).is_file()


def encoder_of(name: str) -> tuple[Encoder, dict[str, Any]]:
    """An encoder as of `load_any_encoder`, or that of a fine-tuned model, and its card."""
    if is_model(name):
        model = load_model(name)
        return model.network.encoder, dict(model.card["encoder"])
    return load_any_encoder(name)


def open_explained(model: str) -> Explained:
    """Opens a model folder, or anything that `load_any_encoder` takes."""
    if is_model(model):
        return _of_model(load_model(model))
    network, card = load_any_encoder(model)
    size = card["image_size"]
    mean, std = float(card["mean"]), float(card["std"])
    return Explained(
        network, 2 * longest(size), Reading.of(card), lambda c, s: centre_view(c, s, out=size, mean=mean, std=std)
    )


def _of_model(model: Model) -> Explained:
    classifier, prefix = model.network, int(model.network.encoder.num_prefix_tokens)

    def score_of(index: int) -> Score:
        def score(tokens: Tensor) -> Tensor:
            # The classifier's own forward cuts the gradient at a frozen encoder.
            return model.calibrated(classifier.head(tokens[:, prefix:]))[:, index]

        return score

    def warnings(view: Tensor) -> list[tuple[str, ...]]:
        return feature_warnings(model, model.features(view))[1]

    canvas = int(model.card.get("canvas_size") or 2 * longest(model.image_size))
    return Explained(
        classifier.encoder, canvas, model.reading, model.view, model.classes, score_of, model.probabilities, warnings,
        tuple(unproven(model.card)), tuple(name for name in model.classes if name not in model.learnt),
    )  # fmt: skip
