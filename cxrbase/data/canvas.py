"""Decodes every image once, and keeps it at the size that training needs, in one array on disk."""

import hashlib
import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrbase.code_hash import code_hash
from cxrbase.data.canvas_files import Canvas, CanvasFiles
from cxrbase.data.manifest import Manifest
from cxrbase.data.reading import Reading
from cxrbase.errors import ManifestError

logger = logging.getLogger(__name__)
_SHOWN = 10
# What the pixels of a canvas depend on, beside its file.
_CODE = ("data/decode*.py", "data/reading.py", "data/canvas.py")


def to_canvas(image: NDArray[np.uint8], size: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Shrinks an image to fit a square and lays it in the upper left corner; nothing is enlarged or distorted.

    Args:
        image: (H, W) uint8.
        size: Side of the square in pixels.

    Returns:
        The canvas, (size, size) with zeros beside the image, and the height and width that the image takes.
    """
    height, width = image.shape
    factor = min(1.0, size / max(height, width))
    taken = max(1, round(height * factor)), max(1, round(width * factor))
    if taken != (height, width):
        # Pillow widens its filter when it shrinks, so nothing aliases.
        image = np.asarray(Image.fromarray(image).resize(taken[::-1], Image.Resampling.BICUBIC))
    return on_canvas(image, size)


def on_canvas(image: NDArray[np.uint8], size: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Lays an image that fits into the upper left corner of a square; see `to_canvas` for what is returned."""
    height, width = image.shape
    canvas = np.zeros((size, size), np.uint8)
    canvas[:height, :width] = image
    return canvas, (height, width)


class CanvasStore:
    """Canvases of the readable images of a manifest.

    Attributes:
        rows: Manifest rows whose image is readable, sorted, (M,) int64.
        damaged: Rows whose file is damaged; others that are not readable are out of reach.
        reading: How files become images.
    """

    def __init__(
        self,
        paths: list[Path],
        *,
        size: int,
        sizes: NDArray[np.int32],
        pixels: Path | None,
        read: Reading,
        damaged: Iterable[int] = (),
    ) -> None:
        self.paths, self.size, self.sizes, self.reading = paths, size, sizes, read
        self.rows, self.damaged = np.flatnonzero(sizes[:, 0] > 0), np.array(sorted(damaged), np.int64)
        self._file = pixels
        self._pixels: NDArray[np.uint8] | None = None

    @property
    def intensity(self) -> str:
        """What brightness means in the images."""
        return self.reading.convention

    @classmethod
    def open(
        cls,
        manifest: Manifest,
        *,
        size: int,
        cache_dir: str | Path,
        max_bad: float = 0.01,
        limit_gb: float = 8.0,
        read: Reading | None = None,
        option: str = "--data.cache_dir",
        prepared: bool = False,
        bad_option: str = "--data.max_bad",
    ) -> "CanvasStore":
        """Opens the canvases of a manifest and makes them first where they are missing.

        All images are decoded once, which finds the unreadable ones before training starts. Files that changed are
        noticed by their size and time, and canvases of other code are made again under the same name, while runs that
        have them open keep the old ones. What the operating system could not reach is tried again at every opening.

        Args:
            manifest: Images.
            size: Side of a canvas in pixels.
            cache_dir: Folder of the canvases.
            max_bad: Largest share of unreadable images that is tolerated, in [0, 1]; they are left out and named.
            limit_gb: Above this size only the outcome of decoding is kept, and images are decoded again on access.
            read: How pixels become brightness; None takes the defaults.
            option: Option of the command line that sets `cache_dir`, for messages.
            prepared: They were opened for this run just now, perhaps by another process, and all its processes need the
                same rows: nothing is tried again or named twice.
            bad_option: The option that sets `max_bad`.

        Raises:
            ManifestError: More images are unreadable, or the canvases cannot be written.
        """
        read = read or Reading()
        files = _files(manifest, size, Path(cache_dir), read, kept=len(manifest) * size**2 <= limit_gb * 1e9)
        try:
            _readable(manifest, files, read, limit=(max_bad, bad_option), prepared=prepared)
        except OSError as error:
            raise ManifestError(
                f"cannot write decoded images to {cache_dir} ({error.strerror or error}): set {option} to "
                f"a folder with {len(manifest) * size**2 / 1e9:.2f} GB of free space"
            ) from error
        sizes, damaged = np.load(files.sizes), files.damaged()
        return cls(manifest.paths, size=size, sizes=sizes, pixels=files.pixels, read=read, damaged=damaged)

    def read(self, row: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Canvas of one image, (size, size) uint8, and the height and width that the image takes of it.

        Raises:
            DecodeError: The canvases are not kept and the file was damaged since it was checked.
        """
        if self._file is None:
            return to_canvas(self.reading(self.paths[row]), self.size)
        if self._pixels is None:
            self._pixels = np.load(self._file, mmap_mode="r")
        height, width = self.sizes[row]
        return self._pixels[row], (int(height), int(width))

    def image(self, row: int) -> NDArray[np.uint8]:
        """The part of a canvas that the image takes, see `read`."""
        canvas, (height, width) = self.read(row)
        return canvas[:height, :width]

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        """Paths of some rows, for messages."""
        return [str(self.paths[row]) for row in rows]

    def sharing(self, row: int) -> NDArray[np.int64]:
        """Rows whose bytes are lost together with those of a row: none but itself."""
        return np.array([row])

    def __len__(self) -> int:
        """Rows of the manifest, unreadable ones included."""
        return len(self.paths)

    def __getstate__(self) -> dict[str, Any]:
        """Without the mapped file, which a worker opens for itself."""
        return {**self.__dict__, "_pixels": None}


def _files(manifest: Manifest, size: int, folder: Path, read: Reading, *, kept: bool) -> CanvasFiles:
    stem = f"{_key(manifest, size, read)}-{size}"
    pixels = folder / f"{stem}.npy" if kept else None
    sizes, unreadable, made_by = (folder / f"{stem}-{name}" for name in ("sizes.npy", "unreadable.json", "code.txt"))
    return CanvasFiles(pixels, sizes, unreadable, made_by, size, code_hash(_CODE))


def _readable(
    manifest: Manifest, files: CanvasFiles, read: Reading, *, limit: tuple[float, str], prepared: bool
) -> None:
    """Makes the canvases where they are missing, and judges and names the images that have none."""

    def canvas(path: Path) -> Canvas:
        return to_canvas(read(path), files.size)

    def judge(bad: list[str]) -> None:
        _judge(bad, len(manifest), *limit)

    known = files.there
    if known:
        bad = files.reopen(manifest.paths, None if prepared else canvas)
        judge(bad)
    else:
        bad = files.make(manifest.paths, canvas, judge)
    if not (known and prepared):
        _name(bad)


def _key(manifest: Manifest, size: int, read: Reading) -> str:
    """Changes with the files, their order, and the settings they are decoded with."""
    digest = hashlib.sha256(json.dumps([2, size, read.convention]).encode())
    for path, name in zip(manifest.paths, manifest.column("path"), strict=True):
        try:
            status = path.stat()
            state = [status.st_size, status.st_mtime_ns]
        except OSError:
            state = []
        digest.update(json.dumps([name, state]).encode())
    return digest.hexdigest()[:16]


def _judge(bad: list[str], total: int, max_bad: float, option: str) -> None:
    if len(bad) > max_bad * total:
        enough = math.ceil(1000 * len(bad) / total) / 1000
        raise ManifestError(
            f"{len(bad)} of {total} images are unreadable, more than {option}={max_bad:g} allows; first: {bad[0]}; "
            f"remove them, or allow for them by {option}={enough:g}"
        )


def _name(bad: list[str]) -> None:
    for said in bad[:_SHOWN]:
        logger.warning("left out: %s", said)
    if len(bad) > _SHOWN:
        logger.warning("left out: %d more images", len(bad) - _SHOWN)
