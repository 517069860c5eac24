"""Finds pairs of images with perceptual hashes close enough that one may be a copy of the other."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from cxrbase.data.fingerprint import DIGITS, mirrored, trimmed

# Shares cut off top, bottom, left and right. A cropped copy looks like one of these trims of the original; what lies
# between them, and no trim at all, is within the tolerance of the embedding.
TRIMS = (
    (0.02, 0.06, 0.02, 0.06), (0.06, 0.02, 0.06, 0.02), (0.02, 0.06, 0.06, 0.02), (0.06, 0.02, 0.02, 0.06),
)  # fmt: skip
NO_TRIM = (0.0, 0.0, 0.0, 0.0)
_MIDDLE = (0.04, 0.04, 0.04, 0.04)  # of those tried the one that is most like the others
_DIMENSIONS = 80
# Up to here every pair is compared; beyond, an image is compared with those of the cells nearest to it.
_EXHAUSTIVE = 20_000
# Times the root of the number of images. Cells are of the first dimensions, which croppings alter least.
_CELLS = 4
_CELL_DIMENSIONS = 16
_NEAREST_CELLS = 336  # more find more copies and take longer
# What is less alike in the middle trim is not looked at in the others; of 1,000 copies this misses 4.
_LESS_SIMILAR = 0.1
# In standard deviations: images whose sides differ less are compared both ways round, the others one way.
_DOUBTFUL = 0.5
_PER_IMAGE = 8  # pairs that are kept at most, the most similar ones
_PART = 50_000  # images whose trims are computed at once
_BLOCK = 2**23  # cosines held at once by a thread: 32 MB
_LOOKED_AT = 2**17  # pairs of a block that are compared in all trims at most, the most similar ones


@dataclass(frozen=True)
class Candidates:
    """Pairs that may be copies, each once.

    Args:
        pairs: (M, 2) int64 rows with first < second.
        flipped: (M,) bool, True where the flip of one image is like the other.
        similarity: (M,) float32, cosine of the embeddings; largest first.
    """

    pairs: NDArray[np.int64]
    flipped: NDArray[np.bool_]
    similarity: NDArray[np.float32]


def candidates(
    digits: NDArray[np.uint8],
    *,
    similar: float = 0.5,
    marked: NDArray[np.bool_] | None = None,
    threads: int = 2,
) -> Candidates:
    """Finds the pairs worth looking at.

    Up to 20,000 images all pairs are compared. Beyond, an index misses a few; how many is in
    benchmarks/results/audit_cpu.json (`recall_of_candidates` of `copies` and of `million`).

    Args:
        digits: (N, DIGITS) uint8; equal images should be there once, because they crowd the index.
        similar: Smallest cosine.
        marked: (N,) bool, where only pairs of a marked image and another one are asked for.
        threads: Threads, each of which takes about 1 GB for a million images.
    """
    if len(digits) < 2:
        return Candidates(np.zeros((0, 2), np.int64), np.zeros(0, bool), np.zeros(0, np.float32))
    side = _sides(digits)
    turned = side < 0
    upright = np.where(turned[:, None], mirrored(digits), digits)
    mean, directions = embedding(upright)
    base = _view(upright, NO_TRIM, False, mean, directions)
    index = None if (exhaustive := len(digits) <= _EXHAUSTIVE) else _Index(base)
    limit = _PER_IMAGE * len(digits) + 1000
    both = np.arange(len(digits)) if exhaustive else np.flatnonzero(np.abs(side) < _DOUBTFUL)
    parts = [(part, False) for part in _parts(np.arange(len(digits)))] + [(part, True) for part in _parts(both)]

    def search(part: tuple[NDArray[np.int64], bool]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        rows, flip = part
        views = [_view(upright[rows], trim, flip, mean, directions) for trim in TRIMS]
        if index is None:
            return _all_pairs(views, rows, base, similar, marked)
        return index.pairs(_view(upright[rows], _MIDDLE, flip, mean, directions), views, rows, similar, marked)

    keys, cosines = np.zeros(0, np.int64), np.zeros(0, np.float32)
    with ThreadPoolExecutor(threads) as pool:
        found = tqdm(pool.map(search, parts), total=len(parts), desc="comparing hashes", disable=exhaustive)
        for (_, flip), (pairs, cosine) in zip(parts, found, strict=True):
            first, second = pairs.min(1), pairs.max(1)
            new = (first * len(digits) + second) * 2 + (turned[first] ^ turned[second] ^ flip)
            keys, cosines = _best(np.concatenate([keys, new]), np.concatenate([cosines, cosine]), limit)
    pair = keys // 2
    return Candidates(np.stack([pair // len(digits), pair % len(digits)], axis=1), keys % 2 == 1, cosines)


def embedding(digits: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Directions in which images differ much and croppings of one image differ little.

    Args:
        digits: (N, DIGITS) uint8 of the images.

    Returns:
        The mean, (DIGITS,), and the directions, (DIGITS, D), of what `trimmed` gives.
    """
    generator = np.random.default_rng(0)
    sample = digits[generator.choice(len(digits), min(len(digits), 4000), replace=False)]
    values = trimmed(sample, 0, 0, 0, 0)
    mean = values.mean(0)
    noise = np.zeros((values.shape[1],) * 2)
    for _ in range(16):
        crop = generator.uniform(0, 0.03, 4)
        error = trimmed(sample, *crop) - values
        noise += error.T @ error / (16 * len(sample))
    # A little of both keeps few or equal images solvable, and stands for compression and windows.
    noise += 0.02 * np.eye(len(noise))
    total = (values - mean).T @ (values - mean) / len(values) + 0.02 * np.eye(len(noise))
    inverse = np.linalg.inv(np.linalg.cholesky(noise))
    ratio, vectors = np.linalg.eigh(inverse @ total @ inverse.T)
    ratio, vectors = ratio[::-1][:_DIMENSIONS], vectors[:, ::-1][:, :_DIMENSIONS]
    # Unit variance, less what is noise: the cosine then weighs each direction by what it tells.
    weights = np.sqrt(np.maximum(ratio - 1, 0.01) / ratio) / np.sqrt(ratio)
    return np.asarray(mean, np.float32), np.asarray(inverse.T @ vectors * weights, np.float32)


