"""Reads single images from tar shards by offset, and verifies their checksums."""

import os
import threading
import zlib
from collections import OrderedDict
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cxrbase.data.canvas import on_canvas, to_canvas
from cxrbase.data.decode_image import UNKNOWN_FORMAT
from cxrbase.data.reading import Reading
from cxrbase.data.shard_index import ShardIndex
from cxrbase.errors import CorruptError, ShardError

_OPEN = 128  # shards that a process keeps open; a million images are more shards than a process may open files


_LARGEST = 2**16  # pixels of a side


class ShardPlace(Protocol):
    """Where shards are.

    Attributes:
        stays: Whether a shard that was opened may be kept open.
    """

    stays: bool

    def open(self, name: str) -> FileIO:
        """Opens a shard; OSError or ShardError where there is none."""

    def drop(self, name: str) -> bool:
        """Forgets a local copy that turned out damaged; whether another can be had."""


class LocalShards:
    """Shards in a folder, where they stay.

    Args:
        root: Folder of the index.
    """

    stays = True

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def open(self, name: str) -> FileIO:
        """Opens a shard."""
        return FileIO(self.root / name)

    def drop(self, name: str) -> bool:
        """There is no other copy."""
        return False


class ShardStore:
    """Images of an index.

    Args:
        index: Where each image lies.
        place: Where the shards are.
        size: Longest side of an image in pixels, and side of a canvas; None takes what 99 % of the images fit.
        verify: Check every image against its crc32.

    Attributes:
        rows: All rows of the index, (N,) int64.
    """

    def __init__(self, index: ShardIndex, place: ShardPlace, *, size: int | None = None, verify: bool = True) -> None:
        self.index, self.place, self.verify = index, place, verify
        self.size = size or usual_side(index)
        self.rows = np.arange(len(index))
        self._files: OrderedDict[int, FileIO] = OrderedDict()
        self._lock = threading.Lock()
        # Shards that were fetched anew, once in a run: what is wrong in the new copy too is wrong in the store, and one
        # shard is fetched for it and not one for each of its images. Loader workers share it.
        self._renewed = torch.zeros(len(index.shard_names), dtype=torch.bool)
        self._renewed.share_memory_()  # type: ignore[no-untyped-call]
        side = int(index.metadata.get("size", 0)) if index.metadata.get("codec") == "jpeg" else 0
        # The discrete cosine transform of JPEG gives a half, a quarter or an eighth of the size for less work.
        self._factor = max(factor for factor in (1, 2, 4, 8) if factor == 1 or side >= factor * self.size)

    @property
    def reading(self) -> Reading:
        """How the files were read that the images were packed from."""
        return self.index.reading

    @property
    def intensity(self) -> str:
        """What brightness means in the images."""
        return self.index.intensity

    def image(self, row: int) -> NDArray[np.uint8]:
        """One image, (H, W) uint8 with no side longer than `size`.

        Raises:
            CorruptError: Its shard is missing or cut short, its bytes are not those of the index, or they are no image.
        """
        data = self.encoded(row)
        image = self._decoded(row, data, self._factor)
        if self._factor > 1 and max(image.shape) < self.size:
            # The original was smaller than the pack's size, which nothing is enlarged to.
            image = self._decoded(row, data, 1)
        if max(image.shape) <= self.size:
            return image
        canvas, (height, width) = to_canvas(image, self.size)
        return canvas[:height, :width]

    def read(self, row: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Canvas of one image, (size, size) uint8, and the height and width that the image takes; see `image`."""
        return on_canvas(self.image(row), self.size)

    def encoded(self, row: int) -> bytes:
        """Bytes of one image as they were packed; see `image`."""
        data = self._bytes(row)
        if self.verify and zlib.crc32(data) != int(self.index.crc32[row]) and self._again(row):
            data = self._bytes(row)
        if self.verify and zlib.crc32(data) != int(self.index.crc32[row]):
            raise self._corrupt(row, "checksum", "its bytes are not those of the index")
        return data

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        """Image and shard of some rows, for messages."""
        paths = self.index.column("path")[rows]
        return [f"{path} in {self._name(int(row))}" for path, row in zip(paths, rows, strict=True)]

    def sharing(self, row: int) -> NDArray[np.int64]:
        """Rows of the same shard."""
        return np.flatnonzero(self.index.shard == self.index.shard[row])

    def __len__(self) -> int:
        """Images."""
        return len(self.index)

    def __getstate__(self) -> dict[str, Any]:
        """Without open files and locks, which every process makes for itself."""
        return {**self.__dict__, "_files": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Makes a lock of its own."""
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _decoded(self, row: int, data: bytes, factor: int) -> NDArray[np.uint8]:
        """An image in full size, or in a half, a quarter or an eighth of it."""
        import cv2

        flag = cv2.IMREAD_GRAYSCALE if factor == 1 else getattr(cv2, f"IMREAD_REDUCED_GRAYSCALE_{factor}")
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        except cv2.error as error:
            raise self._corrupt(row, "damaged", " ".join(str(error).split())) from error
        if image is None:
            raise self._corrupt(row, "damaged", UNKNOWN_FORMAT)
        return np.asarray(image, np.uint8)

    def _name(self, row: int) -> str:
        return self.index.shard_names[int(self.index.shard[row])]

    def _bytes(self, row: int) -> bytes:
        size, offset, shard = (int(part[row]) for part in (self.index.size, self.index.offset, self.index.shard))
        try:
            # The name keeps the file open while this thread reads, whoever drops it from the table meanwhile.
            file = self._file(shard)
        except (OSError, ShardError) as error:
            raise self._corrupt(row, "missing", _said(error), whole_shard=True) from error
        try:
            data = os.pread(file.fileno(), size, offset)
        except OSError as error:
            self._forget(shard)
            raise self._corrupt(row, "missing", _said(error)) from error
        if len(data) != size and not self.verify:
            raise self._corrupt(row, "checksum", f"the shard ends after {len(data)} of its {size} bytes")
        return data

    def _file(self, shard: int) -> FileIO:
        name = self.index.shard_names[shard]
        if not self.place.stays:
            # A cached shard may be removed at any time, and an open one would keep its space.
            return self.place.open(name)
        with self._lock:
            if shard in self._files:
                self._files.move_to_end(shard)
                return self._files[shard]
            file = self._files[shard] = self.place.open(name)
            if len(self._files) > _OPEN:
                self._files.popitem(last=False)
            return file

    def _forget(self, shard: int) -> None:
        """Opens it anew when it is read next."""
        with self._lock:
            self._files.pop(shard, None)

    def _again(self, row: int) -> bool:
        """Makes way for another copy of a shard; whether reading once more may help."""
        shard = int(self.index.shard[row])
        self._forget(shard)
        if not self._renewed[shard]:
            # Marked only when the old copy is gone, so that whoever sees the mark reads the new one.
            self._renewed[shard] = self.place.drop(self._name(row))
        return bool(self._renewed[shard])

    def _corrupt(self, row: int, reason: str, said: str, *, whole_shard: bool = False) -> CorruptError:
        named = f"cannot read {self.index.key(row)} in {self._name(row)}: {said}"
        return CorruptError(named, reason=reason, whole_shard=whole_shard)


def _said(error: OSError | ShardError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def usual_side(index: ShardIndex) -> int:
    """Smallest multiple of 16 that 99 % of the images fit into, in pixels; the rest is shrunk a little."""
    width, height = index.column("width"), index.column("height")
    longest = np.maximum(width, height)
    if not 0 < np.minimum(width, height).min() <= longest.max() <= _LARGEST:
        raise ShardError(f"{index.path} has an impossible width or height: pack the images again")
    return -(-int(np.quantile(longest, 0.99, method="higher")) // 16) * 16
