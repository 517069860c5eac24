"""Reads one radiograph of any common format: one channel, bone bright, at full depth."""

import os
import struct
import zlib
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cxrbase.data.decode_dicom import read_dicom
from cxrbase.data.decode_image import MAX_PIXELS, UNKNOWN_FORMAT, Pixels, Radiograph, Refused, shrink
from cxrbase.data.decode_raster import read_raster
from cxrbase.errors import ConfigError, DecodeError

__all__ = [
    "DICOM_SUFFIXES",
    "IMAGE_NAMES",
    "IMAGE_SUFFIXES",
    "INTENSITY_CONVENTION",
    "MAX_PIXELS",
    "Pixels",
    "Window",
    "crop_borders",
    "decode",
    "decode_uint8",
    "intensity_convention",
    "is_image",
    "to_uint8",
]

Window = Literal["percentile", "dicom"]
DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})
IMAGE_SUFFIXES = DICOM_SUFFIXES | {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".jp2"}
IMAGE_NAMES = f"{', '.join(sorted(IMAGE_SUFFIXES))}, and DICOM files of any name"
INTENSITY_CONVENTION = (
    "bone bright; 8-bit images as stored, deeper ones mapped linearly from their 0.1st and 99.9th percentile to 0..255"
)
_BY_FILE = (
    "bone bright; DICOM images by the VOI LUT or first window of their file; where there is none, 8-bit images as "
    "stored and deeper ones mapped linearly from their 0.1st and 99.9th percentile to 0..255"
)

# What the readers raise on damaged files: MemoryError, for one, is Pillow's for a JPEG 2000 header that asks too much,
# NotImplementedError pydicom's for an unknown kind of value, AttributeError where such a value decides on others.
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error,
            AttributeError, OverflowError, MemoryError, NotImplementedError)  # fmt: skip


