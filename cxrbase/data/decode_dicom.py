"""Reads a DICOM radiograph: stored values, modality step, window and polarity, in this order."""

import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.decode_image import MAX_PIXELS, Pixels, Radiograph, Refused, check_size, narrow
from cxrbase.data.decode_stored import is_signed, stored_bits, stored_values

_DEFLATED = "1.2.840.10008.1.2.1.99"
_PIXEL_DATA = 0x7FE00010


def read_dicom(path: Path, min_side: int | None = None) -> Radiograph:
    """Reads an image of one frame.

    Args:
        path: File of any transfer syntax that numpy or ITK decodes.
        min_side: Sides of compressed images may come halved, repeatedly, as long as none gets shorter than this.

    Returns:
        Values after the modality step, and what the file says of their polarity, padding and window.

    Raises:
        Refused: Several frames, too many pixels, or less data than the header declares.
    """
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        return _read(path, min_side)
    except (BytesLengthException, InvalidDicomError) as error:
        # pydicom converts an element when it is first used, so this can come from any line.
        raise Refused(f"its header is damaged ({str(error)[:200]})") from error


def _read(path: Path, min_side: int | None) -> Radiograph:
    data = _read_header(path)
    if _is_colour(data):
        return Radiograph(narrow(stored_values(data, min_side)))
    # Averages of padding and of measurements would be neither, and those of a table's inputs are not its outputs.
    exact = "PixelPaddingValue" in data or "ModalityLUTSequence" in data
    stored = stored_values(data, None if exact else min_side)
    values, mirror = _modality(data, stored)
    # A shape of INVERSE says of MONOCHROME1 what is known already.
    is_dark = "MONOCHROME1" in str(data.get("PhotometricInterpretation", ""))
    is_dark |= str(data.get("PresentationLUTShape", "")).strip() == "INVERSE"
    return Radiograph(narrow(values), mirror if is_dark else None, _padding(data, stored), _voi(data))


def _is_colour(data: Any) -> bool:
    return int(data.get("SamplesPerPixel", 1)) > 1 or data.get("PhotometricInterpretation") == "PALETTE COLOR"


def _read_header(path: Path) -> Any:
    """The data set, refused where it holds less than it declares.

    A decoder would reserve up to 4 GB for the rest, or fill up the image with whatever is in memory.
    """
    import pydicom
    from pydicom.dataelem import RawDataElement

    _check_inflated(path)
    data = pydicom.dcmread(path, defer_size=1024, force=True)
    width, height = int(data.get("Columns", 0)), int(data.get("Rows", 0))
    samples, bits = data.get("SamplesPerPixel", 1), int(data.get("BitsAllocated", 16))
    frames = int(data.get("NumberOfFrames", 1) or 1)
    if width < 1 or height < 1:
        raise Refused("its header declares no pixels")
    check_size(width, height)
    if frames > 1:
        raise Refused(f"it holds {frames} frames")
    size = path.stat().st_size
    for element in (data.get_item(tag, keep_deferred=True) for tag in list(data.keys())):
        # Other elements are sequences, or compressed pixels, which have no length of their own.
        if not isinstance(element, RawDataElement) or element.length == 0xFFFFFFFF:
            continue
        if element.value_tell + element.length > size and not _is_deflated(data.file_meta):
            raise Refused(f"it ends {element.value_tell + element.length - size} bytes early")
        # Colour may be stored at half the resolution.
        needed = width * height * bits // 8
        if element.tag == _PIXEL_DATA and samples == 1 and element.length < needed:
            raise Refused(f"it holds {element.length} of {needed} bytes of pixels")
    return data


def _is_deflated(meta: Any) -> bool:
    return bool(meta.get("TransferSyntaxUID") == _DEFLATED)


def _check_inflated(path: Path) -> None:
    """A deflated file of a megabyte can hold a gigabyte."""
    from pydicom.filereader import read_file_meta_info, read_preamble

    with path.open("rb") as file:
        if read_preamble(file, force=True) is None:
            return
    meta = read_file_meta_info(path)
    if not _is_deflated(meta):
        return
    start = 144 + int(meta.get("FileMetaInformationGroupLength", 0))
    limit = 4 * MAX_PIXELS
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflater.decompress(path.read_bytes()[start:], limit)
    if inflater.unconsumed_tail:
        raise Refused(f"it inflates to more than {limit:,} bytes")


