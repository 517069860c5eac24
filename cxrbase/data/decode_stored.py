"""Reads the stored values of a DICOM file, before any step that interprets them."""

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrbase.data.decode_codestream import Codestream, frame_of, inspect, rle_segments
from cxrbase.data.decode_image import Refused, luma, reduction

_RLE = "1.2.840.10008.1.2.5"
_END_OF_JPEG = b"\xff\xd9"
# Lookup tables of palette images, which ITK applies.
_PALETTE = (0x00281101, 0x00281102, 0x00281103, 0x00281201, 0x00281202, 0x00281203)


def stored_values(data: Any, min_side: int | None = None) -> NDArray[Any]:
    """Decodes the pixels of a data set whose header was checked.

    Args:
        data: pydicom data set.
        min_side: The sides may come halved, repeatedly, as long as none gets shorter than this.

    Returns:
        (H, W) integers as stored, of the sign and the bits that the header names; colour turned to grey.

    Raises:
        Refused: The pixels do not fit the header or cannot be decoded.
    """
    if "PixelData" not in data:
        raise Refused("it holds no pixels")
    if not is_compressed(data):
        return _native(data)
    frame = frame_of(bytes(data.PixelData))
    if data.file_meta.TransferSyntaxUID == _RLE:
        return _run_lengths(data, frame)
    code = inspect(frame)
    _check(data, code)
    factor = min(reduction(data.Rows, data.Columns, min_side), 2**code.halvings)
    # Values of a palette are no brightness, and ITK looks them up.
    grey = code.samples == 1 and data.get("PhotometricInterpretation") != "PALETTE COLOR"
    if factor > 1 and grey and not code.signed and code.precision <= 16:
        return _aligned(data, _reduced(frame, code, factor), code)
    if code.lossless and grey and (values := _by_libjpeg(frame, code)) is not None:
        return _aligned(data, values, code)
    return _by_itk(data, frame, code)


def stored_bits(data: Any) -> int:
    """Bits of a stored value, from 1 to the bits allocated even where the header is wrong."""
    allocated = int(data.get("BitsAllocated", 16))
    return min(max(int(data.get("BitsStored", allocated)), 1), allocated)


def is_signed(data: Any) -> bool:
    """Whether stored values are two's complement."""
    return int(data.get("PixelRepresentation", 0)) == 1


def is_compressed(data: Any) -> bool:
    """Whether the pixels are fragments of a codestream; a file without syntax is taken for uncompressed."""
    syntax = data.file_meta.get("TransferSyntaxUID")
    return bool(syntax is not None and not syntax.is_private and syntax.is_encapsulated)


def _check(data: Any, code: Codestream) -> None:
    declared = int(data.Columns), int(data.Rows), int(data.get("SamplesPerPixel", 1))
    found = code.width, code.height, code.samples
    if found != declared:
        raise Refused(f"its compressed pixels are {found} wide, high and deep, its header says {declared}")
    if code.precision > int(data.get("BitsAllocated", 16)):
        raise Refused(f"its compressed pixels have {code.precision} bits, more than its header allocates")


