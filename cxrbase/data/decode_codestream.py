"""Checks the header of a compressed DICOM frame before it is decoded."""

import struct
from dataclasses import dataclass
from itertools import pairwise

from cxrbase.data.decode_image import Refused

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
# Start-of-frame markers of JPEG (of which C4, C8 and CC are something else) and of JPEG-LS.
_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_BASELINE = frozenset({0xC0, 0xC1, 0xC2})
_LOSSLESS = 0xC3


@dataclass(frozen=True)
class Codestream:
    """Header of a JPEG, JPEG-LS or JPEG 2000 codestream.

    Attributes:
        width: In pixels.
        height: In pixels.
        samples: Colour channels.
        precision: Bits of a sample.
        signed: Samples can be negative.
        halvings: How often Pillow can halve the resolution while it decodes, 3 at most.
        lossless: Lossless JPEG with Huffman codes (process 14), not JPEG-LS.
    """

    width: int
    height: int
    samples: int
    precision: int
    signed: bool = False
    halvings: int = 0
    lossless: bool = False


def frame_of(value: bytes) -> bytes:
    """Joins the fragments of a frame.

    Args:
        value: Encapsulated pixels, beginning with the item of the offset table.

    Raises:
        Refused: There is no fragment, or one is longer than the file.
    """
    fragments, at = [], 0
    while value[at : at + 4] == _ITEM and at + 8 <= len(value):
        length = int.from_bytes(value[at + 4 : at + 8], "little")
        if at + 8 + length > len(value):
            raise Refused(f"a fragment of its pixels ends {at + 8 + length - len(value)} bytes after them")
        fragments.append(value[at + 8 : at + 8 + length])
        at += 8 + length
    if value[at : at + 4] not in (b"", _END):
        raise Refused("its pixels are not split into fragments")
    frame = b"".join(fragments[1:])
    if not frame:
        raise Refused("it holds no compressed pixels")
    return frame


def rle_segments(frame: bytes, *, count: int) -> list[bytes]:
    """The segments of a frame in RLE, as its header places them.

    Args:
        frame: Of `frame_of`.
        count: Bytes of a pixel, of all its samples; each has a segment.

    Raises:
        Refused: The header says something else, or a segment begins before its place or after the frame.
    """
    if len(frame) < 64:
        raise Refused(f"its RLE pixels have {len(frame)} bytes, fewer than the 64 of their header")
    found, *offsets = struct.unpack("<16I", frame[:64])
    if found != count:
        raise Refused(f"its RLE pixels have {found} segments, and its header allows for {count}")
    places = [*offsets[:count], len(frame)]
    if places[0] != 64 or any(first >= second for first, second in pairwise(places)):
        raise Refused("the segments of its RLE pixels are not one after the other")
    return [frame[first:second] for first, second in pairwise(places)]


def inspect(frame: bytes) -> Codestream:
    """Reads the header of a codestream.

    Raises:
        Refused: It is neither JPEG nor JPEG 2000, or ends within its header.
    """
    try:
        if frame.startswith(_JPEG):
            return _inspect_jpeg(frame)
        # Some devices wrap the codestream into the boxes of a file, which the standard forbids.
        start = frame.find(_JPEG_2000, 0, 4096)
        if start >= 0:
            return _inspect_jpeg_2000(frame, start)
    except (struct.error, IndexError) as error:
        raise Refused("its compressed pixels end within their header") from error
    raise Refused("its compressed pixels are of no known format")


def _inspect_jpeg(frame: bytes) -> Codestream:
    at = 2
    while True:
        # Markers may be preceded by any number of FF.
        while frame[at + 1] == 0xFF:
            at += 1
        if frame[at] != 0xFF:
            raise Refused("its compressed pixels have a damaged header")
        marker, (length,) = frame[at + 1], struct.unpack_from(">H", frame, at + 2)
        if marker in _FRAME:
            break
        at += 2 + max(2, length)
    precision, height, width, samples = struct.unpack_from(">BHHB", frame, at + 4)
    halvings = 3 if marker in _BASELINE and precision == 8 else 0
    return Codestream(width, height, samples, precision, halvings=halvings, lossless=marker == _LOSSLESS)


def _inspect_jpeg_2000(frame: bytes, start: int) -> Codestream:
    right, bottom, left, top = struct.unpack_from(">IIII", frame, start + 8)
    samples, depth = struct.unpack_from(">HB", frame, start + 40)
    at = start + 4 + struct.unpack_from(">H", frame, start + 4)[0]
    while frame[at + 1] != 0x52:  # the segment of coding style, which tells how many resolutions there are
        at += 2 + max(2, struct.unpack_from(">H", frame, at + 2)[0])
    return Codestream(
        right - left, bottom - top, samples, (depth & 0x7F) + 1, bool(depth & 0x80), min(3, frame[at + 9])
    )