def _sides(digits: NDArray[np.uint8], *, seed: int = 0) -> NDArray[np.float32]:
    """Which side of each image is the heavier one, (N,) with unit variance; the flip has the opposite sign.

    The direction is the one that tells images from their flips best (Fisher's discriminant): the heart is on the left.
    """
    sample = digits[np.random.default_rng(seed).choice(len(digits), min(len(digits), 4000), replace=False)]
    difference = _asymmetry(sample)
    spread = np.cov(difference.T) + 0.02 * np.eye(DIGITS)
    direction = np.linalg.solve(spread, difference.mean(0))
    scale = max(float((difference @ direction).std()), 1e-6)
    parts = [_asymmetry(digits[start : start + _PART]) @ direction for start in range(0, len(digits), _PART)]
    return np.asarray(np.concatenate(parts) / scale, np.float32)


def _asymmetry(digits: NDArray[np.uint8]) -> NDArray[np.float32]:
    return trimmed(digits, *NO_TRIM) - trimmed(mirrored(digits), *NO_TRIM)


def _embedded(
    values: NDArray[np.float32], mean: NDArray[np.float32], directions: NDArray[np.float32]
) -> NDArray[np.float32]:
    result = (values - mean) @ directions
    return np.asarray(result / np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-6), np.float32)


