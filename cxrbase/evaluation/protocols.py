"""Scoring protocols for frozen features: linear probe or nearest neighbours, on all, some or a few labels."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from cxrbase.errors import ConfigError, EncoderError
from cxrbase.evaluation.cohort import Splits
from cxrbase.evaluation.knn import knn_scores
from cxrbase.evaluation.linear import GRID, LinearProbe
from cxrbase.evaluation.shots import FRACTIONS, SHOTS, fraction, k_shot

Floats = npt.NDArray[np.float64]
Features = Mapping[str, npt.NDArray[np.float32]]

NEIGHBOURS = 20
_FLOOR = 1e-6  # shares of neighbours of 0 and 1 have no log-odds


@dataclass(frozen=True)
class Protocol:
    """A way to score frozen features.

    Args:
        head: `linear` or `knn`.
        shots: Patients per class and label to learn from; None for all.
        share: Share of the training patients to learn from, in (0, 1].
    """

    head: Literal["linear", "knn"] = "linear"
    shots: int | None = None
    share: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "Protocol":
        """Reads `linear`, `knn`, `linear-4shot` or `linear-10%`; ConfigError for anything else."""
        found = re.fullmatch(r"(linear|knn)(?:-(?:(\d{1,6})shot|(\d{1,2}(?:\.\d{1,3})?|100)%))?", text)
        if not found or found[2] == "0" or (found[3] and float(found[3]) == 0):
            raise ConfigError(
                f"a protocol is linear or knn, with or without a share or number of labels, such as linear-10% or "
                f"linear-4shot; got {text!r}"
            )
        head: Literal["linear", "knn"] = "linear" if found[1] == "linear" else "knn"
        return cls(head, int(found[2]) if found[2] else None, float(found[3] or 100) / 100)

    @property
    def name(self) -> str:
        """Short name, as `parse` takes it."""
        if self.shots is not None:
            return f"{self.head}-{self.shots}shot"
        return self.head if self.share == 1 else f"{self.head}-{self.share * 100:g}%"

    @property
    def drawn(self) -> bool:
        """Whether the images to learn from are drawn, so that seeds matter."""
        return self.shots is not None or self.share < 1

    def describe(self) -> str:
        """What is done, in a sentence for a result row."""
        if self.shots is not None:
            learnt = f"{self.shots} patients per class and label"
        else:
            learnt = "all training images" if self.share == 1 else f"{self.share * 100:g} % of the training patients"
        head = (
            f"logistic regression, C of {len(GRID)} values from {min(GRID):g} to {max(GRID):g} by validation AUROC"
            if self.head == "linear"
            else f"{NEIGHBOURS} nearest neighbours by cosine of whitened features"
        )
        return f"frozen features; {head}; learns from {learnt}; the whole validation split chooses"


@dataclass(frozen=True, eq=False)
class Scored:
    """Log-odds of one protocol.

    Args:
        protocol: What was done.
        seed: Of the draw of the training images.
        val: (V, K) of the validation images.
        test: (N, K) of the test images; NaN columns for classes that could not be learnt.
        images: Number of images learnt from.
        regularisation: C by class of the linear probe; empty for neighbours.
    """

    protocol: Protocol
    seed: int
    val: Floats
    test: Floats
    images: int
    regularisation: tuple[float, ...] = ()


def standard_protocols() -> list[Protocol]:
    """Neighbours and linear probe on everything, then the linear probe on few labels."""
    whole = [Protocol("knn"), Protocol("linear")]
    return whole + [Protocol(share=share) for share in FRACTIONS] + [Protocol(shots=k) for k in SHOTS]


def score(features: Features, splits: Splits, protocol: Protocol, *, seed: int) -> Scored:
    """Learns on training features, chooses on validation and gives log-odds of validation and test images.

    Args:
        features: `train`, `val` and `test`, (N, D) each, in the order of the splits.
        splits: Labels and patients.
        protocol: What to do.
        seed: Of the draw of few images.

    Raises:
        EncoderError: If features are not finite or do not fit the splits.
    """
    check_features(features, splits)
    rows, labels = np.arange(len(splits.train)), np.asarray(splits.train.labels, np.float64)
    if protocol.shots is not None:
        rows, labels = k_shot(splits.train, protocol.shots, seed=seed)
    elif protocol.drawn:
        rows = fraction(splits.train, protocol.share, seed=seed)
        labels = labels[rows]
    learnt = (labels == 1).any(0) & (labels == 0).any(0)
    if not learnt.any():
        none = [np.full((len(part), len(splits.classes)), np.nan) for part in (splits.val, splits.test)]
        return Scored(protocol, seed, none[0], none[1], len(rows))
    labels = np.where(learnt, labels, np.nan)
    base = features["train"][rows]
    if protocol.head == "linear":
        probe = LinearProbe().fit(base, labels, features["val"], splits.val.labels)
        val, test = probe.scores(features["val"]), probe.scores(features["test"])
        return Scored(protocol, seed, val, test, len(rows), tuple(probe.regularisation.tolist()))
    asked = np.concatenate([features["val"], features["test"]])
    scores = _log_odds(knn_scores(base, labels, asked, k=NEIGHBOURS))
    return Scored(protocol, seed, scores[: len(splits.val)], scores[len(splits.val) :], len(rows))


def _log_odds(shares: npt.NDArray[np.float32]) -> Floats:
    chances = np.clip(shares.astype(np.float64), _FLOOR, 1 - _FLOOR)
    return np.asarray(np.log(chances) - np.log1p(-chances), np.float64)


def check_features(features: Features, splits: Splits) -> None:
    """Refuses features that are not finite or not of these splits, with an EncoderError."""
    for name, part in splits.parts():
        table, wanted = features[name], (len(part), features["train"].shape[-1])
        if table.shape != wanted:
            raise EncoderError(
                f"features of the {name} split must be {wanted}, got {table.shape}: "
                "they are of other images or another encoder"
            )
        if not np.isfinite(table).all():
            raise EncoderError(f"features of {name} images must be finite, got NaN or infinity: the encoder diverged")
