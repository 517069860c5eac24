"""Recognises lateral images among a model's inputs, by logistic regression on the model's own features."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrbase.evaluation.linear import LinearProbe

FALSE_ALARMS = 0.01  # largest share of frontal validation images that may be taken for lateral ones
FEWEST = 10  # lateral images to learn from; fewer say nothing about the next one

Features = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LateralCheck:
    """A linear score of pooled features, and from where on an image is perhaps lateral.

    Args:
        weight: (D,) float64, of the features as they are.
        bias: Added to the weighted sum, so that the score is the log-odds of a lateral image.
        threshold: A score above it counts as lateral; at most 1 % of the frontal validation images have one.
        counts: Of `train`, frontal and lateral images; of `val` also how many of each were taken for lateral.
    """

    weight: Tensor
    bias: float
    threshold: float
    counts: dict[str, dict[str, int]]

    @classmethod
    def of(cls, train: Features, train_lateral: Features, val: Features, val_lateral: Features) -> "LateralCheck":
        """Fits on frontal and lateral training images and chooses regularisation and threshold on validation images.

        Args:
            train: (N, D) features of frontal images.
            train_lateral: (M, D), at least `FEWEST`.
            val: (V, D) of frontal images of other patients, at least one.
            val_lateral: (W, D), perhaps none.
        """
        probe = LinearProbe().fit(*_labelled(train, train_lateral), *_labelled(val, val_lateral))
        weights, biases = probe.unscaled()
        frontal, lateral = (probe.scores(features)[:, 0] for features in (val, val_lateral))
        threshold = _threshold(frontal, lateral)
        counts = {
            "train": {"frontal": len(train), "lateral": len(train_lateral)},
            "val": {
                "frontal": len(val),
                "lateral": len(val_lateral),
                "flagged_frontal": int((frontal > threshold).sum()),
                "flagged_lateral": int((lateral > threshold).sum()),
            },
        }
        return cls(torch.from_numpy(weights[0].copy()), float(biases[0]), threshold, counts)

    def flags(self, features: Tensor) -> Tensor:
        """Whether each image is perhaps lateral, (B,) bool, of features (B, D)."""
        return features.double().cpu() @ self.weight.double() + self.bias > self.threshold

    def to_dict(self) -> dict[str, Any]:
        """All but the weights, with the shares that the counts of validation give; a share of no images is None."""
        val = self.counts["val"]
        shares = {
            "false_alarms": val["flagged_frontal"] / val["frontal"],
            "sensitivity": val["flagged_lateral"] / val["lateral"] if val["lateral"] else None,
        }
        return {"bias": self.bias, "threshold": self.threshold, **self.counts, **shares}


def _labelled(frontal: Features, lateral: Features) -> tuple[Features, NDArray[np.float64]]:
    labels = np.repeat([0.0, 1.0], [len(frontal), len(lateral)])[:, None]
    return np.concatenate([frontal, lateral]), labels


def _threshold(frontal: NDArray[np.float64], lateral: NDArray[np.float64]) -> float:
    """Midway between the last frontal score that must stay below and the next lateral one above it.

    Where they are far apart this leaves both sides room; without a lateral one it is just above the frontal score.
    """
    lowest = float(np.sort(frontal)[::-1][int(FALSE_ALARMS * len(frontal))])
    # The same image must stay below when its score is summed up in another order.
    lowest += 1e-6 * (1 + abs(lowest))
    above = lateral[lateral > lowest]
    return (lowest + float(above.min())) / 2 if len(above) else lowest


def in_words(told: dict[str, Any] | None) -> str:
    """What `LateralCheck.to_dict`, or the reason for having none, says to a person."""
    if told is None or "why_not" in told:
        return f"views are not checked: {'not recorded' if told is None else told['why_not']}"
    val = told["val"]
    return (
        f"a warning for {val['flagged_lateral']:,} of {val['lateral']:,} lateral and {val['flagged_frontal']:,} of "
        f"{val['frontal']:,} frontal images of validation patients"
    )
