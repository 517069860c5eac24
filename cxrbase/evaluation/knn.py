"""Scores images by their nearest labelled neighbours in feature space."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK_ROWS = 2**13  # rows in float64 at once
_CHUNK_ELEMENTS = 2**24  # similarities held at once: 64 MB


def knn_scores(
    bank: npt.ArrayLike, bank_labels: npt.ArrayLike, queries: npt.ArrayLike, *, k: int = 20, temperature: float = 0.07
) -> npt.NDArray[np.float32]:
    """Weighted share of positives among the k nearest images with a known label, per class.

    The protocol of DINO (https://arxiv.org/abs/2104.14294, section 4.1: k = 20, weight exp(cosine / 0.07)), on features
    that are centred and whitened by the bank: features of radiographs lie in a narrow cone where cosines barely differ,
    and directions of much spread outweigh those of little, whichever tell a class. Whitening is usual in retrieval
    (Jegou and Chum 2012, https://doi.org/10.1007/978-3-642-33709-3_55). It needs no labels, and hardly acts where the
    bank is small, because the covariance is shrunk towards the identity. Neighbours are looked for in float32; bfloat16
    has only a few distinct values there.

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
    centre, whiten = _whitening(base)
    scores = np.full((len(asked), labels.shape[1]), np.nan, dtype=np.float32)
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        near, far = (F.normalize((torch.from_numpy(part) - centre) @ whiten, dim=1) for part in (base, asked))
        # Classes whose labels are known for the same images share one search; usually that is all of them.
        patterns, group = np.unique(~np.isnan(labels), axis=1, return_inverse=True)
        for index, known in enumerate(patterns.T):
            columns = np.flatnonzero(group == index)
            if known.any():
                truth = torch.from_numpy(labels[np.ix_(known, columns)])
                scores[:, columns] = _vote(near[torch.from_numpy(known)], truth, far, k, temperature).numpy()
    return scores


def _whitening(bank: npt.NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Mean (D,) of the bank, and (D, D) that gives what was centred on it the covariance of the identity."""
    centre = torch.from_numpy(bank.mean(0, dtype=np.float64))
    spread = torch.zeros(bank.shape[1], bank.shape[1], dtype=torch.float64)
    for part in torch.split(torch.from_numpy(bank), _CHUNK_ROWS):
        spread += (part - centre).T @ (part - centre)
    values, vectors = torch.linalg.eigh(_shrunk(spread / len(bank), len(bank)))
    # Directions without spread say nothing, whatever rounding leaves of them.
    scale = torch.where(values > values[-1] * 1e-12, values, torch.inf).rsqrt()
    return centre.float(), (vectors * scale).float()


def _shrunk(covariance: Tensor, samples: int) -> Tensor:
    """Oracle approximating shrinkage (Chen et al. 2010, https://doi.org/10.1109/TSP.2010.2053029, equation 23).

    Without its terms in 2 / D, as scikit-learn has it.
    """
    size = len(covariance)
    level, power = covariance.trace() / size, covariance.square().mean()
    excess = (samples + 1) * (power - level**2 / size)
    weight = ((power + level**2) / excess).clamp(max=1) if excess > 0 else covariance.new_ones(())
    return (1 - weight) * covariance + weight * level * torch.eye(size, dtype=covariance.dtype)


def _vote(bank: Tensor, labels: Tensor, queries: Tensor, k: int, temperature: float) -> Tensor:
    k = min(k, len(bank))
    votes = []
    for part in torch.split(queries, max(1, _CHUNK_ELEMENTS // len(bank))):
        similarity, neighbours = (part @ bank.T).topk(k, dim=1)
        # A softmax is the weighted mean's weights already divided by their sum, and cannot overflow.
        votes.append(torch.einsum("nk,nkc->nc", F.softmax(similarity / temperature, dim=1), labels[neighbours]))
    return torch.cat(votes) if votes else labels.new_empty(0, labels.shape[1])
