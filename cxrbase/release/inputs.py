"""Turns command line inputs (files, folders, globs, manifests, packs) into prepared batches."""

import glob
import hashlib
import io
import logging
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cxrbase.data.canvas import to_canvas
from cxrbase.data.decode import IMAGE_NAMES, is_image
from cxrbase.data.manifest import Manifest
from cxrbase.data.reading import Reading
from cxrbase.data.shards import INDEX, metadata_of, read_index, reading_of
from cxrbase.data.storage import Storage
from cxrbase.errors import DecodeError, ManifestError, ShardError
from cxrbase.release.warnings import image_warnings
from cxrbase.sizes import Size
from cxrbase.views import centre_view

logger = logging.getLogger(__name__)

_TABLES = (".parquet", ".csv")


@dataclass(frozen=True)
class Item:
    """One image that was named.

    Attributes:
        name: As the result lists it: the path, or the path in the manifest of a pack.
        path: The file; of a packed image the shard.
        offset: Of a packed image's bytes in the shard; -1 for a file of its own.
        size: Number of those bytes.
        crc32: Of those bytes.
        reading: Of a packed image, how the file was read that it was packed from; None for a file of its own.
    """

    name: str
    path: str
    offset: int = -1
    size: int = 0
    crc32: int = 0
    reading: Reading | None = None


@dataclass(frozen=True)
class Loaded:
    """One image that was read, or why not.

    Attributes:
        item: Which.
        canvas: (C, C) uint8, upper left corner filled; zeros where it could not be read.
        taken: Height and width that the image fills.
        sha256: Of the encoded bytes, "" where there are none.
        warnings: What is odd about the image.
        error: Why it could not be read, "" where it could.
    """

    item: Item
    canvas: NDArray[np.uint8]
    taken: tuple[int, int]
    sha256: str = ""
    warnings: tuple[str, ...] = ()
    error: str = ""


def find_images(names: Sequence[str]) -> list[Item]:
    """Images in the order in which they were named; inside a folder or glob sorted, in a table as listed.

    Args:
        names: Image files, folders, globs, manifests (.parquet, .csv), or folders and indexes of `cxrbase pack`.

    Raises:
        ManifestError: One of them is nothing of these, or two lists hold the same image.
    """
    items = [item for name in names for item in _find(name)]
    if not items:
        raise ManifestError("no image was named: give files, folders, globs, manifests or packed folders")
    seen: dict[str, Item] = {}
    for item in items:
        # A file that is named twice is one image.
        if seen.setdefault(item.name, item) != item:
            packs = " and ".join(str(Path(one.path).parents[1]) for one in (seen[item.name], item))
            raise ManifestError(
                f"{packs} both hold an image {item.name}: give one at a time, or pack them as other sources (--source)"
            )
    return list(seen.values())


def _find(name: str) -> list[Item]:
    if not name.strip():
        # An unset variable of a shell, which would be the folder that one happens to be in.
        raise ManifestError(f"images must be named by a path, got {name!r}: give . for the current folder")
    path = Path(name)
    if path.is_dir():
        if (path / INDEX).is_file():
            return _packed(path)
        return [_file(found) for found in Manifest.from_folder(path).paths]
    if path.is_file():
        if path.name == INDEX and _is_pack(path):
            return _packed(path.parent)
        return [_file(p) for p in Manifest.read(path).paths] if path.suffix.lower() in _TABLES else [_file(path)]
    found = sorted(glob.glob(name, recursive=True))
    if not found:
        raise ManifestError(f"no image, folder, glob or manifest {name}: give an existing one")
    images = [Path(p) for p in found if Path(p).is_file() and is_image(p)]
    if not images:
        raise ManifestError(f"no image matches {name}: looked for {IMAGE_NAMES}")
    return [_file(image) for image in images]


def _file(path: Path) -> Item:
    return Item(str(path), str(path))


def _is_pack(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return bool(metadata_of(pq.read_schema(path)))
    except (pa.ArrowException, OSError, ManifestError):
        return False


def _packed(folder: Path) -> list[Item]:
    index = read_index(folder)
    names = ["path", "shard", "offset", "size", "crc32"]
    reading = reading_of(metadata_of(index.schema), folder / INDEX)
    rows = zip(*(index[name].to_pylist() for name in names), strict=True)
    return [Item(path, str(folder / shard), offset, size, crc, reading) for path, shard, offset, size, crc in rows]


def warn_of_packs(items: Iterable[Item], read: Reading) -> None:
    """Says which packed images are not as an encoder is used to; files are read as it needs them.

    Args:
        items: Images that it will see.
        read: How its images are read.
    """
    for packed in dict.fromkeys(item.reading for item in items if item.reading is not None):
        for warning in read.unlike(packed):
            logger.warning(warning)


def load(item: Item, *, canvas_size: int, read: Reading) -> Loaded:
    """Reads one image; what cannot be read comes back with its `error`, so that a long job goes on.

    Args:
        item: Which.
        canvas_size: Longest side that is kept, in pixels.
        read: How files are read; a packed image is as it was packed.
    """
    try:
        data, image = _read(item, canvas_size, read)
    except (DecodeError, ShardError, OSError) as error:
        return Loaded(item, np.zeros((canvas_size, canvas_size), np.uint8), (0, 0), error=str(error))
    canvas, taken = to_canvas(image, canvas_size)
    return Loaded(item, canvas, taken, hashlib.sha256(data).hexdigest(), image_warnings(image))


def _read(item: Item, canvas_size: int, read: Reading) -> tuple[bytes, NDArray[np.uint8]]:
    if item.offset < 0:
        image = read(item.path, min_side=canvas_size)
        return Path(item.path).read_bytes(), image
    shard = Path(item.path)
    data = Storage(shard.parent).read(shard.name, item.offset, item.offset + item.size)
    if zlib.crc32(data) != item.crc32:
        raise DecodeError("", item.name, f"its bytes in {shard.name} are damaged (another checksum than when packed)")
    try:
        with Image.open(io.BytesIO(data)) as opened:
            return data, np.asarray(opened.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DecodeError("", item.name, f"its bytes in {shard.name} are damaged ({error})") from error


def loaded_batches(
    items: Sequence[Item], *, canvas_size: int, read: Reading, batch_size: int, threads: int
) -> Iterator[list[Loaded]]:
    """Images in order, decoded by threads one batch ahead of who asks."""
    with ThreadPoolExecutor(threads) as pool:
        coming = None
        for start in range(0, len(items), batch_size):
            part = items[start : start + batch_size]
            following = [pool.submit(load, item, canvas_size=canvas_size, read=read) for item in part]
            if coming is not None:
                yield [job.result() for job in coming]
            coming = following
        if coming is not None:
            yield [job.result() for job in coming]


def prepare(images: Iterable[Loaded], *, size: Size, mean: float, std: float, device: torch.device) -> Tensor:
    """The evaluation view of read images.

    Args:
        images: At least one, all readable.
        size: Side, or height and width, of the network's input in pixels.
        mean: Of the encoder.
        std: Of the encoder.
        device: Where the view is made.

    Returns:
        (B, 1, H, W) float32.
    """
    kept = list(images)
    canvases = torch.from_numpy(np.stack([image.canvas for image in kept])[:, None]).to(device)
    sizes = torch.tensor([image.taken for image in kept], device=device)
    return centre_view(canvases, sizes, out=size, mean=mean, std=std)
