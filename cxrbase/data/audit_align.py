"""Aligns two images and decides whether they show the same exposure."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cxrbase.data.decode import decode, to_uint8

SIDE = 128
# Measured by benchmarks/audit.py: copies lie above and different exposures, also of one patient, below.
SAME = 0.75
_COARSELY_SAME = 0.88
_LARGEST_ZOOM = 1.35
_LEAST_OVERLAP = 0.6


def small_image(path: Path) -> NDArray[np.uint8]:
    """Reads an image and squeezes it to (SIDE, SIDE) uint8; DecodeError where it cannot be read."""
    return shrunk(to_uint8(decode(path)))


def shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Squeezes an (H, W) uint8 image to (SIDE, SIDE)."""
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0))


def same_exposure(
    first: NDArray[np.uint8], second: NDArray[np.uint8], flipped: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Correlation of fine detail once the second images are moved and stretched over the first.

    Args:
        first: (N, SIDE, SIDE) uint8.
        second: (N, SIDE, SIDE) uint8.
        flipped: (N,) bool, True where the second is to be flipped left to right first.

    Returns:
        (N,) float32 up to 1; above SAME for copies, -1 where no sensible position was found.
    """
    second = np.where(flipped[:, None, None], second[:, :, ::-1], second)
    with torch.inference_mode():
        one, two = (torch.from_numpy(_ranks(images))[:, None] for images in (first, second))
        place, coarse = _coarsely_aligned(one, two)
        score = torch.full((len(one),), -1.0)
        # Most pairs are different already when seen coarsely; the fine steps cost ten times as much.
        if (left := coarse > _COARSELY_SAME).any():
            one, two, place = one[left], two[left], place[left]
            for side, steps in ((64, 5), (SIDE, 3)):
                place = _aligned(_pooled(one, side), _pooled(two, side), place, steps)
            score[left] = _score(one, two, place)
        return np.asarray(score.numpy(), np.float32)


def _coarsely_aligned(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """The best place and its score at a quarter of the size; from three zooms, because crops lie far apart."""
    one, two = _pooled(one, 32), _pooled(two, 32)
    places, scores = [], []
    for zoom in (1.0, 0.91, 1.1):
        start = torch.tensor([zoom, 0.0, zoom, 0.0]).repeat(len(one), 1)
        places.append(_aligned(one, two, start, 10))
        scores.append(_score(one, two, places[-1]))
    score, best = torch.stack(scores).max(0)
    return torch.stack(places)[best, torch.arange(len(one))], score


def _ranks(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of the pixels that are darker, which no window or gamma alters."""
    result = np.empty(images.shape, np.float32)
    for image, ranks in zip(images, result, strict=True):
        counts = np.bincount(image.ravel(), minlength=256)
        ranks[:] = ((np.cumsum(counts) - counts / 2) / image.size)[image]
    return result


def _pooled(images: Tensor, side: int) -> Tensor:
    return F.avg_pool2d(images, SIDE // side)


def _grid(place: Tensor, side: int) -> Tensor:
    """Where to look up each pixel, (N, side, side, 2), for zoom and shift of x and of y."""
    line = (torch.arange(side) + 0.5) * (2 / side) - 1
    x = place[:, 0, None] * line + place[:, 1, None]
    y = place[:, 2, None] * line + place[:, 3, None]
    return torch.stack([x[:, None, :].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], dim=-1)


def _aligned(one: Tensor, two: Tensor, place: Tensor, steps: int) -> Tensor:
    """Gauss-Newton on zoom, shift, gain and offset, all pairs at once."""
    side = one.shape[-1]
    line = (torch.arange(side) + 0.5) * (2 / side) - 1
    slope_y, slope_x = torch.gradient(F.pad(two, (1, 1, 1, 1), mode="replicate")[:, 0], spacing=2 / side, dim=(1, 2))
    layers = torch.stack([two[:, 0], slope_x[:, 1:-1, 1:-1], slope_y[:, 1:-1, 1:-1]], dim=1)
    for _ in range(steps):
        grid = _grid(place, side)
        value, dx, dy = F.grid_sample(layers, grid, padding_mode="border", align_corners=False).unbind(1)
        inside = (grid.abs() <= 1).all(-1).float()
        jacobian = torch.stack([dx * line, dx, dy * line[:, None], dy, value, torch.ones_like(value)], dim=-1)
        jacobian = (jacobian * inside[..., None]).flatten(1, 2)
        # The gain is part of the unknowns: it is solved for with the step and then forgotten, ranks being on one scale.
        target = ((one[:, 0] - value) * inside).flatten(1)
        normal = jacobian.mT @ jacobian + 1e-3 * side**2 / 1024 * torch.eye(6)
        step = torch.linalg.solve(normal, jacobian.mT @ target[..., None])[..., 0]
        place = place + step[:, :4].clamp(-0.1, 0.1)
        place[:, 0::2] = place[:, 0::2].clamp(1 / _LARGEST_ZOOM, _LARGEST_ZOOM)
        place[:, 1::2] = place[:, 1::2].clamp(-0.4, 0.4)
    return place


def _score(one: Tensor, two: Tensor, place: Tensor) -> Tensor:
    grid = _grid(place, one.shape[-1])
    inside = (grid.abs() <= 1).all(-1).float()[:, None]
    moved = F.grid_sample(two, grid, padding_mode="border", align_corners=False)
    first, second = _detail(one) * inside, _detail(moved) * inside
    product = (first * second).sum((1, 2, 3))
    size = (first.square().sum((1, 2, 3)) * second.square().sum((1, 2, 3))).sqrt()
    return torch.where(inside.mean((1, 2, 3)) >= _LEAST_OVERLAP, product / size.clamp_min(1e-6), -1.0)


def _detail(images: Tensor) -> Tensor:
    """Difference from the surroundings, in units of how much the surroundings vary."""
    fine = images - _blurred(images)
    return fine / (_blurred(fine.square()) + 1e-4).sqrt()


def _blurred(images: Tensor) -> Tensor:
    return F.avg_pool2d(images, 9, stride=1, padding=4, count_include_pad=False)