def _modality(data: Any, stored: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """Values of the modality, and the sum of the smallest and largest that are possible."""
    if data.get("ModalityLUTSequence"):
        first, table, bits = _table(data, data.ModalityLUTSequence[0])
        return table[np.clip(stored.astype(np.int64) - first, 0, table.size - 1)], float(2**bits - 1)
    bits = stored_bits(data)
    if not is_signed(data):
        # Some compressed files have more bits than they say.
        bits = max(bits, int(stored.max()).bit_length())
    ends = -1 if is_signed(data) else 2**bits - 1
    slope, intercept = (float(data.get(name) or default) for name, default in _RESCALE)
    if not np.isfinite([slope, intercept]).all():
        raise Refused("its rescale is not a number")
    mirror = slope * ends + 2 * intercept
    if (slope, intercept) == (1, 0):
        return stored, mirror
    if slope.is_integer() and intercept.is_integer() and abs(slope) < 2**15 and abs(intercept) < 2**31:
        return stored.astype(np.int64) * int(slope) + int(intercept), mirror
    return stored * np.float32(slope) + np.float32(intercept), mirror


# A slope of 0 would make every image blank; it is read as if it were absent.
_RESCALE = (("RescaleSlope", 1), ("RescaleIntercept", 0))


def _table(data: Any, item: Any) -> tuple[int, NDArray[Any], int]:
    """First input, outputs and their bits of a lookup table."""
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    entries = item.LUTData
    if isinstance(entries, bytes):
        order = "<" if data.original_encoding[1] else ">"
        # Entries of 8 bits may come two in a word.
        table: NDArray[Any] = np.frombuffer(entries, f"{order}u2" if len(entries) >= 2 * (count or 2**16) else "u1")
    else:
        table = np.atleast_1d(np.asarray(entries))
    table = table[: count or 2**16].astype(np.uint16)
    if not table.size or not 1 <= bits <= 16:
        raise Refused("its lookup table is damaged")
    return first, table, bits


def _padding(data: Any, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where the detector measured nothing."""
    value = data.get("PixelPaddingValue")
    if value is None:
        return None
    limit = data.get("PixelPaddingRangeLimit")
    low, high = sorted(_stored(data, int(number)) for number in (value, value if limit is None else limit))
    found = stored == low if low == high else (stored >= low) & (stored <= high)
    return np.asarray(found) if found.any() else None


def _stored(data: Any, number: int) -> int:
    """Writers disagree on whether the padding of signed pixels has a sign."""
    span = 2 ** int(data.get("BitsAllocated", 16))
    number %= span
    return number - span if is_signed(data) and number >= span // 2 else number


def _voi(data: Any) -> Callable[[Pixels], NDArray[np.float32]] | None:
    """The table of the file, or else its first window; None where neither is usable."""
    from pydicom.errors import BytesLengthException

    try:
        if data.get("VOILUTSequence"):
            return partial(_look_up, *_table(data, data.VOILUTSequence[0]))
        center, width = (_first(data.get(name)) for name in ("WindowCenter", "WindowWidth"))
        function = str(data.get("VOILUTFunction") or "LINEAR").strip()
    except (Refused, BytesLengthException, AttributeError, TypeError, ValueError, IndexError):
        return None  # the image is as good without
    if not np.isfinite([center, width]).all() or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return partial(_window, center, width, function)


def _first(value: Any) -> float:
    from pydicom.multival import MultiValue

    return float(value[0] if isinstance(value, MultiValue) else value)


def _look_up(first: int, table: NDArray[Any], bits: int, values: Pixels) -> NDArray[np.float32]:
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, table.size - 1)
    return np.asarray((table.astype(np.float32) / np.float32(2**bits - 1)).clip(0, 1)[index])


def _window(center: float, width: float, function: str, values: Pixels) -> NDArray[np.float32]:
    """The three functions of PS3.3 C.11.2.1; an unknown one is read as LINEAR."""
    if function == "SIGMOID":
        exponent = (values.astype(np.float32) - np.float32(center)) * np.float32(-4 / width)
        return np.asarray(np.float32(1) / (1 + np.exp(exponent.clip(-80, 80))))
    if function != "LINEAR_EXACT":
        center, width = center - 0.5, width - 1
    if width <= 0:
        return (values > center).astype(np.float32)
    shown = (values.astype(np.float32) - np.float32(center)) * np.float32(1 / width) + np.float32(0.5)
    return np.asarray(shown.clip(0, 1))
