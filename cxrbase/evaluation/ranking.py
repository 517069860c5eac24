"""Ranking metrics over many resamples at once: AUROC, average precision, sensitivity."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]

_CHUNK_ELEMENTS = 2**22  # of one float32 temporary: 16 MB, of which a handful are alive at once
RANKED = ("auroc", "auprc", "sensitivity_at_specificity")


def ranked_metrics(
    scores: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike, *, specificity: float = 0.95
) -> dict[str, Floats]:
    """Metrics that only depend on the order of the scores, of each class in each resample, exact under ties.

    Args:
        scores: (N, K), higher means more likely present. A class whose column is NaN throughout has no scores.
        labels: (N, K), 1 present, 0 absent, NaN unknown (such images are left out for that class).
        weights: (R, N) non-negative whole multiplicities, such as `cluster_weights` gives.
        specificity: In (0, 1); the best sensitivity among thresholds with at least this specificity is taken.

    Returns:
        `auroc`, `auprc` (average precision, without interpolation) and `sensitivity_at_specificity`, each (R, K); NaN
        where the resample has no positive or no negative of the class.

    Raises:
        ValueError: If shapes differ, a label is none of 1, 0 and NaN, some scores of a class are NaN, or the
            specificity is out of range.
    """
    if not 0.0 < specificity < 1.0:
        raise ValueError(f"specificity must be in (0, 1), got {specificity}")
    scores, labels, weights = np.asarray(scores, np.float64), np.asarray(labels, np.float64), np.asarray(weights)
    check_scores(scores, labels, weights)
    orders = [_Order(scores[:, column], labels[:, column]) for column in range(scores.shape[1])]
    result = {name: np.full((len(weights), len(orders)), np.nan) for name in RANKED}
    rows = max(1, _CHUNK_ELEMENTS // max(1, len(scores)))
    for start in range(0, len(weights), rows):
        part = slice(start, start + rows)
        # Images first: an order then picks whole rows. float32 is exact for counts below 2**24.
        multiplicity = torch.from_numpy(np.ascontiguousarray(weights[part].T, dtype=np.float32))
        for column, order in enumerate(orders):
            if order.defined:
                for name, values in zip(RANKED, order.metrics(multiplicity, specificity), strict=True):
                    result[name][part, column] = values
    return result


def check_scores(scores: Floats, labels: Floats, weights: npt.NDArray[np.generic]) -> None:
    """Refuses scores (N, K), labels (N, K) and weights (R, N) that do not belong together; see `ranked_metrics`."""
    if scores.ndim != 2 or scores.shape != labels.shape or weights.shape[1:] != scores.shape[:1]:
        shapes = f"{scores.shape}, {labels.shape} and {weights.shape}"
        raise ValueError(f"scores, labels and weights must be (N, K), (N, K) and (R, N), got {shapes}")
    if not (np.isnan(labels) | (labels == 0) | (labels == 1)).all():
        raise ValueError("labels must be 1, 0 or NaN")
    missing = np.isnan(scores)
    if (missing.any(0) & ~missing.all(0)).any():
        raise ValueError("scores of a class must be all NaN (no scores) or none of them NaN")


class _Order:
    """One class: where each image stands among the distinct scores of the positives, the highest first."""

    def __init__(self, scores: Floats, labels: Floats) -> None:
        positive, negative = labels == 1, labels == 0
        self.defined = bool(positive.any() and negative.any() and not np.isnan(scores).all())
        levels = np.unique(-scores[positive])
        self.levels = len(levels)
        # A negative above level 0 is in lump 0, one at level 0 in lump 1, one below it and above level 1 in lump 2 ...
        # Those of one lump always go together, so only their sum is kept.
        lumps = np.searchsorted(levels, -scores[negative], "left") + np.searchsorted(levels, -scores[negative], "right")
        self.positive, self.negative = torch.from_numpy(positive), torch.from_numpy(negative)
        self.places = torch.from_numpy(np.searchsorted(levels, -scores[positive]))
        self.lumps = torch.from_numpy(lumps)

    def metrics(self, multiplicity: Tensor, specificity: float) -> tuple[Floats, Floats, Floats]:
        """The three metrics, (R,) each, from multiplicities (N, R)."""
        gain = _sums(multiplicity[self.positive], self.places, self.levels)
        passed = _sums(multiplicity[self.negative], self.lumps, 2 * self.levels + 1).cumsum(0)
        above, reached, negatives = passed[0:-1:2], passed[1:-1:2], passed[-1]
        hits = gain.cumsum(0)
        positives = hits[-1]
        area = (gain * (negatives - 0.5 * (above + reached))).sum(0) / (positives * negatives)
        # Without a hit so far there is no positive at the level either, and its precision does not count.
        average = (gain * (hits / (hits + reached)).nan_to_num()).sum(0) / positives
        # The slack is for shares such as 1 - 0.95, which binary fractions do not hold.
        allowed = (1.0 - specificity) * negatives * (1 + 1e-9)
        found = (gain * (reached <= allowed)).sum(0) / positives
        undefined = (positives == 0) | (negatives == 0)
        first, second, third = (values.masked_fill(undefined, torch.nan).numpy() for values in (area, average, found))
        return first, second, third


def _sums(rows: Tensor, places: Tensor, count: int) -> Tensor:
    """Adds up the rows (N, R) that have the same place, (count, R) float64."""
    return torch.zeros(count, rows.shape[1]).index_add_(0, places, rows).double()