def _native(data: Any) -> NDArray[Any]:
    """Uncompressed pixels; numpy alone is several times faster than any library of DICOM."""
    rows, columns, samples = int(data.Rows), int(data.Columns), int(data.get("SamplesPerPixel", 1))
    bits, raw = int(data.get("BitsAllocated", 16)), data.PixelData
    if bits not in (1, 8, 16, 32):
        raise Refused(f"its pixels have {bits} bits")
    photometric = str(data.get("PhotometricInterpretation", ""))
    halved = samples == 3 and "422" in photometric  # two pixels share their colour
    count = rows * columns * (2 if halved else samples)
    if len(raw) < -(-count * bits // 8):
        raise Refused(f"it holds {len(raw)} of {-(-count * bits // 8)} bytes of pixels")
    big = not data.original_encoding[1]
    if bits == 1:
        return np.unpackbits(np.frombuffer(raw, np.uint8), count=count, bitorder="little").reshape(rows, columns)
    if bits == 8 and big and data["PixelData"].VR == "OW":
        raw = np.frombuffer(raw, np.uint16).byteswap().tobytes()  # words of two pixels each
    values: NDArray[Any] = np.frombuffer(raw, f"{'>' if big else '<'}u{bits // 8}", count)
    if samples == 1:
        values = values.astype(values.dtype.newbyteorder("="), copy=False).reshape(rows, columns)
        return _by_palette(data, values) if photometric == "PALETTE COLOR" else _aligned(data, values)
    if halved:
        return values.reshape(-1, 4)[:, :2].reshape(rows, columns)
    return _grey(_planes_last(data, values), photometric)


def _planes_last(data: Any, values: NDArray[Any]) -> NDArray[Any]:
    rows, columns = int(data.Rows), int(data.Columns)
    if int(data.get("PlanarConfiguration", 0)) == 1:
        return np.moveaxis(values.reshape(-1, rows, columns), 0, -1)
    return values.reshape(rows, columns, -1)


def _grey(colour: NDArray[Any], photometric: str) -> NDArray[Any]:
    """The first channel of YBR is brightness itself."""
    return colour[..., 0] if photometric.startswith("YBR_FULL") or colour.shape[-1] < 3 else luma(colour[..., :3])


def _by_palette(data: Any, values: NDArray[Any]) -> NDArray[Any]:
    from pydicom.pixels.processing import apply_color_lut

    return luma(apply_color_lut(values, data))


def _aligned(data: Any, values: NDArray[Any], code: Codestream | None = None) -> NDArray[Any]:
    """Drops overlay bits beside the stored ones and extends the sign."""
    bits, signed = stored_bits(data), is_signed(data)
    if code is None:
        # Files that lack HighBit have their bits at the bottom, where nearly all have.
        high = int(data.get("HighBit", bits - 1))
        shift = high + 1 - bits if bits <= high + 1 <= int(data.get("BitsAllocated", 16)) else 0
        values = values >> shift if shift else values
    elif signed:
        bits = min(bits, code.precision)
    else:
        return values
    if signed and bits == 8 * values.dtype.itemsize:
        return values.view(f"i{values.dtype.itemsize}")
    mask, sign = 2**bits - 1, 2 ** (bits - 1)
    if signed:
        return np.asarray(((values.astype(np.int64) & mask) ^ sign) - sign)
    return np.asarray(values & values.dtype.type(mask)) if values.max() > mask else values


def _reduced(frame: bytes, code: Codestream, factor: int) -> NDArray[Any]:
    """Pillow decodes JPEG 2000 and 8-bit JPEG at a lower resolution for a fraction of the time."""
    with Image.open(io.BytesIO(frame)) as image:
        if image.format == "JPEG":
            image.draft("L", (code.width // factor, code.height // factor))
            return np.array(image)
        image.reduce = factor.bit_length() - 1  # type: ignore[assignment, method-assign]
        values = np.array(image)
    # Pillow moves 12 bits to the top of 16.
    return np.asarray(values >> values.dtype.type((8 if code.precision <= 8 else 16) - code.precision))


def _run_lengths(data: Any, frame: bytes) -> NDArray[Any]:
    """RLE: the bytes of all pixels, the most significant ones of the first sample first, each in a segment."""
    rows, columns, samples = int(data.Rows), int(data.Columns), int(data.get("SamplesPerPixel", 1))
    bits = int(data.get("BitsAllocated", 16))
    if bits not in (8, 16, 32):
        raise Refused(f"its pixels have {bits} bits")
    size = bits // 8
    values = np.empty((samples, rows * columns, size), np.uint8)
    for number, segment in enumerate(rle_segments(frame, count=samples * size)):
        values[number // size, :, size - 1 - number % size] = _unpacked(segment, rows * columns)
    stored = values.view(f"<u{size}").reshape(samples, rows, columns)
    photometric = str(data.get("PhotometricInterpretation", ""))
    if samples > 1:
        return _grey(np.moveaxis(stored, 0, -1), photometric)
    return _by_palette(data, stored[0]) if photometric == "PALETTE COLOR" else _aligned(data, stored[0])


def _unpacked(segment: bytes, count: int) -> NDArray[np.uint8]:
    """The `count` bytes of runs, by the decoder that Pillow has for TIFF; pydicom takes five times as long."""
    try:
        # As one row, because it would cut off a run that crosses the end of a row, as some writers make them.
        row = Image.frombytes("L", (count, 1), segment, "packbits", "L")
    except ValueError as error:
        raise Refused(f"its RLE pixels are damaged ({error})") from error
    return np.asarray(row, np.uint8).reshape(count)


def _by_libjpeg(frame: bytes, code: Codestream) -> NDArray[Any] | None:
    """Lossless JPEG in less than half of GDCM's time; None without the extra `lossless` and where it fails."""
    if not frame[-16:].rstrip(b"\x00").endswith(_END_OF_JPEG):
        return None  # libjpeg fills up what is missing, which GDCM refuses
    try:
        import imagecodecs

        values = np.asarray(imagecodecs.jpeg8_decode(frame))
    except (ImportError, RuntimeError, ValueError):  # of the second kind are all errors of its decoders
        return None
    return values if values.shape == (code.height, code.width) else None


def _by_itk(data: Any, frame: bytes, code: Codestream) -> NDArray[Any]:
    """Decodes a copy of the file that holds nothing but the codestream.

    ITK would apply the rescale and the polarity as well, the latter about 65535 for JPEG 2000, load a file without
    HighBit blank, and believe a header that disagrees with its codestream.
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise Refused("its pixels are compressed, which takes SimpleITK to read: pip install SimpleITK") from error
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    with tempfile.TemporaryDirectory(prefix="cxrbase-") as folder:
        path = Path(folder) / "frame.dcm"
        _write(_bare(data, frame, bits=code.precision, signed=code.signed), path)
        try:
            values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path), imageIO="GDCMImageIO"))
        except RuntimeError as error:
            raise Refused(f"the DICOM file cannot be read ({_itk_reason(error)})") from error
    values = values[0] if values.shape[0] == 1 and values.ndim > 2 else values
    if values.shape[:2] != (data.Rows, data.Columns):
        raise Refused("its compressed pixels do not fill the size that its header says")
    if values.ndim == 3:
        # ITK hands out colour as red, green and blue, whatever it was stored as.
        return luma(values)
    return _aligned(data, values, code)


def _bare(data: Any, frame: bytes, *, bits: int, signed: bool) -> Any:
    """A data set that holds nothing but a frame."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

    bare, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
    bare.SOPClassUID = meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    bare.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    bare.file_meta = meta
    bare.Rows, bare.Columns = int(data.Rows), int(data.Columns)
    bare.SamplesPerPixel = int(data.get("SamplesPerPixel", 1))
    photometric = str(data.get("PhotometricInterpretation", ""))
    grey = bare.SamplesPerPixel == 1 and photometric != "PALETTE COLOR"
    bare.PhotometricInterpretation = "MONOCHROME2" if grey else photometric
    if bare.SamplesPerPixel > 1:
        bare.PlanarConfiguration = int(data.get("PlanarConfiguration", 0))
    for tag in _PALETTE:
        if photometric == "PALETTE COLOR" and tag in data:
            bare[tag] = data[tag]
    bare.BitsAllocated = max(8, 8 * -(-bits // 8))
    bare.BitsStored, bare.HighBit = bits, bits - 1
    bare.PixelRepresentation = int(signed)
    bare.PixelData = encapsulate([frame])
    return bare


def _write(bare: Any, path: Path) -> None:
    try:
        bare.save_as(path, enforce_file_format=True)
    except OSError as error:
        # pydicom raises another one from it, which has a traceback for its message.
        first = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise Refused(f"its pixels cannot be written to {path.parent.parent} ({first.strerror or first})") from error


def _itk_reason(error: RuntimeError) -> str:
    lines = [line.split("ERROR:")[-1].strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given")[:200]