def _parts(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """In pieces, because the trims of a million images at once take several times their hashes."""
    return [rows[start : start + _PART] for start in range(0, len(rows), _PART)]


def _view(
    digits: NDArray[np.uint8], trim: tuple[float, ...], flip: bool, mean: NDArray[np.float32],
    directions: NDArray[np.float32],
) -> NDArray[np.float32]:  # fmt: skip
    parts = [digits[rows] for rows in _parts(np.arange(len(digits)))]
    return np.concatenate(
        [_embedded(trimmed(mirrored(part) if flip else part, *trim), mean, directions) for part in parts]
    )


def _best(
    keys: NDArray[np.int64], cosines: NDArray[np.float32], limit: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `limit` most similar pairs, each pair once, the most similar first."""
    order = np.argsort(-cosines, kind="stable")
    _, first = np.unique(keys[order] // 2, return_index=True)
    kept = order[np.sort(first)[:limit]]
    return keys[kept], cosines[kept]


def _all_pairs(
    views: list[NDArray[np.float32]], names: NDArray[np.int64], base: NDArray[np.float32], similar: float,
    marked: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:  # fmt: skip
    pairs, cosines = [], []
    for start in range(0, len(names), 1024):
        cosine = np.max([view[start : start + 1024] @ base.T for view in views], axis=0)
        rows, columns = np.nonzero(cosine > similar)
        other = _wanted(names[rows + start], columns, marked)
        pairs.append(np.stack([names[rows[other] + start], columns[other]], axis=1))
        cosines.append(cosine[rows[other], columns[other]])
    return np.concatenate(pairs).astype(np.int64), np.concatenate(cosines)


def _wanted(first: NDArray[Any], second: NDArray[Any], marked: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Which pairs of rows are of two images, and of a marked one and another one where some are marked."""
    return np.asarray(first != second if marked is None else marked[first] != marked[second])


class _Index:
    """Rows grouped into cells around their means: an inverted file (Jegou et al. 2011, section IV)."""

    def __init__(self, base: NDArray[np.float32]) -> None:
        values = _first(base, _CELL_DIMENSIONS)
        self.centres = _centres(values, _CELLS * round(np.sqrt(len(base))))
        home = _nearest(values, self.centres, 1)[:, 0]
        self.order = np.argsort(home, kind="stable")
        self.base = base[self.order]
        self.starts = np.searchsorted(home[self.order], np.arange(len(self.centres) + 1))

    def pairs(
        self, query: NDArray[np.float32], views: list[NDArray[np.float32]], names: NDArray[np.int64], similar: float,
        marked: NDArray[np.bool_] | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:  # fmt: skip
        """Pairs of an image of the query and another one in a cell near it, above `similar` in one of the views.

        Args:
            query: (M, D) of images of the base, in the middle trim.
            views: The same in the other trims.
            names: (M,) rows of these images in the base.
            similar: Smallest cosine.
            marked: As in `candidates`.
        """
        near = _nearest(_first(query, _CELL_DIMENSIONS), self.centres, _NEAREST_CELLS)
        cells = near.ravel().astype(np.uint16)  # which numpy sorts by radix; more are of 10^8 images
        visits = np.argsort(cells, kind="stable")
        bounds = np.searchsorted(cells[visits], np.arange(len(self.centres) + 1))
        found = [(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))]
        for cell in range(len(self.centres)):
            rows = visits[bounds[cell] : bounds[cell + 1]] // near.shape[1]
            for some, columns in self._alike(cell, query, rows, similar - _LESS_SIMILAR):
                other = self.base[columns]
                cosine = np.max([np.einsum("nd,nd->n", view[some], other) for view in views], axis=0)
                first, second = names[some], self.order[columns]
                kept = (cosine > similar) & _wanted(first, second, marked)
                found.append((np.stack([first[kept], second[kept]], axis=1), cosine[kept]))
        pairs, cosines = (np.concatenate(parts) for parts in zip(*found, strict=True))
        if len(cosines) > (limit := _PER_IMAGE * len(names) + 1000):
            kept = np.argpartition(-cosines, limit)[:limit]
            pairs, cosines = pairs[kept], cosines[kept]
        return pairs, cosines

    def _alike(
        self, cell: int, query: NDArray[np.float32], rows: NDArray[np.int64], similar: float
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Pairs of some rows of the query and rows of the base in one cell that may be above `similar`."""
        start, end = self.starts[cell], self.starts[cell + 1]
        for first in range(0, len(rows), step := max(1, _BLOCK // max(1, end - start))):
            some = rows[first : first + step]
            cosine = (query[some] @ self.base[start:end].T).ravel()
            hits = np.flatnonzero(cosine > similar)
            if len(hits) > _LOOKED_AT:
                hits = hits[np.argpartition(-cosine[hits], _LOOKED_AT)[:_LOOKED_AT]]
            yield some[hits // (end - start)], start + hits % (end - start)


def _first(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The first dimensions, again of length one; a contiguous copy."""
    part = values[:, :count]
    return np.asarray(part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-6), np.float32)


def _centres(values: NDArray[np.float32], count: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Directions around which rows gather, (count, D): a few rounds of spherical k-means on a sample."""
    generator = np.random.default_rng(seed)
    sample = values[np.sort(generator.choice(len(values), min(len(values), 40 * count), replace=False))]
    centres = sample[np.sort(generator.choice(len(sample), min(len(sample), count), replace=False))]
    for _ in range(5):
        home = _nearest(sample, centres, 1)[:, 0]
        sums = torch.zeros(centres.shape).index_add_(0, torch.from_numpy(home), torch.from_numpy(sample)).numpy()
        filled = np.bincount(home, minlength=len(centres)) > 0
        centres = np.where(filled[:, None], _first(sums, sums.shape[1]), centres)
    return centres


def _nearest(values: NDArray[np.float32], centres: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The `count` centres with the largest cosine to each row, (N, count), in no order."""
    count, found = min(count, len(centres)), []
    for start in range(0, len(values), step := max(1, _BLOCK // len(centres))):
        cosine = values[start : start + step] @ centres.T
        # torch selects three times as fast as numpy, and most of what is done here is selecting.
        several = torch.from_numpy(cosine).topk(count, dim=1, sorted=False).indices.numpy() if count > 1 else None
        found.append(cosine.argmax(1)[:, None] if several is None else several)
    return np.concatenate(found)
