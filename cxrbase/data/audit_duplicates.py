"""Finds pairs of images whose perceptual hashes are close enough that one may be a copy of the other."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cxrbase.data.fingerprint import mirrored, trimmed

# Shares cut off top, bottom, left and right. A cropped copy looks like one of these trims of the original; what lies
# between them is within the tolerance of the embedding.
TRIMS = (
    (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.04, 0.04), (0.0, 0.0, 0.02, 0.06), (0.0, 0.0, 0.06, 0.02),
    (0.02, 0.06, 0.0, 0.0), (0.02, 0.06, 0.04, 0.04), (0.06, 0.02, 0.0, 0.0), (0.06, 0.02, 0.04, 0.04),
    (0.04, 0.04, 0.02, 0.06), (0.04, 0.04, 0.06, 0.02), (0.08, 0.08, 0.08, 0.08),
)  # fmt: skip
_DIMENSIONS = 80
# Up to here every pair is compared; beyond, only pairs that agree in all bits of a band.
_EXHAUSTIVE = 20_000
_BANDS = 20
# Rows that share a band by chance; more find more copies and take longer.
_BUCKET = 16
_CROWDED = 16 * _BUCKET
# Of the first 64 bits of a signature, and of all 128: random signs that differ in a share arccos(cosine) / pi.
_DIFFERENT_64, _DIFFERENT_128 = 21, 38


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
    per_image: float = 8.0,
    threads: int = 2,
    index_for: int | None = None,
) -> Candidates:
    """Finds the pairs worth looking at.

    Up to 20,000 images all pairs are compared. Beyond, an index misses some, more of them the larger it is; how many is
    in benchmarks/results/audit_cpu.json (`recall_of_candidates` and `recall_of_candidates_as_of_a_million`).

    Args:
        digits: (N, DIGITS) uint8; equal images should be there once, because they crowd the index.
        similar: Smallest cosine.
        per_image: At most this many pairs per image are kept, the most similar ones.
        threads: Threads, each of which takes about 1 GB for a million images.
        index_for: Number of images that the index is laid out for; None takes the number there is.
    """
    if len(digits) < 2:
        return Candidates(np.zeros((0, 2), np.int64), np.zeros(0, bool), np.zeros(0, np.float32))
    mean, directions = embedding(digits)
    base = _embedded(trimmed(digits, 0, 0, 0, 0), mean, directions)
    size = index_for or len(digits)
    index = None if size <= _EXHAUSTIVE else _Index(base, size)
    views = [(trim, flip) for trim in TRIMS for flip in (False, True)]

    def search(view: tuple[tuple[float, ...], bool]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        query = _view(digits, *view, mean, directions)
        return _all_pairs(query, base, similar) if index is None else index.pairs(query, similar)

    keys, cosines = np.zeros(0, np.int64), np.zeros(0, np.float32)
    limit = round(per_image * len(digits)) + 1000
    with ThreadPoolExecutor(threads) as pool:
        found = tqdm(pool.map(search, views), total=len(views), desc="comparing hashes", disable=index is None)
        for (_, flip), (pairs, cosine) in zip(views, found, strict=True):
            first, second = pairs.min(1), pairs.max(1)
            new = (first * len(digits) + second) * 2 + flip
            keys, cosines = _best(np.concatenate([keys, new]), np.concatenate([cosines, cosine]), limit)
    pair = keys // 2
    return Candidates(np.stack([pair // len(digits), pair % len(digits)], axis=1), keys % 2 == 1, cosines)


def embedding(digits: NDArray[np.uint8], *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Directions in which images differ much and croppings of one image differ little.

    Args:
        digits: (N, DIGITS) uint8 of the images.
        seed: Seed of the sample and of the croppings.

    Returns:
        The mean, (DIGITS,), and the directions, (DIGITS, D), of what `trimmed` gives.
    """
    generator = np.random.default_rng(seed)
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


def _embedded(
    values: NDArray[np.float32], mean: NDArray[np.float32], directions: NDArray[np.float32]
) -> NDArray[np.float32]:
    result = (values - mean) @ directions
    return np.asarray(result / np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-6), np.float32)


def _view(
    digits: NDArray[np.uint8], trim: tuple[float, ...], flip: bool, mean: NDArray[np.float32],
    directions: NDArray[np.float32],
) -> NDArray[np.float32]:  # fmt: skip
    """In pieces, because the trims of a million images at once take several times their hashes."""
    parts = []
    for start in range(0, len(digits), 50_000):
        part = digits[start : start + 50_000]
        parts.append(_embedded(trimmed(mirrored(part) if flip else part, *trim), mean, directions))
    return np.concatenate(parts)


