"""Hostile and damaged files, and what reading each may do; used by the property tests and by the fuzzer."""

import contextlib
import io
import json
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from jsonargparse import ArgumentError

import cxrbase
from cxrbase.data.decode import decode, decode_uint8
from cxrbase.data.manifest import Manifest
from cxrbase.data.reading import Reading
from cxrbase.data.shards import read_index
from cxrbase.errors import CXRBaseError
from cxrbase.evaluate_cli import settings_of
from cxrbase.evaluation.task import Task, read_task
from cxrbase.release.inputs import find_images, load
from cxrbase.release.run_facts import read_run
from cxrbase.suggestions import SuggestingParser
from cxrbase.weights import load_any_encoder


def png_header(width: int, height: int, *, depth: int = 8, data: bytes = b"") -> bytes:
    """A PNG that says its size and holds little."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", data or zlib.compress(b"\0" * 64))
        + chunk(b"IEND", b"")
    )


def dicom(rows: int, columns: int, *, frames: int | None = None, pixels: bytes = b"\0" * 64) -> bytes:
    """A DICOM file that says its size and number of frames, whatever it holds."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    image, meta = Dataset(), FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = "1.2.3", ExplicitVRLittleEndian
    image.file_meta, image.SOPClassUID, image.SOPInstanceUID = meta, meta.MediaStorageSOPClassUID, "1.2.3"
    image.Rows, image.Columns, image.SamplesPerPixel = rows, columns, 1
    image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    if frames is not None:
        image.NumberOfFrames = str(frames)
    image.PixelData = pixels
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    return file.getvalue()


def read_image(folder: Path, data: bytes, suffix: str) -> None:
    """Through both readers and through `embed`'s."""
    path = folder / f"image{suffix}"
    path.write_bytes(data)
    for read in (decode, lambda p: decode_uint8(p, min_side=64)):
        _allowed(lambda read=read: read(path))  # type: ignore[misc]
    (item,) = find_images([str(path)])
    found = load(item, canvas_size=64, read=Reading())
    assert found.canvas.shape == (64, 64)


def read_manifest(folder: Path, data: bytes, suffix: str) -> None:
    """As a manifest, and as something to embed; no path may leave the folder."""
    path = folder / f"manifest{suffix}"
    path.write_bytes(data)

    def read() -> None:
        for image in Manifest.read(path).paths:
            assert ".." not in image.parts
            assert image.is_relative_to(folder)

    _allowed(read)
    _allowed(lambda: find_images([str(path)]))


def read_encoder(folder: Path, data: bytes, suffix: str) -> None:
    """As a description, as weights, and as the settings of a run."""
    inner = folder / "run"
    inner.mkdir()
    good = {"timm_name": "vit_tiny_patch16_224", "timm_args": {}, "image_size": 32, "mean": 0.5, "std": 0.2}
    (inner / "encoder.json").write_bytes(data if suffix == ".json" else json.dumps(good).encode())
    (inner / "encoder.safetensors").write_bytes(data if suffix == ".safetensors" else b"")
    (inner / "config.yaml").write_bytes(data)
    (inner / "summary.json").write_bytes(data)
    read_run(inner)
    _allowed(lambda: cxrbase.load_encoder(inner))
    _allowed(lambda: load_any_encoder(str(inner / "encoder.safetensors")))


def read_pack(folder: Path, data: bytes, suffix: str) -> None:
    """As the index of a pack."""
    inner = folder / "pack"
    inner.mkdir()
    (inner / "index.parquet").write_bytes(data)
    _allowed(lambda: read_index(inner))
    _allowed(lambda: find_images([str(inner)]))


def read_settings(folder: Path, data: bytes, suffix: str) -> None:
    """As a task file, and by the parser of every command that takes `--config`."""
    path = folder / f"config{suffix}"
    path.write_bytes(data)
    _allowed(lambda: read_task(path))
    _allowed(lambda: settings_of(str(path), {}))
    parser = SuggestingParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Task, "task")
    with contextlib.suppress(ArgumentError):
        _allowed(lambda: parser.parse_args([f"--config={path}"]))


READERS: dict[str, tuple[Callable[[Path, bytes, str], None], tuple[str, ...]]] = {
    "image": (read_image, (".dcm", ".png", ".jpg", ".tif", ".webp", ".bmp", ".jp2")),
    "manifest": (read_manifest, (".csv", ".parquet")),
    "encoder": (read_encoder, (".json", ".safetensors")),
    "pack": (read_pack, (".parquet",)),
    "config": (read_settings, (".yaml",)),
}


def feed(kind: str, data: bytes, suffix: str) -> None:
    """Gives bytes to a reader in a new folder; raises whatever is not one of our errors, or a file made beside it."""
    read, _ = READERS[kind]
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "inside"
        folder.mkdir()
        read(folder, data, suffix)
        assert [path.name for path in Path(root).iterdir()] == ["inside"]


def _allowed(action: Callable[[], object]) -> None:
    with contextlib.suppress(CXRBaseError):
        action()
