"""Reads one radiograph of any usual format: one channel, bone bright, no bit clipped."""

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cxrbase.errors import DecodeError

DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})
IMAGE_SUFFIXES = DICOM_SUFFIXES | {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".jp2"}
# 10,000 x 10,000; detectors have up to 25 million pixels.
MAX_PIXELS = 100_000_000
INTENSITY_CONVENTION = (
    "bone bright; 8-bit images as stored, deeper ones mapped linearly from their 0.1st and 99.9th percentile to 0..255"
)
_PHOTOMETRIC = 262  # TIFF tag
Pixels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]

# What the readers were seen to raise on damaged files.
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error,
            AttributeError, OverflowError, MemoryError, NotImplementedError)  # fmt: skip


def decode(path: str | Path, *, source: str = "") -> Pixels:
    """Reads an image.

    Args:
        path: A DICOM, PNG (8 or 16 bit, palette, alpha), JPEG, TIFF, WebP, BMP or JPEG 2000 file.
        source: Data set that it belongs to, for the error.

    Returns:
        (H, W) with bone bright, of the depth of the file: uint8, uint16, or float32 for what fits neither.

    Raises:
        DecodeError: The file is missing, empty, damaged, too large, or holds several frames.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DecodeError(source, str(path), f"{error.strerror or error}") from error
    if not size:
        raise DecodeError(source, str(path), "the file is empty")
    try:
        with path.open("rb") as file:
            head = file.read(132)
        dicom = head[128:] == b"DICM" or path.suffix.lower() in DICOM_SUFFIXES
        pixels = _read_dicom(path) if dicom else _read_raster(path)
    except _Refused as error:
        raise DecodeError(source, str(path), str(error)) from error
    except Image.DecompressionBombError as error:
        raise DecodeError(source, str(path), f"it has more than {MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise DecodeError(source, str(path), "it is not an image of a known format, or it is damaged") from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DecodeError(source, str(path), f"it is damaged ({reason})") from error
    if 0 in pixels.shape:
        raise DecodeError(source, str(path), "it has no pixels")
    return pixels


def to_uint8(pixels: Pixels) -> NDArray[np.uint8]:
    """Brings pixels of any depth to 8 bits, see INTENSITY_CONVENTION; a constant image becomes 0.

    Args:
        pixels: (H, W) uint8, uint16 or finite float32.
    """
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    # Every 4th pixel of large images is enough for a percentile and saves most of the time.
    step = 1 if pixels.size < 1_000_000 else 4
    low, high = np.percentile(pixels[::step, ::step], [0.1, 99.9])
    if high <= low:
        low, high = float(pixels.min()), float(pixels.max())
    if high <= low:
        return np.zeros(pixels.shape, np.uint8)
    scaled = (pixels.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.asarray(np.rint(scaled.clip(0, 255)), np.uint8)


class _Refused(Exception):
    """What a reader does not take, as half a sentence."""


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _Refused(f"it is {width} x {height} pixels, more than {MAX_PIXELS:,}")


def _read_raster(path: Path) -> Pixels:
    with warnings.catch_warnings():
        # Pillow only warns between one and two times its own limit; ours is checked below.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image: Image.Image = Image.open(path)
    with image:
        _check_size(*image.size)
        if getattr(image, "n_frames", 1) > 1 and image.format not in ("PNG", "MPO"):
            raise _Refused(f"it holds {image.n_frames} frames")  # type: ignore[attr-defined]
        white_is_zero = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
        # Viewers turn a photograph by its EXIF tag, so whoever labelled the image saw it turned.
        image = ImageOps.exif_transpose(image)
        if image.mode == "L":
            return np.array(image)
        if image.mode.startswith("I;16"):
            values = np.array(image).astype(np.uint16)
            # Pillow turns white-is-zero TIFFs of 8 bits itself, and leaves those of 16 as they are.
            return np.uint16(65535) - values if white_is_zero else values
        if image.mode in ("I", "F"):
            return _narrow(np.array(image))
        if image.mode == "LA":
            return np.array(image.getchannel("L"))
        return np.array(image.convert("RGB").convert("L"))


def _narrow(values: NDArray[Any]) -> Pixels:
    """The smallest of uint8, uint16 and float32 that holds all values unchanged."""
    if not np.isfinite(values).all():
        raise _Refused("it holds NaN or infinite values")
    if np.issubdtype(values.dtype, np.integer) and values.min() >= 0 and values.max() < 2**16:
        return values.astype(np.uint8) if values.dtype == np.uint8 else values.astype(np.uint16)
    return values.astype(np.float32)


def _read_dicom(path: Path) -> Pixels:
    """Modality rescale applied and MONOCHROME1 turned bone bright, both by the DICOM library of ITK."""
    import SimpleITK

    _check_dicom(path)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        _check_size(size[0], size[1])
        if len(size) > 2 and size[2] > 1:
            raise _Refused(f"it holds {size[2]} frames")
        image = reader.Execute()
    except RuntimeError as error:
        raise _Refused(f"the DICOM file cannot be read ({_itk_reason(error)})") from error
    values = SimpleITK.GetArrayFromImage(image)
    values = values[0] if len(size) > 2 else values
    return _narrow(values.mean(-1) if values.ndim == 3 else values)


def _check_dicom(path: Path) -> None:
    """Refuses a file that holds less than it declares.

    ITK would reserve up to 4 GB for the rest, or fill up the image with whatever is in memory.
    """
    import pydicom
    from pydicom.dataelem import RawDataElement
    from pydicom.errors import BytesLengthException

    try:
        header = pydicom.dcmread(path, defer_size=1024, force=True)
        width, height = int(header.get("Columns", 0)), int(header.get("Rows", 0))
        samples, bits = header.get("SamplesPerPixel", 1), int(header.get("BitsAllocated", 16))
    except BytesLengthException as error:
        raise _Refused(f"its header is damaged ({error})") from error
    if width < 1 or height < 1:
        raise _Refused("its header declares no pixels")
    _check_size(width, height)
    size = path.stat().st_size
    for element in (header.get_item(tag, keep_deferred=True) for tag in list(header.keys())):
        # Other elements are sequences, or compressed pixels, which have no length of their own.
        if not isinstance(element, RawDataElement) or element.length == 0xFFFFFFFF:
            continue
        if element.value_tell + element.length > size and not _deflated(header):
            raise _Refused(f"it ends {element.value_tell + element.length - size} bytes early")
        # Colour may be stored at half the resolution.
        needed = width * height * bits // 8
        if element.tag == 0x7FE00010 and samples == 1 and element.length < needed:
            raise _Refused(f"it holds {element.length} of {needed} bytes of pixels")


def _deflated(header: Any) -> bool:
    return bool(header.file_meta.get("TransferSyntaxUID") == "1.2.840.10008.1.2.1.99")


def _itk_reason(error: RuntimeError) -> str:
    lines = [line.split("ERROR:")[-1].strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given")[:200]
