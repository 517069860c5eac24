"""Features of images as a Parquet table, in order; a killed job resumes where it stopped."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from cxrbase.cores import available_cores
from cxrbase.data.reading import Reading
from cxrbase.devices import device_of
from cxrbase.errors import ConfigError
from cxrbase.evaluation.features import pool_tokens
from cxrbase.release.explained import encoder_of
from cxrbase.release.inputs import Item, Loaded, find_images, loaded_batches, prepare, warn_of_packs
from cxrbase.release.outputs import local_place
from cxrbase.sizes import longest
from cxrbase.states import state_hash
from cxrbase.whole_files import written_whole

# Images of a part: what a killed job loses at most.
PART = 1024


@dataclass(frozen=True)
class Embedded:
    """What a job did.

    Attributes:
        path: The table.
        images: Rows in it.
        bad: Rows without features, because their image could not be read.
        warned: Rows with warnings.
        resumed: Rows that an earlier, killed job had made.
    """

    path: Path
    images: int
    bad: int
    warned: int
    resumed: int


def embed(
    encoder: str,
    images: Sequence[str],
    *,
    out: str | Path,
    batch_size: int = 64,
    device: str | None = None,
    threads: int | None = None,
    part: int = PART,
) -> Embedded:
    """Writes one row per image: path, sha256, warnings, error, cls and patch_mean (float32 lists; null where bad).

    Args:
        encoder: As of `load_any_encoder`, or a fine-tuned model, whose encoder is taken.
        images: As of `find_images`.
        out: A .parquet file. While the job runs, finished parts are in a folder beside it; the same command goes on
            from there. The file appears complete or not at all.
        batch_size: Images per step of the network.
        device: cpu, cuda, cuda:1 ...; None takes a GPU where there is one.
        threads: That decode; None takes every core.
        part: Images per part.

    Raises:
        ConfigError: `out` exists, is not on this machine or is no .parquet name, or its parts are of another job.
        EncoderError: The encoder cannot be read.
        ManifestError: There are no such images.
    """
    out = local_place(out)
    if out.exists():
        raise ConfigError(f"{out} exists already: give another --out, or remove it")
    if out.suffix != ".parquet":
        raise ConfigError(f"--out must be a new file that ends in .parquet, got {out}")
    if batch_size < 1 or part < 1:
        raise ValueError(f"batch_size and part must be at least 1, got {batch_size} and {part}")
    items = find_images(images)
    reader = Embedder(encoder, device=device, batch_size=batch_size, threads=threads)
    warn_of_packs(items, reader.reading)
    parts = _open_parts(out, _key(items, reader, part))
    resumed = 0
    with tqdm(total=len(items), desc="embedding", unit="image", mininterval=1.0) as bar:
        for number, start in enumerate(range(0, len(items), part)):
            chunk, path = items[start : start + part], parts / f"{number:06d}.parquet"
            if path.is_file():
                resumed += len(chunk)
            else:
                _replace(path, reader.table(chunk))
            bar.update(len(chunk))
    rows, bad, warned = join_parts(parts, out, about=reader.about)
    shutil.rmtree(parts)
    return Embedded(out, rows, bad, warned, resumed)


def join_parts(parts: Path, out: Path, *, about: Mapping[str, Any]) -> tuple[int, int, int]:
    """Writes the tables of a folder, in order of their names, into one, with one of them in memory at a time.

    Args:
        parts: Holds at least one .parquet file.
        out: The table, a row group for each part.
        about: Goes into its metadata.

    Returns:
        Rows, and of them those with an error and those with warnings.
    """
    files = sorted(parts.glob("*.parquet"))
    schema = pq.read_schema(files[0]).with_metadata({"cxrbase": json.dumps(about, sort_keys=True)})
    rows = bad = warned = 0
    with written_whole(out) as whole, pq.ParquetWriter(whole, schema) as writer:
        for file in files:
            table = pq.ParquetFile(file).read().cast(schema)
            writer.write_table(table)
            rows += len(table)
            bad, warned = (
                count + int(pc.sum(pc.not_equal(table[name], "")).as_py() or 0)
                for name, count in (("error", bad), ("warnings", warned))
            )
    return rows, bad, warned


class Embedder:
    """An encoder on its device, and what it needs to be fed.

    Args:
        encoder: As of `load_any_encoder`.
        device: As of `embed`.
        batch_size: As of `embed`.
        threads: As of `embed`.

    Attributes:
        about: Card of the encoder without paths, and the checksum of its weights.
        reading: How files are read.
    """

    def __init__(
        self, encoder: str, *, device: str | None = None, batch_size: int = 64, threads: int | None = None
    ) -> None:
        self.device = device_of(device)
        self.network, self.card = encoder_of(encoder)
        self.reading = Reading.of(self.card)
        self.network.to(self.device)
        self.batch_size, self.threads = batch_size, threads or available_cores()
        told = {key: value for key, value in self.card.items() if key != "source"}
        self.about = {**told, "weights_sha256": state_hash(self.network.state_dict())}

    def table(self, items: Sequence[Item]) -> pa.Table:
        """Rows of some images, in order."""
        return pa.concat_tables([self._rows(batch, feature) for batch, feature in self.features(items)])

    def features(self, items: Sequence[Item]) -> Iterator[tuple[list[Loaded], NDArray[np.float32]]]:
        """Read images, and the features of the readable ones, (n, 2 * D) float32, batch by batch."""
        size = 2 * longest(self.card["image_size"])
        batches = loaded_batches(
            items, canvas_size=size, read=self.reading, batch_size=self.batch_size, threads=self.threads
        )
        for batch in batches:
            good = [image for image in batch if not image.error]
            width = self.network.embed_dim * (2 if self.network.has_class_token else 1)
            if not good:
                yield batch, np.empty((0, width), np.float32)
                continue
            yield batch, self._run(good)

    def _run(self, images: list[Loaded]) -> NDArray[np.float32]:
        card = self.card
        with torch.inference_mode():
            view = prepare(images, size=card["image_size"], mean=card["mean"], std=card["std"], device=self.device)
            tokens = self.network.forward_features(view)
            return np.asarray(pool_tokens(self.network, tokens).float().cpu().numpy())

    def _rows(self, batch: list[Loaded], features: NDArray[np.float32]) -> pa.Table:
        width = self.network.embed_dim
        rows = iter(features)
        full = [None if image.error else next(rows) for image in batch]
        cls = [None if row is None or len(row) == width else row[:width] for row in full]
        mean = [None if row is None else row[-width:] for row in full]
        kind = pa.list_(pa.float32(), width)
        return pa.table(
            {
                "path": pa.array([image.item.name for image in batch], pa.string()),
                "sha256": pa.array([image.sha256 for image in batch], pa.string()),
                "warnings": pa.array(["; ".join(image.warnings) for image in batch], pa.string()),
                "error": pa.array([image.error for image in batch], pa.string()),
                "cls": pa.array(cls, kind),
                "patch_mean": pa.array(mean, kind),
            }
        )


def _key(items: Sequence[Item], reader: Embedder, part: int) -> dict[str, Any]:
    told = [[item.name, item.path, item.offset, item.size, item.crc32] for item in items]
    names = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    # As it is read back, so that the two can be compared.
    key: dict[str, Any] = json.loads(json.dumps({"images": names, "encoder": reader.about, "part": part}))
    return key


def _open_parts(out: Path, key: dict[str, Any]) -> Path:
    """The folder of finished parts; ConfigError where it belongs to another job."""
    parts = out.with_name(f".{out.name}.parts")
    record = parts / "job.json"
    if record.is_file():
        if json.loads(record.read_text()) != key:
            raise ConfigError(f"{parts} holds parts of other images or another encoder: remove it or change --out")
        return parts
    parts.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(key))
    return parts


def _replace(path: Path, table: pa.Table) -> None:
    with written_whole(path) as part:
        pq.write_table(table, part)
