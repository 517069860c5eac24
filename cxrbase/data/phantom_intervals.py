"""Where the rays of a point source enter and leave ellipsoids, with overlaps resolved."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np

from cxrbase.data.phantom_geometry import Geometry
from cxrbase.data.phantom_shadow import Shadows, shadows
from cxrbase.data.phantom_shapes import Ellipsoids, Floats

Place = tuple[slice, slice]


def intervals(shapes: Ellipsoids, geometry: Geometry) -> tuple[Floats, Floats]:
    """Where each ray enters and leaves each ellipsoid.

    Args:
        shapes: N ellipsoids, all in front of the source.
        geometry: Source and detector.

    Returns:
        Distances from the source in cm, each of shape (N, height, width) in 32 bits; equal where the ray misses.
    """
    return stretches(shadows(shapes, geometry), geometry, (slice(0, geometry.height), slice(0, geometry.width)))


def stretches(shadow: Shadows, geometry: Geometry, place: Place) -> tuple[Floats, Floats]:
    """What `intervals` gives, of a piece of the image."""
    middle, half = _chords(shadow, geometry, place)
    np.fmax(half, 0, out=half)
    return middle - half, middle + half


def hull(shadow: Shadows, geometry: Geometry) -> Floats:
    """Length of each ray from its first entry into any of the ellipsoids to its last exit, in cm, (height, width)."""
    first = np.full((geometry.height, geometry.width), np.inf, np.float32)
    last = -first
    for i in range(shadow.middle.shape[1]):
        place = shadow.window(i, geometry)
        if first[place].size:
            middle, half = _chords(shadow[i : i + 1], geometry, place)
            # These leave out what is not a number: the rays that miss.
            np.fmin(first[place], (middle - half)[0], out=first[place])
            np.fmax(last[place], (middle + half)[0], out=last[place])
    return np.asarray(np.maximum(last - first, 0))


def _chords(shadow: Shadows, geometry: Geometry, place: Place) -> tuple[Floats, Floats]:
    """Middle and half length of each ray's stretch inside each ellipsoid, in cm, (N, h, w); half is NaN on a miss."""
    column, row = shadow.middle[:, :, None]
    powers = _powers(place[1], column)[:, None].swapaxes(2, 3), _powers(place[0], row)[:, None]
    depth, square, nearest = np.moveaxis(powers[1] @ (_tables(shadow) @ powers[0]), 1, 0)
    scale = np.divide(geometry.distance[place], square, out=square)
    with np.errstate(invalid="ignore"):
        half = np.sqrt(depth, out=depth)
    half *= scale
    nearest *= scale
    return nearest, half


def _powers(pixels: slice, middle: Floats) -> Floats:
    """1, x and x^2 of the distances x of pixels from the middles (N, 1) of shadows, shape (N, pixels, 3)."""
    powers = np.ones((len(middle), pixels.stop - pixels.start, 3), np.float32)
    powers[..., 1] = np.arange(pixels.start, pixels.stop, dtype=np.float32) - middle
    powers[..., 2] = powers[..., 1] * powers[..., 1]
    return powers


def _tables(shadow: Shadows) -> Floats:
    """Depth, square and nearest as factors of the products of 1, y and y^2 with 1, x and x^2, shape (N, 3, 3, 3)."""
    table = np.zeros((3, 3, 3, shadow.middle.shape[1]), np.float32)
    table[0, (0, 0, 1, 2), (0, 2, 1, 0)] = shadow.depth
    table[1, (0, 0, 1, 0, 1, 2), (0, 1, 0, 2, 1, 0)] = shadow.square
    table[2, (0, 0, 1), (0, 1, 0)] = shadow.nearest
    return np.moveaxis(table, 3, 0)


def left_over(low: Floats, high: Floats, starts: Floats, ends: Floats) -> Floats:
    """Length of an interval that a union of other intervals leaves free.

    Args:
        low: Start of the interval, shape (H, W).
        high: Its end; below `low` means empty.
        starts: Starts of K intervals that are taken away, shape (K, H, W).
        ends: Their ends.
    """
    high = np.maximum(low, high)
    both = np.empty((len(starts), 2, *low.shape), low.dtype)
    np.maximum(starts, low, out=both[:, 0])
    np.maximum(ends, low, out=both[:, 1])
    edges = list(np.minimum(both, high, out=both))
    # Starts and ends are sorted apart from each other, but side by side.
    for i, j in _sorting(len(edges)):
        edges[i], edges[j] = np.minimum(edges[i], edges[j]), np.maximum(edges[i], edges[j])
    # The ray is free between the i-th end and the next start, if these do not cross.
    free = edges[0][0] - low + high - edges[-1][1]
    for before, after in pairwise(edges):
        free += np.maximum(after[0] - before[1], 0)
    return np.asarray(free)


@cache
def _sorting(count: int) -> list[tuple[int, int]]:
    """Which values to put in order, one pair after the other, until all are sorted (Batcher 1968)."""
    pairs = []
    merged = 1
    while merged < count:
        gap = merged
        while gap:
            blocks = range(gap % merged, count - gap, 2 * gap)
            starts = (i + j for j in blocks for i in range(min(gap, count - j - gap)))
            pairs += [(i, i + gap) for i in starts if i // (2 * merged) == (i + gap) // (2 * merged)]
            gap //= 2
        merged *= 2
    return pairs
