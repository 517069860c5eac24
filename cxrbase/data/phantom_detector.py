"""Detects the rays behind a phantom patient, and processes the image as the site does."""

from __future__ import annotations

import numpy as np

from cxrbase.data.phantom_exposure import Exposure, Site
from cxrbase.data.phantom_shapes import Floats

_GLYPHS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}


# Steps of the table that a site's processing is applied from.
_TONES = 2048


def smooth(image: Floats, sigma: float) -> Floats:
    """Gaussian blur with a standard deviation in pixels; the image is taken as continued by what is in it."""
    rows = _gaussian(image.shape[0], sigma)
    columns = rows if image.shape[0] == image.shape[1] else _gaussian(image.shape[1], sigma)
    return np.asarray(rows @ image @ columns.T)


def _gaussian(size: int, sigma: float) -> Floats:
    """Matrix of a Gaussian blur of so many pixels, each row with the sum 1, in 32 bits."""
    fall = np.exp(-0.5 * (np.arange(size) / max(sigma, 1e-3)) ** 2)
    # Numbers too small for 32 bits would hold up the multiplication.
    fall[fall < 1e-9] = 0
    # Row i is a stretch of one symmetric line, from its middle minus i.
    line = np.concatenate([fall[:0:-1], fall]).astype(np.float32)
    weight = np.lib.stride_tricks.sliding_window_view(line, size)[::-1]
    to_the_right = np.cumsum(fall)
    total = to_the_right + to_the_right[::-1] - fall[0]
    return np.asarray(weight / total.astype(np.float32)[:, None])


def detect(path: Floats, exposure: Exposure, rng: np.random.Generator) -> Floats:
    """Beer-Lambert, scatter, blur, photon noise and the logarithm of the detector's answer.

    Args:
        path: Line integral of attenuation, shape (H, W).
        exposure: How the image is taken.
        rng: Random numbers for the noise.

    Returns:
        Minus the logarithm of the share of photons that arrive, shape (H, W) in 32 bits; dense tissue is high.
    """
    per_cm = path.shape[1] / (2 * float(np.linalg.norm(exposure.geometry.right)))
    primary = np.exp(np.float32(-exposure.beam) * path.astype(np.float32))
    # Scatter arises in the body: the bare beam beside the patient makes little of it.
    fog = smooth(np.minimum(primary, np.float32(0.15)), 4.5 * per_cm)
    arriving = smooth(primary, exposure.site.blur * per_cm) + np.float32(exposure.scatter) * fog
    counts = count_photons(np.float32(exposure.photons) * arriving, rng)
    return np.asarray(np.float32(np.log(exposure.photons)) - np.log(counts + 1))


def count_photons(mean: Floats, rng: np.random.Generator) -> Floats:
    """Photon counts, which are as good as Poisson's where tens or more of them are expected.

    The first two terms of the expansion of Cornish and Fisher (1938) give them the mean, the variance and the
    skewness of Poisson's, for one normal number each: ten times as quick as the exact draw, and no count depends on
    how many numbers another one took.

    Args:
        mean: Expected photons, any shape, in 32 bits.
        rng: Random numbers.
    """
    normal = rng.standard_normal(mean.shape, np.float32)
    counts = mean + np.sqrt(mean) * normal + (normal * normal - 1) / 6
    return np.asarray(np.maximum(np.rint(counts), 0))


def develop(signal: Floats, exposure: Exposure, rng: np.random.Generator) -> Floats:
    """The site's processing: local contrast, window, tone curve, collimation and marker.

    Args:
        signal: Detector signal with dense tissue high, shape (H, W).
        exposure: How the image is taken.
        rng: Random numbers for the settings.

    Returns:
        Brightness in 0..1, shape (H, W).
    """
    site, per_cm = exposure.site, signal.shape[1] / (2 * float(np.linalg.norm(exposure.geometry.right)))
    flatten, detail = np.float32(rng.uniform(*site.flatten)), np.float32(rng.uniform(*site.detail))
    fine, broad = smooth(signal, per_cm), smooth(signal, 3.5 * per_cm)
    picture = (1 + detail) * signal - detail * fine - flatten * broad
    body = np.flatnonzero(signal > 0.35)
    inner = picture.reshape(-1)[body if len(body) > 0.2 * signal.size else slice(None)]
    marks = _quantiles(inner[:: max(1, inner.size // 3000)], 33)
    return _frame(_apply(picture, marks, _tones(marks, site, rng)), exposure.pose.view, rng)


def _quantiles(values: Floats, count: int) -> Floats:
    """Evenly spaced quantiles, from the least to the greatest of the values, in 64 bits."""
    ordered = np.sort(values).astype(np.float64)
    place = np.linspace(0, len(ordered) - 1, count)
    below = place.astype(np.int64)
    step = ordered[np.minimum(below + 1, len(ordered) - 1)] - ordered[below]
    return np.asarray(ordered[below] + (place - below) * step)


def _tones(marks: Floats, site: Site, rng: np.random.Generator) -> Floats:
    """The site's window, equalisation and tone curve: brightness for values from the first to the last quantile."""
    even = np.linspace(0, 1, len(marks))
    low, high = np.interp([rng.uniform(0, 0.04), rng.uniform(0.95, 1)], even, marks)
    values = np.linspace(marks[0], marks[-1], _TONES)
    window = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    share = rng.uniform(*site.equalise)
    window = (1 - share) * window + share * np.interp(values, marks, even)
    window = window ** rng.uniform(*site.gamma)
    black, white = rng.uniform(0, 0.1), rng.uniform(0.8, 1.0)
    return np.asarray(black + (white - black) * window)


def _apply(picture: Floats, marks: Floats, tones: Floats) -> Floats:
    """Values looked up in a table that is linear between its entries, and constant beyond them."""
    tones = tones.astype(np.float32)
    place = (picture - np.float32(marks[0])) * np.float32((len(tones) - 1) / max(marks[-1] - marks[0], 1e-6))
    np.minimum(np.maximum(place, 0, out=place), len(tones) - 1.001, out=place)
    below = place.astype(np.int64)
    place -= below.astype(np.float32)
    place *= np.diff(tones)[below]
    place += tones[below]
    return place


def _frame(picture: Floats, view: str, rng: np.random.Generator) -> Floats:
    """Collimation border and side marker."""
    height, width = picture.shape
    if rng.random() < 0.3:
        top, bottom, left, right = (rng.uniform(0, 0.06, 4) * [height, height, width, width]).astype(int)
        shut = np.ones(picture.shape, bool)
        shut[top : height - bottom, left : width - right] = False
        picture = np.where(shut, rng.choice([0.0, 0.0, 1.0]), picture)
    if rng.random() < 0.7:
        letter = "L" if view == "LATERAL" or rng.random() < 0.4 else "R"
        glyph = np.array([[int(c) for c in line] for line in _GLYPHS[letter]], bool)
        glyph = np.kron(glyph, np.ones((max(1, height // 128),) * 2, bool)).astype(bool)
        top = int(rng.uniform(0.03, 0.15) * height)
        left = int(rng.uniform(0.04, 0.1) * width)
        left = width - left - glyph.shape[1] if letter == "L" else left
        corner = picture[top : top + glyph.shape[0], left : left + glyph.shape[1]]
        corner[glyph] = np.maximum(corner[glyph], rng.uniform(0.85, 1.0))
    return picture
