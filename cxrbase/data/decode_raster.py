"""Reads PNG, JPEG, TIFF, WebP, BMP and JPEG 2000 files."""

import warnings
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, ImageOps

from cxrbase.data.decode_image import Pixels, Refused, check_size, luma, narrow, reduction

_BITS, _PHOTOMETRIC, _PLANAR = 258, 262, 284  # TIFF tags
_ORIENTATION = 0x0112  # EXIF tag
_TURNED = (b"eXIf", b"adobe.xmp", b"Raw profile")  # chunks of a PNG that Pillow looks into for the tag


def read_raster(path: Path, min_side: int | None = None) -> Pixels:
    """Reads an image, turned as its EXIF tag says.

    Args:
        path: File of any format of Pillow.
        min_side: Sides of JPEG and JPEG 2000 may come halved, repeatedly, as long as none gets shorter than this.

    Returns:
        (H, W) uint8, uint16 or float32 with bone as bright as the file has it.

    Raises:
        Refused: Too many pixels, several frames, or values that are not numbers.
    """
    with _open(path) as image:
        if image.format == "JPEG2000" and reduction(*image.size, min_side) > 1:
            # Lower resolutions drift off the averages of blocks by half a pixel of theirs; these are averaged later.
            return _reduced_jpeg2000(path, min(8, reduction(*image.size, min_side)))
        if image.format in ("JPEG", "MPO"):
            factor = reduction(*image.size, min_side)
            if factor > 1:
                image.draft("L", (image.width // factor, image.height // factor))
                return _pixels(image)
        if _is_deep_colour(path, image) and (deep := _grey_of_deep_colour(path, image)) is not None:
            return _pixels(deep)
        pixels = _sooner(path, image)
        return _pixels(image) if pixels is None else pixels


def _open(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow only warns between one and two times its own limit; ours is checked below.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image: Image.Image = Image.open(path)
    try:
        check_size(*image.size)
        if getattr(image, "n_frames", 1) > 1 and image.format not in ("PNG", "MPO"):
            raise Refused(f"it holds {image.n_frames} frames")  # type: ignore[attr-defined]
    except Refused:
        image.close()
        raise
    return image


def _is_deep_colour(path: Path, image: Image.Image) -> bool:
    """Whether a file has colours or alpha of 16 bits, of which Pillow gives the upper 8 only."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return False
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        return bool(max(tags.get(_BITS, (8,))) > 8 and tags.get(_PLANAR, 1) == 1)
    with path.open("rb") as file:
        return image.format == "PNG" and file.read(25)[24:] == b"\x10"


def _grey_of_deep_colour(path: Path, image: Image.Image) -> Image.Image | None:
    """Brightness in 16 bits; None of a file that OpenCV does not read."""
    import cv2

    # Pillow finds all damage, where OpenCV may fill up a truncated file.
    image.load()
    try:
        colours = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if colours is None or colours.dtype != np.uint16 or colours.ndim != 3 or colours.shape[:2] != image.size[::-1]:
        return None
    grey = Image.fromarray(luma(colours[..., 2::-1]))
    if image.format == "PNG":
        # OpenCV turns a TIFF by its tag, as Pillow does, and leaves a PNG as it is.
        grey.getexif()[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
    return grey


def _sooner(path: Path, image: Image.Image) -> Pixels | None:
    """The pixels that Pillow would give, from a faster reader.

    None where there is none, or where it found damage, of which Pillow's account is the better one.
    """
    if image.format not in ("PNG", "JPEG", "WEBP"):
        return None
    content = path.read_bytes()
    if image.format == "PNG":
        # Bits of a sample and kind of colour. A note on how to turn the image may follow the pixels.
        if content[24:26] not in (b"\x08\x00", b"\x10\x00") or any(mark in content for mark in _TURNED):
            return None
        pixels = _by_itk(path)
    elif image.getexif().get(_ORIENTATION, 1) != 1:
        return None
    else:
        pixels = (_by_torchvision if image.format == "WEBP" else _by_opencv)(content, image)
    return pixels if pixels is not None and pixels.shape == image.size[::-1] else None


def _by_itk(path: Path) -> Pixels | None:
    try:
        import SimpleITK
    except ImportError:
        return None  # only DICOM cannot do without
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = SimpleITK.ReadImage(str(path), imageIO="PNGImageIO")
    except RuntimeError:
        return None
    return cast(Pixels, SimpleITK.GetArrayFromImage(image))


def _by_opencv(content: bytes, image: Image.Image) -> Pixels | None:
    import cv2

    # OpenCV may fill up a truncated JPEG with grey.
    if image.mode != "L" or not content.rstrip(b"\0").endswith(b"\xff\xd9"):
        return None
    flag = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        return cast(Pixels | None, cv2.imdecode(np.frombuffer(content, np.uint8), flag))
    except cv2.error:
        return None


def _by_torchvision(content: bytes, image: Image.Image) -> Pixels | None:
    """A WebP file, which always holds colours; the fastest of the readers that are there, by a quarter."""
    if image.mode not in ("RGB", "RGBA"):
        return None
    import cv2
    import torch
    from torchvision.io import ImageReadMode, decode_webp

    try:
        tensor = decode_webp(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
    except RuntimeError:
        return None
    colours = tensor.permute(1, 2, 0).numpy()
    red, green, blue = cv2.split(colours)
    if np.array_equal(blue, green) and np.array_equal(green, red):
        return cast(Pixels, blue)
    return np.array(Image.fromarray(np.ascontiguousarray(colours)).convert("L"))


def _reduced_jpeg2000(path: Path, factor: int) -> Pixels:
    """A file need not hold as many resolutions as are asked for, which shows on loading only."""
    with _open(path) as image:
        image.reduce = factor.bit_length() - 1  # type: ignore[assignment, method-assign]
        try:
            image.load()
        except OSError:
            with _open(path) as full:
                return _pixels(full)
        return _pixels(image)


def _pixels(image: Image.Image) -> Pixels:
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
        return narrow(np.array(image))
    if image.mode == "LA":
        return np.array(image.getchannel("L"))
    return np.array(image.convert("RGB").convert("L"))
