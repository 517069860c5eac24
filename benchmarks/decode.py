"""How long decoding takes beside OpenCV, Pillow and torchvision, in alternating rounds on one core.

OMP_NUM_THREADS=1 python benchmarks/decode.py
"""

import io
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import torch
from _record import alternate, save, table
from jsonargparse import auto_cli
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from torchvision.io import ImageReadMode, decode_image

from cxrbase.data.decode import decode, decode_uint8

MIN_SIDE = 512
OURS = ("decode", "decode_uint8_512")
READERS = ("opencv", "pillow", "torchvision", "simpleitk", "pydicom", *OURS)
TITLE = f"Milliseconds to read one image; decode_uint8_512 may reduce to a short side of {MIN_SIDE} pixels or more"
JPEG_LS = "jpeg_ls"  # written only where pydicom has an encoder for it, as with pyjpegls


def benchmark(rounds: int = 7, height: int = 2500, width: int = 2000, out: str = "") -> None:
    """Times all readers of all formats.

    Args:
        rounds: Each reads every file with every reader once, in another order.
        height: Of the images.
        width: Of the images.
        out: JSON to write; "" takes benchmarks/results/decode_cpu.json.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        jobs = {path: readers(path) for path in write_files(Path(folder), radiograph(height, width))}
        lacking = [] if any(path.stem == JPEG_LS for path in jobs) else [f"{JPEG_LS}.dcm: nothing installed writes it"]
        formats = {path.name: summary(alternate(by_name, rounds=rounds)) for path, by_name in jobs.items()}
    measured = {
        "image": {"height": height, "width": width, "min_side": MIN_SIDE},
        "rounds": rounds,
        "left_out": lacking,
        "formats": formats,
        "tables": {TITLE: [line(name, rows) for name, rows in formats.items()]},
    }
    packages = ("numpy", "pillow", "opencv-python-headless", "torchvision", "pydicom", "simpleitk")
    path = save("decode_cpu", measured, packages=packages, out=out)
    print(table(measured["tables"][TITLE]), *lacking, path, sep="\n")


def line(name: str, rows: dict[str, dict[str, float]]) -> dict[str, Any]:
    """A row of the table: milliseconds of every reader, and how many times faster ours is than the fastest other."""
    medians = {reader: rows[reader]["ms"] for reader in READERS if reader in rows}
    others = [ms for reader, ms in medians.items() if reader not in OURS]
    return {"file": name, **{reader: medians.get(reader) for reader in READERS},
            "decode, times the fastest other": min(others) / medians["decode"]}  # fmt: skip


def radiograph(height: int, width: int) -> np.ndarray:
    """(height, width) uint16 of 12 bits, smooth with noise."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    smooth = 2000 + 1200 * np.sin(rows / 300) * np.cos(columns / 250)
    return np.uint16((smooth + np.random.default_rng(0).normal(0, 20, smooth.shape)).clip(0, 4095))


def write_files(folder: Path, image: np.ndarray) -> list[Path]:
    """One file of each format; lossless ones hold the same pixels, those with 8 in their name only the upper 8 bits."""
    small = Image.fromarray(np.uint8(image >> 4))
    small.save(folder / "png8.png")
    Image.fromarray(image).save(folder / "png16.png")
    small.save(folder / "jpeg.jpg", quality=90)
    small.save(folder / "tiff.tiff")
    Image.fromarray(image).save(folder / "tiff16.tiff")
    small.save(folder / "bmp.bmp")
    small.save(folder / "webp.webp", lossless=True, method=0)
    Image.fromarray(image).save(folder / "jp2.jp2", irreversible=False)
    write_dicoms(folder, image)
    return sorted(folder.iterdir())


