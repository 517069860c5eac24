"""Scores images by their nearest labelled neighbours in feature space."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK_ELEMENTS = 2**24  # similarities held at once: 64 MB


def knn_scores(
    bank: npt.ArrayLike, bank_labels: npt.ArrayLike, queries: npt.ArrayLike, *, k: int = 20, temperature: float = 0.07
) -> npt.NDArray[np.float32]:
    """Weighted share of positives among the k nearest images with a known label, per class.

    The protocol of DINO (https://arxiv.org/abs/2104.14294, section 4.1: k = 20, weight exp(cosine / 0.07)), on features
    centred on the bank's mean: features of radiographs lie in a narrow cone where cosines barely differ. Always in
    float32; bfloat16 has only a few distinct values there.

    Args:
        bank: (M, D) features to look among.
        bank_labels: (M, K), 1 present, 0 absent, NaN unknown (not a neighbour for that class).
        queries: (N, D) features to score.
        k: Number of neighbours; fewer where a class has fewer known labels.
        temperature: Of the weights, above 0; the smaller, the more the nearest decides.

    Returns:
        (N, K) in [0, 1]; a column is NaN where the bank knows no label of the class.

    Raises:
        ValueError: If shapes do not fit, or k or the temperature is out of range.
    """
    if k < 1 or temperature <= 0:
        raise ValueError(f"k must be at least 1 and temperature above 0, got k={k}, temperature={temperature}")
    labels = np.asarray(bank_labels, dtype=np.float32)
    base, asked = np.asarray(bank, dtype=np.float32), np.asarray(queries, dtype=np.float32)
    if base.ndim != 2 or asked.shape[1:] != base.shape[1:] or labels.shape[:1] != base.shape[:1] or not len(base):
        shapes = f"{base.shape}, {labels.shape} and {asked.shape}"
        raise ValueError(f"bank, bank_labels and queries must be (M, D), (M, K) and (N, D) with M > 0, got {shapes}")
    centre = base.mean(0, dtype=np.float64).astype(np.float32)
    scores = np.full((len(asked), labels.shape[1]), np.nan, dtype=np.float32)
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        near, far = _directions(base, centre), _directions(asked, centre)
        # Classes whose labels are known for the same images share one search; usually that is all of them.
        patterns, group = np.unique(~np.isnan(labels), axis=1, return_inverse=True)
        for index, known in enumerate(patterns.T):
            columns = np.flatnonzero(group == index)
            if known.any():
                truth = torch.from_numpy(labels[np.ix_(known, columns)])
                scores[:, columns] = _vote(near[torch.from_numpy(known)], truth, far, k, temperature).numpy()
    return scores


def _directions(features: npt.NDArray[np.float32], centre: npt.NDArray[np.float32]) -> Tensor:
    return F.normalize(torch.from_numpy(features - centre), dim=1)


def _vote(bank: Tensor, labels: Tensor, queries: Tensor, k: int, temperature: float) -> Tensor:
    k = min(k, len(bank))
    votes = []
    for part in torch.split(queries, max(1, _CHUNK_ELEMENTS // len(bank))):
        similarity, neighbours = (part @ bank.T).topk(k, dim=1)
        # A softmax is the weighted mean's weights already divided by their sum, and cannot overflow.
        votes.append(torch.einsum("nk,nkc->nc", F.softmax(similarity / temperature, dim=1), labels[neighbours]))
    return torch.cat(votes) if votes else labels.new_empty(0, labels.shape[1])
