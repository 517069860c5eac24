"""Turns one original into the small encoded image that a shard holds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.decode import Window, decode_uint8
from cxrbase.data.fingerprint import perceptual_hash, pixel_sha1
from cxrbase.data.grey import statistics
from cxrbase.data.reading import Reading
from cxrbase.data.shards import Codec
from cxrbase.errors import ConfigError, DecodeError

# zlib's own default; the encoders' faster levels make files a fifth larger.
_PNG_COMPRESSION = 6
# Halving is nearly free, so an image may come out this share shorter than asked for: 2,000 pixels as 500, not 512.
_SHORTER = 32


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How an original becomes a small image.

    Args:
        size: Shorter side in pixels; smaller originals keep theirs, and halving may end up to 3 % below.
        codec: `jpeg`, or `png` without loss, which takes about twice the space.
        quality: Of the JPEG, 1 to 100; 90 loses 0.5 dB on a crop of 224.
        window: How deeper originals become 8 bits, see `data.decode.intensity_convention`.
        crop_borders: Cut off black borders.
    """

    size: int = 512
    codec: Codec = "jpeg"
    quality: int = 90
    window: Window = "percentile"
    crop_borders: bool = False

    @property
    def reading(self) -> Reading:
        """How originals are read."""
        return Reading(self.window, self.crop_borders)

    def __post_init__(self) -> None:
        if self.size < 16:
            raise ConfigError(f"size must be at least 16 pixels, got {self.size}")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality must be from 1 to 100, got {self.quality}")


@dataclass(frozen=True)
class PackedImage:
    """An encoded image.

    Attributes:
        data: The file.
        width: In pixels.
        height: In pixels.
        sha1: Of the pixels before they were encoded.
        phash: See data/fingerprint.py.
        histogram: (256,) int64, pixels by grey value.
        statistics: See data/grey.py.
    """

    data: bytes
    width: int
    height: int
    sha1: str
    phash: str
    histogram: NDArray[np.int64]
    statistics: dict[str, float]


def pack_image(path: Path, options: ImageOptions, *, source: str = "") -> PackedImage:
    """Reads, shrinks, fingerprints and encodes an original; DecodeError where it cannot be."""
    enough = options.size - options.size // _SHORTER
    image = decode_uint8(path, source=source, window=options.window, min_side=enough, crop=options.crop_borders)
    small = resize_short_side(image, options.size)
    try:
        data = encode(small, options)
    except ValueError as error:
        raise DecodeError(source, str(path), str(error)) from error
    height, width = small.shape
    counts = np.bincount(small.ravel(), minlength=256).astype(np.int64)
    return PackedImage(data, width, height, pixel_sha1(small), perceptual_hash(small), counts, statistics(small))


def resize_short_side(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Shrinks an (H, W) image until its shorter side has `size` pixels, by area; nothing is enlarged or distorted."""
    height, width = image.shape
    if min(height, width) <= size:
        return np.ascontiguousarray(image)
    import cv2

    factor = size / min(height, width)
    taken = round(width * factor), round(height * factor)
    return np.asarray(cv2.resize(np.ascontiguousarray(image), taken, interpolation=cv2.INTER_AREA), np.uint8)


def encode(image: NDArray[np.uint8], options: ImageOptions) -> bytes:
    """An (H, W) image as a file of the codec; ValueError where it is too long for it."""
    import cv2

    flags = [cv2.IMWRITE_JPEG_QUALITY, options.quality]
    if options.codec == "png":
        flags = [cv2.IMWRITE_PNG_COMPRESSION, _PNG_COMPRESSION]
    elif max(image.shape) > 65_500:  # what libjpeg takes
        raise ValueError(f"it is {image.shape[1]} x {image.shape[0]} pixels when shrunk, too long for a JPEG")
    _, data = cv2.imencode(f".{options.codec}", image, flags)
    return data.tobytes()
