"""Projects ellipsoids along the rays of a point source with closed-form chord lengths."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.phantom_geometry import Geometry
from cxrbase.data.phantom_shadow import Shadows, shadows
from cxrbase.data.phantom_shapes import KINDS, PROFILES, Ellipsoids, Floats

Integers = NDArray[np.integer[Any]]
# Rows of shadows are worked on together up to these widths in pixels, which wastes few pixels and few calls.
_WIDTHS = (3, 6, 10, 16, 32)


def line_integral(shapes: Ellipsoids, geometry: Geometry) -> Floats:
    """Attenuation that ellipsoids add along each ray.

    Args:
        shapes: Ellipsoids, all in front of the source.
        geometry: Source and detector.

    Returns:
        Sum of attenuation times length, without unit, shape (height, width), in 32 bits.
    """
    return collected(shadows(shapes, geometry), shapes, geometry)


def collected(shadow: Shadows, shapes: Ellipsoids, geometry: Geometry) -> Floats:
    """What `line_integral` gives, from the shadows of the ellipsoids."""
    values, places = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
    widths = np.array([0, *(width for width in _WIDTHS if width < geometry.width), geometry.width])
    for kind, width, first, span in _alike(*_spans(shadow, shapes, geometry, widths), widths):
        column = np.arange(width)[:, None]
        values.append(_collected(kind, column.astype(np.float32), span).reshape(-1))
        places.append((first + column).reshape(-1))
    total = np.bincount(np.concatenate(places), np.concatenate(values), geometry.height * geometry.width)
    return np.asarray(total.reshape(geometry.height, geometry.width).astype(np.float32) * geometry.distance)


def _collected(kind: int, column: Floats, span: Floats) -> Floats:
    """What rays collect per cm between source and detector, for the columns (W, 1) of S spans, shape (W, S)."""
    start, step, q, qt, qtt, weight = span
    t = column * step
    t += start
    tt = t * t
    square = qtt * tt
    square += np.multiply(t, qt, out=t)
    square += q
    inside = np.subtract(1, tt, out=tt)
    np.maximum(inside, 0, out=inside)
    inside /= square
    value = _profile(kind, inside)
    value *= weight
    value /= np.sqrt(square, out=square)
    return value


def _profile(kind: int, inside: Floats) -> Floats:
    """Power of 1 - (distance of the ray from the centre)^2 that a density profile projects to."""
    root = np.sqrt(inside)
    if KINDS[kind] == "rod":
        return np.asarray(np.sqrt(root, out=root))
    if KINDS[kind] == "soft":
        root *= inside
        root *= inside
    return np.asarray(root)


def _spans(
    shadow: Shadows, shapes: Ellipsoids, geometry: Geometry, widths: Integers
) -> tuple[Integers, Integers, Integers, Floats]:
    """The rows of all shadows, each as wide as the first of some widths that is enough, though not beyond the image.

    Returns:
        Kind of profile, index of the width, and place of the first pixel in the image, each (S,); and (6, S) what
        `_collected` takes: t at the first pixel, and its step to the next, on a scale that runs from -1 to 1 in the
        shadow; factors of 1, t and t^2 in the squared direction over the greatest depth in the row; and the weight.
    """
    top, rows = _between(shadow.box[2], shadow.box[3], geometry.height)
    owner = np.repeat(np.arange(len(rows)), rows)
    y = np.arange(len(owner)) - np.repeat(np.cumsum(rows) - rows - top, rows)
    scale = np.array([scale for _, scale in PROFILES.values()])[shapes.kind]
    (column, row), (peak, dxx, dxy, dyy), (q, qx, qy, qxx, qxy, qyy) = shadow.middle, shadow.depth, shadow.square
    # In a row, t counts from the middle of the shadow's stretch of it, which leans from row to row; s counts the rows.
    lean = -dxy / (2 * dxx)
    cross = qxy + lean * qxx
    roots = [peak, dyy + lean * dxy / 2, dxx]
    squares = [q, qy + lean * qx, qyy + lean * cross, qx, cross + lean * qxx, qxx]
    of_span = np.array([column, row, lean, *roots, *squares, shapes.density * scale], np.float32)
    column, row, lean, peak, fall, bend, q, qs, qss, qt, qst, qtt, weight = np.repeat(of_span, rows, axis=1)
    s = y.astype(np.float32) - row
    # A row that only just meets the shadow has a depth, though not much of one.
    depth = np.maximum(peak + fall * s * s, 1e-7 * peak)
    half, middle = np.sqrt(-depth / bend), column + lean * s
    left, width = _between(middle - half, middle + half, geometry.width)
    wide = np.searchsorted(widths, width)
    left = np.minimum(left, geometry.width - widths[wide])
    step = 1 / half
    square = [q + s * (qs + s * qss), (qt + s * qst) * half, qtt * half * half]
    span = np.array(
        [(left.astype(np.float32) - middle) * step, step, *(part / depth for part in square), weight / np.sqrt(depth)]
    )
    return shapes.kind[owner], wide, y * geometry.width + left, span


def _between(low: Floats, high: Floats, size: int) -> tuple[Integers, Integers]:
    """First pixel and number of pixels whose centres lie between two coordinates in pixels."""
    first = np.ceil(np.minimum(np.maximum(low, 0), size)).astype(np.int32)
    last = np.floor(np.minimum(np.maximum(high, -1), size - 1)).astype(np.int32)
    return first, np.maximum(last - first + 1, 0)


def _alike(
    kind: Integers, wide: Integers, first: Integers, span: Floats, widths: Integers
) -> Iterator[tuple[int, int, Integers, Floats]]:
    """Spans of the same kind and width together, without those that are empty."""
    group = (kind * len(widths) + wide).astype(np.uint8)
    order = np.argsort(group, kind="stable")
    first, span = first[order], span[:, order]
    ends = np.cumsum(np.bincount(group)).tolist()
    for number, (begin, end) in enumerate(pairwise([0, *ends])):
        of_kind, of_width = divmod(number, len(widths))
        if begin < end and of_width:
            yield of_kind, int(widths[of_width]), first[begin:end], span[:, begin:end]