def is_image(path: str | Path) -> bool:
    """Whether a file counts as an image where nobody named it.

    Archives write DICOM files without a suffix (IM0001) or with a number for one, so a file of no known suffix counts
    if it has the mark of DICOM. Only such files are opened.

    Args:
        path: An existing file.
    """
    name, suffix = os.path.basename(path), os.path.splitext(path)[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    # A DICOMDIR has the mark too, and lists the others. Whatever is no regular file may block who opens it.
    if name.upper() == "DICOMDIR" or not os.path.isfile(path):
        return False
    try:
        return _has_dicom_mark(path)
    except OSError:
        return False


def decode(path: str | Path, *, source: str = "") -> Pixels:
    """Reads an image in full size and depth.

    Args:
        path: A DICOM, PNG (8 or 16 bit, palette, alpha), JPEG, TIFF, WebP, BMP or JPEG 2000 file.
        source: Data set that it belongs to, for the error.

    Returns:
        (H, W) with bone bright, of the depth of the file: uint8, uint16, or float32 for what fits neither. Padding of
        a DICOM image is as dark as the darkest of its other pixels.

    Raises:
        DecodeError: The file is missing, empty, damaged, too large, or holds several frames.
    """
    return _read(Path(path), source, None).bone_bright()


def decode_uint8(
    path: str | Path,
    *,
    source: str = "",
    window: Window = "percentile",
    min_side: int | None = None,
    crop: bool = False,
) -> NDArray[np.uint8]:
    """Reads an image as 8 bits, in reduced resolution where that is enough.

    Args:
        path: As of `decode`.
        source: Data set that it belongs to, for the error.
        window: How deeper images become 8 bits, see `intensity_convention`.
        min_side: Halves the sides repeatedly as long as the shorter one keeps this many pixels; None reads the full
            size.
        crop: Cut off black borders, see `crop_borders`; the shorter side is counted without them.

    Returns:
        (H, W) uint8 with bone bright; padding of a DICOM image is 0 and has no part in the window.

    Raises:
        DecodeError: The file is missing, empty, damaged, too large, or holds several frames.
    """
    intensity_convention(window)
    image = _eight_bits(_read(Path(path), source, min_side), window, min_side)
    if not crop:
        return image
    top, left, height, width = crop_borders(image)
    if min_side is not None and min(height, width) < min_side:
        return decode_uint8(path, source=source, window=window, crop=True)
    return image[top : top + height, left : left + width]


def intensity_convention(window: Window = "percentile") -> str:
    """What brightness means in the images of `decode_uint8`, for records of a run.

    Raises:
        ConfigError: There is no such window.
    """
    if window not in get_args(Window):
        raise ConfigError(f"window must be one of {', '.join(get_args(Window))}, got {window!r}")
    return _BY_FILE if window == "dicom" else INTENSITY_CONVENTION


def to_uint8(pixels: Pixels) -> NDArray[np.uint8]:
    """Brings pixels of any depth to 8 bits, see INTENSITY_CONVENTION; a constant image becomes 0.

    Args:
        pixels: (H, W) uint8, uint16 or finite float32.
    """
    return _stretch(pixels, *_limits(pixels))


def crop_borders(image: NDArray[np.uint8], *, tolerance: int = 8) -> tuple[int, int, int, int]:
    """Finds the part of an image inside borders that are black throughout.

    Args:
        image: (H, W) uint8.
        tolerance: Largest value that counts as black; a lossy format does not keep 0 exactly.

    Returns:
        Top, left, height and width of the part; the whole of an image that is black everywhere.
    """
    rows = np.flatnonzero(image.max(1) > tolerance)
    columns = np.flatnonzero(image.max(0) > tolerance)
    if not rows.size:
        return 0, 0, *image.shape
    return int(rows[0]), int(columns[0]), int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1


def _read(path: Path, source: str, min_side: int | None) -> Radiograph:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DecodeError(source, str(path), f"{error.strerror or error}") from error
    if not size:
        raise DecodeError(source, str(path), "the file is empty")
    try:
        dicom = _has_dicom_mark(path) or path.suffix.lower() in DICOM_SUFFIXES
        image = read_dicom(path, min_side) if dicom else Radiograph(read_raster(path, min_side))
    except Refused as error:
        raise DecodeError(source, str(path), str(error)) from error
    except Image.DecompressionBombError as error:
        raise DecodeError(source, str(path), f"it has more than {MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise DecodeError(source, str(path), UNKNOWN_FORMAT) from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DecodeError(source, str(path), f"it is damaged ({reason})") from error
    if 0 in image.values.shape:
        raise DecodeError(source, str(path), "it has no pixels")
    return image


def _has_dicom_mark(path: str | Path) -> bool:
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def _eight_bits(image: Radiograph, window: Window, min_side: int | None) -> NDArray[np.uint8]:
    # Small images convert faster, but padding must not be averaged with its neighbours.
    before, after = (min_side, None) if image.padding is None else (None, min_side)
    shown = None
    if window == "dicom" and image.voi is not None:
        brightness = image.voi(shrink(image.values, before))
        brightness = brightness if image.mirror is None else 1 - brightness
        shown = np.asarray(np.rint(brightness * 255), np.uint8)
        if shown.min() == shown.max():
            shown = None  # a window beside all values shows nothing
    if shown is None:
        pixels = image.bone_bright()
        low, high = _limits(pixels, image.padding)
        shown = _stretch(shrink(pixels, before), low, high)
    if image.padding is not None:
        shown = np.where(image.padding, np.uint8(0), shown)
    return np.asarray(shrink(shown, after), np.uint8)


def _limits(pixels: Pixels, padding: NDArray[np.bool_] | None = None) -> tuple[float, float]:
    """Values that become 0 and 255; the same twice for an image without contrast."""
    if pixels.dtype == np.uint8:
        return 0.0, 255.0
    # Every 4th pixel of large images is enough for a percentile and saves most of the time.
    step = 1 if pixels.size < 1_000_000 else 4
    counted = pixels[::step, ::step]
    if padding is not None and not padding[::step, ::step].all():
        counted = counted[~padding[::step, ::step]]
    low, high = np.percentile(counted, [0.1, 99.9])
    return (low, high) if low < high else (float(pixels.min()), float(pixels.max()))


def _stretch(pixels: Pixels, low: float, high: float) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    if high <= low:
        return np.zeros(pixels.shape, np.uint8)
    if pixels.dtype == np.uint16 and pixels.size > 2**18:
        # A table of all values is filled faster than the image, and holds the same results.
        return np.asarray(_stretch(np.arange(2**16, dtype=np.float32)[None], low, high)[0][pixels])
    scaled = (pixels.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.asarray(np.rint(scaled.clip(0, 255)), np.uint8)
