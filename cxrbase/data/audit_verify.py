"""Verifies candidate pairs by looking at the images."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cxrbase.data.audit_align import SAME, SIDE, same_exposure
from cxrbase.data.audit_duplicates import Candidates, candidates
from cxrbase.data.fingerprint import digits_of
from cxrbase.errors import DecodeError, ShardError

_BATCH = 256
_KEPT_IMAGES = 20_000


def near_pairs(
    read: Callable[[int], NDArray[np.uint8]],
    hashes: list[str],
    *,
    marked: NDArray[np.bool_] | None = None,
    threads: int = 2,
) -> tuple[NDArray[np.int64], NDArray[np.float32], int]:
    """Finds images that show the same exposure though they were cropped, windowed, scaled, flipped or compressed.

    Args:
        read: Gives image 0 to N - 1, (SIDE, SIDE) uint8; DecodeError or ShardError where it cannot be read.
        hashes: Their perceptual hashes.
        marked: (N,) bool, where only pairs of a marked image and another one are asked for.
        threads: Threads that decode and compare.

    Returns:
        Pairs of rows, (M, 2), their scores, (M,), and how many candidates were left out because a file is unreadable.
    """
    found = candidates(digits_of(hashes), marked=marked, threads=threads)
    scores = np.full(len(found.pairs), np.nan, np.float32)
    # By row, so that an image is decoded once for all its candidates.
    order = np.lexsort((found.pairs[:, 1], found.pairs[:, 0]))
    for part, first, second in _loaded(read, found, order, threads):
        scores[part] = same_exposure(first, second, found.flipped[part])
    good = scores > SAME
    return found.pairs[good], scores[good], int(np.isnan(scores).sum())


def _loaded(
    read: Callable[[int], NDArray[np.uint8]], found: Candidates, order: NDArray[np.int64], threads: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8]]]:
    """Batches of candidates with their images."""
    kept = lru_cache(_KEPT_IMAGES)(lambda row: _readable(read, row))
    bar = tqdm(total=len(order), desc="comparing images", unit="pair", mininterval=1.0, disable=len(order) < 1000)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(order), _BATCH):
            part = order[start : start + _BATCH]
            rows = np.unique(found.pairs[part])
            images = dict(zip(rows.tolist(), pool.map(kept, rows.tolist()), strict=True))
            pairs = [(p, images[a], images[b]) for p, (a, b) in zip(part, found.pairs[part].tolist(), strict=True)]
            readable = [(p, a, b) for p, a, b in pairs if a is not None and b is not None]
            bar.update(len(part))
            if readable:
                numbers, first, second = zip(*readable, strict=True)
                yield np.array(numbers), np.stack(first), np.stack(second)
    bar.close()


def _readable(read: Callable[[int], NDArray[np.uint8]], row: int) -> NDArray[np.uint8] | None:
    try:
        image = read(row)
    except (DecodeError, ShardError):
        return None
    assert image.shape == (SIDE, SIDE)
    return image