def write_dicoms(folder: Path, image: np.ndarray) -> None:
    """The transfer syntaxes that something installed writes."""
    raw = folder / "raw.dcm"
    dicom(image, bits=12).save_as(raw, enforce_file_format=True)
    frames = {
        "j2k": (JPEG2000Lossless, image, partial(encoded, form="JPEG2000", no_jp2=True, irreversible=False)),
        "jpeg8": (JPEGBaseline8Bit, np.uint8(image >> 4), partial(encoded, form="JPEG", quality=90)),
    }
    for name, (syntax, pixels, encode) in frames.items():
        data = dicom(pixels, bits=8 * pixels.dtype.itemsize)
        data.file_meta.TransferSyntaxUID, data.PixelData = syntax, encapsulate([encode(pixels)])
        data.save_as(folder / f"{name}.dcm", enforce_file_format=True)
    write_jpeg_lossless(raw, folder / "jpeg_lossless.dcm")
    for name, syntax in (("rle", RLELossless), (JPEG_LS, JPEGLSLossless)):
        if get_encoder(syntax).is_available:
            data = dicom(image, bits=12)
            data.compress(syntax)
            data.save_as(folder / f"{name}.dcm", enforce_file_format=True)


def encoded(pixels: np.ndarray, *, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def dicom(image: np.ndarray, *, bits: int) -> Dataset:
    """Not compressed."""
    meta, data = FileMetaDataset(), Dataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    data.file_meta = meta
    data.Rows, data.Columns = image.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8 * image.dtype.itemsize, bits, bits - 1
    data.PixelData = image.tobytes()
    data["PixelData"].VR = "OW"
    return data


def write_jpeg_lossless(raw: Path, path: Path) -> None:
    """Through GDCM, which calls it JPEG."""
    import SimpleITK

    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressor("JPEG")
    writer.SetFileName(str(path))
    writer.Execute(SimpleITK.ReadImage(str(raw)))
    if pydicom.dcmread(path).file_meta.TransferSyntaxUID != JPEGLosslessSV1:
        raise RuntimeError(f"GDCM wrote another syntax than JPEG Lossless to {path}")


def readers(path: Path) -> dict[str, Callable[[], object]]:
    """Ways of reading a file; the first of a foreign library is what the others are compared with."""
    ours = {"decode": partial(decode, path), "decode_uint8_512": partial(decode_uint8, path, min_side=MIN_SIDE)}
    simpleitk = {"simpleitk": partial(by_simpleitk, path)}
    if path.suffix == ".dcm":
        foreign = simpleitk | {"pydicom": partial(by_pydicom, path)}
        return {name: read for name, read in foreign.items() if reads(read)} | ours
    flag = cv2.IMREAD_GRAYSCALE | (cv2.IMREAD_ANYDEPTH if path.stem in ("png16", "tiff16", "jp2") else 0)
    foreign = {"opencv": lambda: cv2.imread(str(path), flag), "pillow": lambda: np.array(Image.open(path))}
    if path.suffix == ".jpg":
        foreign["opencv_reduced"] = lambda: cv2.imread(str(path), cv2.IMREAD_REDUCED_GRAYSCALE_2)
    foreign |= simpleitk | {"torchvision": lambda: decode_image(str(path), ImageReadMode.UNCHANGED)}
    return {name: read for name, read in foreign.items() if reads(read)} | ours


def reads(read: Callable[[], object]) -> bool:
    """Whether a library knows the format: torchvision no TIFF, SimpleITK no WebP, pydicom alone no JPEG Lossless."""
    try:
        return read() is not None
    except (RuntimeError, NotImplementedError, OSError):
        return False


def by_simpleitk(path: Path) -> np.ndarray:
    import SimpleITK

    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def by_pydicom(path: Path) -> np.ndarray:
    return pydicom.dcmread(path).pixel_array


def summary(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median and quartiles in milliseconds, and speed as the ratio to the first reader."""
    first = statistics.median(next(iter(times.values())))
    rows = {}
    for name, values in times.items():
        low, median, high = (1000 * value for value in np.percentile(values, [25, 50, 75]))
        rows[name] = {"ms": median, "low_ms": low, "high_ms": high, "speed": 1000 * first / median}
    return rows


if __name__ == "__main__":
    auto_cli(benchmark, as_positional=False)