def _best(
    keys: NDArray[np.int64], cosines: NDArray[np.float32], limit: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `limit` most similar pairs, each pair once, the most similar first."""
    order = np.argsort(-cosines, kind="stable")
    _, first = np.unique(keys[order] // 2, return_index=True)
    kept = order[np.sort(first)[:limit]]
    return keys[kept], cosines[kept]


def _all_pairs(
    query: NDArray[np.float32], base: NDArray[np.float32], similar: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    pairs, cosines = [], []
    for start in range(0, len(query), 1024):
        cosine = query[start : start + 1024] @ base.T
        rows, columns = np.nonzero(cosine > similar)
        other = rows + start != columns
        pairs.append(np.stack([rows[other] + start, columns[other]], axis=1))
        cosines.append(cosine[rows[other], columns[other]])
    return np.concatenate(pairs).astype(np.int64), np.concatenate(cosines)


class _Index:
    """Rows sorted by the signs of random projections, in several bands."""

    def __init__(self, base: NDArray[np.float32], size: int, *, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.base = base
        bits = max(1, round(np.log2(size / _BUCKET)))
        self.planes = generator.standard_normal((_BANDS, base.shape[1], bits)).astype(np.float32)
        self.signature_planes = generator.standard_normal((base.shape[1], 128)).astype(np.float32)
        signatures = _signatures(base, self.signature_planes)
        self.orders, self.starts, self.signatures = [], [], []
        for planes in self.planes:
            keys = _keys(base, planes)
            self.orders.append(order := np.argsort(keys, kind="stable").astype(np.int32))
            self.signatures.append(np.ascontiguousarray(signatures[order].T))
            self.starts.append(np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=2**bits))]).astype(np.int32))

    def pairs(self, query: NDArray[np.float32], similar: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Pairs of a row of the query and another row that share a band and have a cosine above `similar`."""
        signatures = _signatures(query, self.signature_planes)
        found = np.unique(np.concatenate([self._close(band, query, signatures) for band in range(_BANDS)]))
        pairs = np.stack([found // len(query), found % len(query)], axis=1)
        cosines = [np.zeros(0, np.float32)]
        for start in range(0, len(pairs), 500_000):
            rows, others = pairs[start : start + 500_000].T
            cosines.append(np.einsum("nd,nd->n", query[rows], self.base[others]))
        cosine = np.concatenate(cosines)
        return pairs[cosine > similar], cosine[cosine > similar]

    def _close(self, band: int, query: NDArray[np.float32], signatures: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Pairs of one band whose signatures differ in few bits, as row x N + other row."""
        keys = _keys(query, self.planes[band])
        # In the order of the index, neighbours read neighbouring memory, which is most of the time.
        rows = np.argsort(keys, kind="stable").astype(np.int32)
        place, end = self.starts[band][keys[rows]], self.starts[band][keys[rows] + 1]
        mine, other, pairs = signatures[rows, 0], self.signatures[band], []
        # A crowded bucket holds what looks alike to the band; all its pairs would take for ever.
        for _ in range(_CROWDED):
            left = place < end
            if not left.all():
                rows, place, end, mine = rows[left], place[left], end[left], mine[left]
            if not len(rows):
                break
            close = np.flatnonzero(np.bitwise_count(other[0][place] ^ mine) <= _DIFFERENT_64)
            one, two = rows[close].astype(np.int64), self.orders[band][place[close]].astype(np.int64)
            different = np.bitwise_count(signatures[one] ^ other[:, place[close]].T).sum(1)
            pairs.append((one * len(query) + two)[(different <= _DIFFERENT_128) & (one != two)])
            place = place + 1
        return np.concatenate(pairs)


def _keys(values: NDArray[np.float32], planes: NDArray[np.float32]) -> NDArray[np.int32]:
    """Signs of the projections as bits of one number; exact in float32 up to 24 of them."""
    weights = np.float32(2) ** np.arange(planes.shape[1], dtype=np.float32)
    return np.asarray(np.sign((values @ planes).clip(0)) @ weights, np.int32)


def _signatures(values: NDArray[np.float32], planes: NDArray[np.float32]) -> NDArray[np.uint64]:
    parts = [values[start : start + 100_000] @ planes > 0 for start in range(0, len(values), 100_000)]
    return np.concatenate([np.packbits(part, axis=1).view(np.uint64) for part in parts])
