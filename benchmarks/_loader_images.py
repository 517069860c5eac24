"""The images of loader.py: made up once as 12-bit originals, then packed for every loader from the same bytes."""

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from cxrbase.data.manifest import Manifest
from cxrbase.data.shards import FORMAT_VERSION, INDEX, PACKED_FIELDS, member_name, parquet_bytes, shard_name, write_tar

HEIGHT, WIDTH = 2500, 2000
SHARDS = 4  # so that two workers of webdataset have something to share


def original(number: int) -> np.ndarray:
    """(2500, 2000) uint16 of 12 bits: smooth shapes, texture of several widths and noise of the detector."""
    rng = np.random.default_rng(number)
    image = np.zeros((HEIGHT, WIDTH), np.float32)
    for height, strength, blur in ((10, 700, 0.0), (640, 450, 1.2), (1250, 90, 0.7)):
        noise = rng.normal(0, strength, (height, height * WIDTH // HEIGHT)).astype(np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), blur) if blur else noise
        image += cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(2000 + image + rng.normal(0, 20, image.shape), 0, 4095).astype(np.uint16)


def write_originals(folder: Path, count: int) -> list[Path]:
    """16-bit PNG files."""
    paths = [folder / f"{number:03}.png" for number in range(count)]
    folder.mkdir(parents=True)
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), original(number))
    return paths


def encode(originals: list[Path], side: int) -> list[tuple[bytes, int, int]]:
    """JPEG q90 of a short side, with width and height."""
    found = []
    for path in originals:
        small = cv2.resize(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), (side, side * HEIGHT // WIDTH),
                           interpolation=cv2.INTER_AREA)  # fmt: skip
        data = cv2.imencode(".jpg", (small >> 4).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        found.append((data, small.shape[1], small.shape[0]))
    return found


def write_all(folder: Path, originals: list[Path], count: int, side: int) -> list[bytes]:
    """The encoded images, repeated to `count`, as files and as a pack; returns their bytes."""
    distinct = encode(originals, side)
    images = [distinct[row % len(distinct)] for row in range(count)]
    (folder / "files" / "x").mkdir(parents=True)
    (folder / "shards").mkdir()
    for row, (data, _, _) in enumerate(images):
        (folder / "files" / "x" / f"{row:06}.jpg").write_bytes(data)
    rows = []
    for shard, block in enumerate(np.array_split(np.arange(count), SHARDS)):
        tar, placed = write_tar([(member_name("made", int(row), "jpeg"), images[row][0]) for row in block])
        (folder / shard_name("made", shard)).write_bytes(tar)
        rows += [(shard_name("made", shard), m.offset, m.size, m.crc32, *images[row][1:], "", "")
                 for row, m in zip(block, placed, strict=True)]  # fmt: skip
    columns = {"path": [f"made/{row}" for row in range(count)], "split": ["train"] * count}
    table = Manifest.from_columns(columns, root="/").table
    for field, values in zip(PACKED_FIELDS, zip(*rows, strict=True), strict=True):
        table = table.append_column(field, pa.array(values, field.type))
    metadata = {"version": FORMAT_VERSION, "size": side, "codec": "jpeg", "intensity": "made up"}
    (folder / INDEX).write_bytes(parquet_bytes(table, metadata))
    return [data for data, _, _ in images]


def write_litdata(folder: Path, images: list[bytes]) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder / "litdata"), chunk_bytes="64MB")
    for row, data in enumerate(images):
        writer[row] = {"key": row, "jpg": data}
    writer.done()
    writer.merge()


def write_mosaic(folder: Path, images: list[bytes]) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder / "mosaic"), columns={"key": "int", "jpg": "bytes"}) as writer:
        for row, data in enumerate(images):
            writer.write({"key": row, "jpg": data})
