"""Checks of maps: whether they follow the weights, hit the known place of a finding, and affect the score."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics.functional import spearman_corrcoef

from cxrbase.release.explain import Score, explain
from cxrbase.release.methods import Method
from cxrbase.weights_fit import Encoder

# Rank correlation above which a map did not notice that the weights were randomised
# (Adebayo et al. 2018, https://arxiv.org/abs/1810.03292, judge by eye and rank correlation).
UNCHANGED = 0.7
_STEPS = 8  # points of a deletion or insertion curve beyond the first


@dataclass(frozen=True)
class Pointing:
    """The pointing game (Zhang et al. 2016, https://arxiv.org/abs/1608.00507).

    Attributes:
        hits: Images whose strongest patch lies in a true box.
        images: Images with a box.
        chance: Mean share of the patches that lie in the boxes.
    """

    hits: int
    images: int
    chance: float

    @property
    def rate(self) -> float:
        """Share of hits."""
        return self.hits / self.images


def randomised(network: Encoder) -> Callable[[], None]:
    """Shuffles the values of every weight in place, which keeps their distribution, and returns what puts them back."""
    generator = torch.Generator().manual_seed(0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        for value in network.parameters():
            order = torch.randperm(value.numel(), generator=generator).to(value.device)
            value.copy_(value.flatten()[order].reshape(value.shape))

    def restore() -> None:
        network.load_state_dict(before)

    return restore


def follows_weights(network: Encoder, images: Tensor, *, method: Method, score: Score | None = None) -> float:
    """Rank correlation between maps of a network and of itself with shuffled weights; near 0 is as it should be.

    Args:
        network: Left as it was.
        images: (B, 1, H, W).
        method: As of `explain`.
        score: As of `explain`.

    Returns:
        Of `rank_correlation`, in [0, 1]. Above UNCHANGED the map shows the image and not the network. NaN where there
        is nothing to compare.
    """
    first = explain(network, images, method=method, score=score)
    restore = randomised(network)
    try:
        second = explain(network, images, method=method, score=score)
    finally:
        restore()
    return rank_correlation(first, second)


def pointing_game(maps: Tensor, truth: NDArray[np.bool_]) -> Pointing:
    """Counts maps whose strongest patch is in the truth.

    Args:
        maps: (N, rows, columns).
        truth: (N, rows, columns), patches that touch a true box; images without any are left out.
    """
    flat, inside = maps.flatten(1).cpu().numpy(), truth.reshape(len(truth), -1)
    kept = inside.any(1)
    strongest = flat[kept].argmax(1)
    hits = int(inside[kept][np.arange(len(strongest)), strongest].sum())
    return Pointing(hits, int(kept.sum()), float(inside[kept].mean()) if kept.any() else float("nan"))


def deletion_insertion(network: Encoder, images: Tensor, maps: Tensor, score: Score) -> tuple[Tensor, Tensor]:
    """Areas under the score while patches go, or come back, strongest first (Petsiuk et al. 2018, arXiv 1806.07421).

    Args:
        network: In evaluation mode.
        images: (B, 1, H, W).
        maps: (B, rows, columns).
        score: As of `explain`.

    Returns:
        Deletion (lower is better) and insertion (higher is better), both (B,), mean of the score over the curve.
    """
    order = maps.flatten(1).argsort(1, descending=True).argsort(1)
    patches = order.shape[1]
    curves: list[list[Tensor]] = [[], []]
    for step in range(_STEPS + 1):
        first = order < round(step / _STEPS * patches)
        for curve, keep in zip(curves, (~first, first), strict=True):
            shown = images * nn.functional.interpolate(
                keep.reshape(len(maps), 1, *maps.shape[1:]).float(), images.shape[-2:], mode="nearest"
            )
            with torch.no_grad():
                curve.append(score(network.forward_features(shown)))
    deletion, insertion = (torch.stack(curve).mean(0) for curve in curves)
    return deletion, insertion


def box_patches(box: str, *, shape: tuple[int, int], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Patches of the central square that a box touches.

    Args:
        box: "x y width height" in pixels of the image, or "" for none.
        shape: Height and width of the image.
        grid: Rows and columns of patches.

    Returns:
        (rows, columns).
    """
    found = np.zeros(grid, np.bool_)
    if not box:
        return found
    x, y, width, height = map(float, box.split())
    side = min(shape)
    left, top = (shape[1] - side) / 2, (shape[0] - side) / 2
    rows, columns = grid
    first = np.floor([(y - top) / side * rows, (x - left) / side * columns])
    last = np.ceil([(y + height - top) / side * rows, (x + width - left) / side * columns])
    lower, upper = np.clip(first, 0, grid).astype(int), np.clip(last, 0, grid).astype(int)
    found[lower[0] : upper[0], lower[1] : upper[1]] = True
    return found


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Mean absolute Spearman correlation of the maps of B images, in [0, 1]; equal values share their mean rank.

    Args:
        first: (B, rows, columns).
        second: The same images.

    Returns:
        Mean over the images whose maps vary both, as a constant map has no ranks to compare; NaN where there are none.
    """
    one, two = first.flatten(1).double(), second.flatten(1).double()
    varies = ((one != one[:, :1]).any(1) & (two != two[:, :1]).any(1)).nonzero()[:, 0].tolist()
    found = [float(spearman_corrcoef(one[image], two[image]).abs()) for image in varies]
    return float(np.mean(found)) if found else float("nan")
