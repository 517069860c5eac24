"""Small folders of packed images for tests, written with the functions of the format."""

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from cxrbase.data.manifest import Manifest
from cxrbase.data.shards import FORMAT_VERSION, INDEX, PACKED_FIELDS, member_name, parquet_bytes, shard_name, write_tar
from cxrbase.data.storage import Storage


def picture(number: int, height: int = 40, width: int = 36) -> np.ndarray:
    """A smooth image that no other number has."""
    rows, columns = np.mgrid[:height, :width]
    waves = np.sin(rows / (3 + number % 7)) + np.cos(columns / (3 + number % 11))
    return np.uint8(40 * (waves + 2) + number % 90)


def make_pack(
    folder: Path, *, per_shard: int = 8, codec: str = "png", size: int = 36, images=picture, **columns
) -> Path:
    """Packs one image for each entry of the columns.

    Args:
        folder: Folder or URL.
        per_shard: Images of a shard.
        codec: `png` keeps every pixel.
        size: Short side that the metadata say.
        images: Gives the image of a row.
        columns: Columns of the manifest; `source` decides the shards.
    """
    count = len(next(iter(columns.values())))
    sources = columns.setdefault("source", ["made"] * count)
    columns.setdefault("path", [f"{source}/{row}.png" for row, source in enumerate(sources)])
    columns.setdefault("patient_id", [f"p{row // 2}" for row in range(count)])
    columns.setdefault("split", ["train"] * count)
    table, storage = Manifest.from_columns(columns, root="/").table, Storage(folder)
    packed = {field.name: [None] * count for field in PACKED_FIELDS}
    for source in dict.fromkeys(sources):
        rows = [row for row in range(count) if sources[row] == source]
        for block, start in enumerate(range(0, len(rows), per_shard)):
            members = [(row, images(row)) for row in rows[start : start + per_shard]]
            suffix = {"png": ".png", "jpeg": ".jpg"}[codec]
            encoded = [(member_name(source, r, codec), cv2.imencode(suffix, i)[1].tobytes()) for r, i in members]
            tar, placed = write_tar(encoded)
            storage.write(shard_name(source, block), tar)
            for (row, image), member in zip(members, placed, strict=True):
                height, width = image.shape
                values = (shard_name(source, block), member.offset, member.size, member.crc32, width, height, "", "")
                for name, value in zip(packed, values, strict=True):
                    packed[name][row] = value
    for field in PACKED_FIELDS:
        table = table.append_column(field, pa.array(packed[field.name], field.type))
    table = table.sort_by([("shard", "ascending"), ("offset", "ascending")])
    metadata = {"version": FORMAT_VERSION, "size": size, "codec": codec, "intensity": "bone bright, as packed"}
    storage.write(INDEX, parquet_bytes(table, metadata))
    return folder
