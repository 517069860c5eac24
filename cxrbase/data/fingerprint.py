"""Fingerprints of decoded images: one that finds exact copies and one that finds changed ones."""

import hashlib
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 32
_FREQUENCIES = 11
_PART = 50_000
DIGITS = _FREQUENCIES**2 - 1


def pixel_sha1(image: NDArray[np.uint8]) -> str:
    """SHA-1 of the shape and the pixels of an (H, W) uint8 image, as 40 hex digits."""
    digest = hashlib.sha1(repr(image.shape).encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def perceptual_hash(image: NDArray[np.uint8]) -> str:
    """Describes the coarse layout of an image, whatever its size, window, gamma or compression.

    Args:
        image: (H, W) uint8.

    Returns:
        DIGITS hex digits, one for each low frequency of the cosine transform of the ranks of the grey values:
        0 very negative, 15 very positive. Compare with `digits_of`; hashes of copies differ by little in few digits.
    """
    transform, scale = _basis(), _scale()
    coefficients = transform @ _ranks(_shrink(image)) @ transform.T / scale
    digits = np.clip(16 / (1 + np.exp(-1.7 * coefficients.ravel()[1:])), 0, 15).astype(np.uint8)
    return "".join(f"{digit:x}" for digit in digits)


def digits_of(hashes: list[str]) -> NDArray[np.uint8]:
    """Digits of hashes, (N, DIGITS) uint8 from 0 to 15; ValueError where one has another length or is not hex."""
    for text in hashes:
        if len(text) != DIGITS:
            raise ValueError(f"a perceptual hash has {DIGITS} hex digits, got {len(text)}: {text[:20]!r}")
    packed = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), DIGITS // 2)
    return np.stack([packed >> 4, packed & 15], axis=-1).reshape(len(hashes), DIGITS)


def mirrored(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Digits, (N, DIGITS), of the images flipped left to right: odd columns of a cosine transform change sign."""
    odd = (np.arange(DIGITS) + 1) % _FREQUENCIES % 2 == 1
    return np.where(odd, 15 - digits, digits).astype(np.uint8)


def trimmed(digits: NDArray[np.uint8], top: float, bottom: float, left: float, right: float) -> NDArray[np.float32]:
    """Estimates how the images would be described without a share of each side.

    Args:
        digits: (N, DIGITS) uint8.
        top: Share of the height that is cut off above.
        bottom: The same below.
        left: Share of the width that is cut off at the left.
        right: The same at the right.

    Returns:
        Coefficients, (N, DIGITS) float32 with about unit variance, as `trimmed(digits, 0, 0, 0, 0)` gives them.
    """
    transform, scale = _basis(), _scale().ravel()
    rows, columns = transform @ _resampled(top, bottom), transform @ _resampled(left, right)
    # One product for all images: what a trim makes of each coefficient. The first, the mean, is zero before and unused.
    change = (np.kron(rows, columns) * scale / scale[:, None])[1:, 1:]
    return _values(digits) @ np.asarray(change.T, np.float32)


def described(hashes: list[str]) -> NDArray[np.float32]:
    """Coefficients of whole images, as `trimmed` gives them, (N, DIGITS) float32."""
    # In parts, because on their way the coefficients of a million images take several times their hashes.
    parts = [hashes[start : start + _PART] for start in range(0, len(hashes), _PART)]
    return np.concatenate([trimmed(digits_of(part), 0, 0, 0, 0) for part in parts])


def _values(digits: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The middle of what each digit stands for, in usual sizes of its coefficient."""
    middle = (np.arange(16) + 0.5) / 16
    table: NDArray[np.float32] = (np.log(middle / (1 - middle)) / 1.7).astype(np.float32)
    return table[digits]


@cache
def _scale() -> NDArray[np.float32]:
    """Usual size of each coefficient; on radiographs it falls with about the 1.4th power of the frequency."""
    row, column = np.indices((_FREQUENCIES, _FREQUENCIES))
    return np.asarray(12.0 / (0.5 + np.hypot(row, column)) ** 1.4, np.float32)


def _resampled(before: float, after: float) -> NDArray[np.float32]:
    """Cosine functions on the part of a side that is left, (_SIDE, _FREQUENCIES)."""
    place = before + (np.arange(_SIDE) + 0.5) / _SIDE * (1 - before - after)
    frequencies = np.arange(_FREQUENCIES)
    weights: NDArray[np.float64] = np.sqrt(np.where(frequencies == 0, 1, 2) / _SIDE)
    return np.asarray(weights * np.cos(np.pi * np.outer(place, frequencies)), np.float32)


@cache
def _basis() -> NDArray[np.float32]:
    """Orthonormal cosine transform, (_FREQUENCIES, _SIDE)."""
    return _resampled(0, 0).T


def _shrink(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    small = Image.fromarray(image)
    # Averages in 8 bits down to a few pixels per cell, because floating point on all pixels takes longer than decoding.
    small = small.reduce((max(1, small.width // 256), max(1, small.height // 256)))
    return np.asarray(small.convert("F").resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rank of each value from -1 to 1, which no monotone change of grey alters; equal values share a rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray((2 * ranks - 1)[inverse.reshape(values.shape)] / values.size - 1, np.float32)
