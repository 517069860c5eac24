"""Reads the images of several sets once, and keeps what an audit needs of each."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from cxrbase.code_hash import code_hash
from cxrbase.data.decode import INTENSITY_CONVENTION, decode, to_uint8
from cxrbase.data.fingerprint import DIGITS, perceptual_hash, pixel_sha1
from cxrbase.data.grey import statistics
from cxrbase.data.images import default_cache, fetch_index, index_path, is_url, refuse_unfinished
from cxrbase.data.manifest import Manifest
from cxrbase.data.manifest_columns import MOST_ORIGINS, ORIGINS, read_table, text_of
from cxrbase.data.manifest_splits import fill_splits
from cxrbase.data.shard_index import ShardIndex
from cxrbase.data.shards import INDEX, METADATA_KEY, STATISTICS_FIELDS
from cxrbase.data.sources.catalogue import find
from cxrbase.errors import DecodeError, ManifestError
from cxrbase.whole_files import written_whole

_FIELDS: dict[str, Any] = {
    "sha1": str, "phash": str, "height": np.int32, "width": np.int32, "std": np.float32, "border": np.float32,
    "extreme": np.float32, "error": str,
}  # fmt: skip
# Columns of an index of packed images, and what they are here.
_PACKED = {
    "width": "width", "height": "height", "grey_std": "std", "rim_brightness": "border", "extreme_share": "extreme"
}  # fmt: skip
# What a fingerprint depends on, beside its file.
_CODE = ("data/decode*.py", "data/fingerprint.py", "data/grey.py")


@dataclass(frozen=True)
class AuditSet:
    """One manifest under audit.

    Args:
        name: Name in the reports.
        manifest: Its images; the column `split` of a file is blank, because a manifest with leaks is refused.
        splits: (N,) of str, the splits as training and tasks have them.
        packed: Folder or URL of the packed images that the manifest is the index of; "" where its paths are files.
        dealt: How many of the splits the file lacks, so that they are dealt by patient.
    """

    name: str
    manifest: Manifest
    splits: NDArray[Any]
    packed: str = ""
    dealt: int = 0

    @property
    def sources(self) -> NDArray[Any]:
        """Source of each image, (N,) of str; the name of the set stands in for a blank one."""
        sources = self.manifest.column("source")
        return np.where(sources == "", self.name, sources)

    @property
    def origins(self) -> NDArray[Any]:
        """Where each image is from, (N,) of str: its source, and its `ORIGINS` in a set that was put together.

        A column of more than 100 values tells nothing of a label, and is left out.
        """
        result = self.sources
        for column in ORIGINS:
            codes, names = self.manifest.coded(column)
            if len(names) <= MOST_ORIGINS:
                origins = np.array(names, object)[codes]
                result = np.where(origins == "", result, result + ": " + origins)
        return result


def open_set(path: str | Path) -> AuditSet:
    """Opens a manifest, .parquet or .csv, or a folder of images, with or without a manifest in it, or of packed ones.

    Args:
        path: Of the file or the folder; of packed images also the URL of their folder. `<source>=<root>` is a public
            data set as downloaded, with its official splits and patients.

    Raises:
        ConfigError: There is no source of that name.
        ManifestError: It is none of these, or cannot be read.
        ShardError: There are no packed images at the URL, or those in the folder are not finished.
    """
    source, equals, root = str(path).partition("=")
    if equals and "/" not in source and not os.path.exists(path):
        # What is missing is left out with a warning: what is there may be audited.
        manifest = find(source).read(root, partial=True)
        return _divided(AuditSet(source, manifest, manifest.column("split")))
    if is_url(str(path)):
        return _open_remote(str(path))
    path = Path(path)
    # As the data module does, because without the manifest splits and patients are unknown.
    path = next((path / name for name in ("manifest.parquet", "manifest.csv", INDEX) if (path / name).is_file()), path)
    if path.is_dir():
        refuse_unfinished(path)
        manifest = Manifest.from_folder(path)
        return _divided(AuditSet(path.resolve().name, manifest, manifest.column("split")))
    if path.suffix.lower() not in (".parquet", ".csv") or not path.is_file():
        raise ManifestError(f"cannot audit {path}: give an existing .parquet or .csv manifest, or a folder of images")
    try:
        table = read_table(path)
        splits = [""] * len(table)
        if "split" in table.column_names:
            splits = text_of(table, "split").to_pylist()
            table = table.drop_columns(["split"])
        packed = path.name == INDEX and METADATA_KEY in (table.schema.metadata or {})
        if packed:
            ShardIndex(path)  # checks it
            table = _with_own_statistics(table)
        manifest = Manifest(table, path.parent)
    except (ManifestError, pa.ArrowException, UnicodeError) as error:
        raise ManifestError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    stem = path.stem if path.name not in ("manifest.parquet", "manifest.csv", INDEX) else path.resolve().parent.name
    return _divided(AuditSet(stem, manifest, np.asarray(splits, object), str(path.parent) if packed else ""))


def _divided(entry: AuditSet) -> AuditSet:
    """With the splits that it lacks, because copies leak between those that a run has."""
    packed = bool(entry.packed)
    splits = fill_splits(entry.manifest, entry.splits, packed=packed, name="" if packed else entry.name)
    return replace(entry, splits=splits, dealt=int((splits != entry.splits).sum()))


def _with_own_statistics(table: pa.Table) -> pa.Table:
    """Without columns that have the names of the packer's statistics by chance, in an index that is older than they."""
    names = set(table.column_names)
    if all(field.name in names and table.schema.field(field.name).type == field.type for field in STATISTICS_FIELDS):
        return table
    return table.drop_columns([field.name for field in STATISTICS_FIELDS if field.name in names])


def _open_remote(url: str) -> AuditSet:
    cache = default_cache(url)
    fetch_index(url, cache)
    return replace(open_set(index_path(url, cache)), name=url.rstrip("/").rpartition("/")[2], packed=url)


def measure(sets: Sequence[AuditSet], cache: Path, *, threads: int = 2) -> dict[str, NDArray[Any]]:
    """Fingerprints and simple statistics of all images, in the order of the sets.

    Args:
        sets: Sets to read.
        cache: Parquet file of earlier results of the same code; files whose size and time are unchanged are not read
            again.
        threads: Threads that decode.

    Returns:
        Arrays (N,): `sha1` and `phash` of str, "" where the image is unreadable, in which case `error` says why;
        `height` and `width` int32, 0 where unknown; `std`, `border` and `extreme` float32, NaN where unknown.
    """
    known = _read_cache(cache)
    rows: list[dict[str, Any] | None] = []
    todo: list[tuple[int, Path, tuple[str, int, int]]] = []
    keys: list[tuple[str, int, int]] = []
    for entry in sets:
        packed = _packed(entry)
        for row, path in enumerate(entry.manifest.paths):
            key = _key(path)
            found = packed(row) or known.get(key)
            if found is None:
                todo.append((len(rows), path, key))
            rows.append(found)
            keys.append(key)
    with ThreadPoolExecutor(threads) as pool:
        bar = tqdm(total=len(todo), desc="reading images", unit="image", mininterval=1.0, disable=len(todo) < 100)
        for start in range(0, len(todo), 256):
            part = todo[start : start + 256]
            results = pool.map(_measured, [path for _, path, _ in part])
            for (row, path, _), (result, away) in zip(part, results, strict=True):
                rows[row] = result
                if away:
                    keys[row] = _no_key(path)
                bar.update()
        bar.close()
    done = [row for row in rows if row is not None]
    columns = {name: np.array([row[name] for row in done], _dtype(kind)) for name, kind in _FIELDS.items()}
    if todo:
        _write_cache(cache, keys, columns)
    return columns


def _measured(path: Path) -> tuple[dict[str, Any], bool]:
    """What is known of an image, and whether it was out of reach."""
    try:
        image = to_uint8(decode(path))
    except DecodeError as error:
        return _row(error=error.reason), error.unreachable
    size = {"height": image.shape[0], "width": image.shape[1]}
    return _row(sha1=pixel_sha1(image), phash=perceptual_hash(image), **size, **statistics(image)), False


def _row(**values: Any) -> dict[str, Any]:
    empty = {name: "" if kind is str else 0 if kind is np.int32 else np.nan for name, kind in _FIELDS.items()}
    return empty | values


def _packed(entry: AuditSet) -> Callable[[int], dict[str, Any] | None]:
    """What the manifest brings along, by row; fingerprints of another length were made in another way."""
    names = entry.manifest.table.column_names
    if not {"sha1", "phash"} <= set(names):
        return lambda row: None
    sha1, phash = entry.manifest.column("sha1"), entry.manifest.column("phash")
    # Columns of such names in a manifest of other files may mean anything.
    known = {to: entry.manifest.column(name) for name, to in _PACKED.items() if entry.packed and name in names}

    def find(row: int) -> dict[str, Any] | None:
        if len(sha1[row]) != 40 or len(phash[row]) != DIGITS:
            return None
        return _row(
            sha1=str(sha1[row]), phash=str(phash[row]), **{to: float(c[row] or "nan") for to, c in known.items()}
        )

    return find


def _key(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:
        return _no_key(path)
    return os.path.abspath(path), status.st_size, status.st_mtime_ns


def _no_key(path: Path) -> tuple[str, int, int]:
    """Of a file out of reach, which has no state that could tell when it comes back."""
    return os.path.abspath(path), -1, -1


def _dtype(kind: Any) -> Any:
    return object if kind is str else kind


def _version() -> str:
    """Changes when the same file may give another fingerprint."""
    return f"1 {INTENSITY_CONVENTION} {code_hash(_CODE)}"


def _read_cache(cache: Path) -> dict[tuple[str, int, int], dict[str, Any]]:
    if not cache.is_file():
        return {}
    try:
        table = pq.ParquetFile(cache).read()
    except (pa.ArrowException, OSError):
        return {}
    if (table.schema.metadata or {}).get(b"version") != _version().encode():
        return {}
    keys = zip(*(table[name].to_pylist() for name in ("path", "size", "mtime")), strict=True)
    return dict(zip(keys, _rows_of(table), strict=True))


def _rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    for row in table.select(list(_FIELDS)).to_pylist():
        yield {name: np.nan if value is None else value for name, value in row.items()}


def _write_cache(cache: Path, keys: list[tuple[str, int, int]], columns: dict[str, NDArray[Any]]) -> None:
    paths, sizes, times = zip(*keys, strict=True)
    # What the packer wrote is in the manifest already.
    kept = np.array(sizes) >= 0
    kept &= columns["width"] + (columns["error"] != "") > 0
    table = pa.table({"path": paths, "size": sizes, "mtime": times} | {k: pa.array(v) for k, v in columns.items()})
    table = table.filter(pa.array(kept)).replace_schema_metadata({"version": _version()})
    with written_whole(cache) as part:
        pq.write_table(table, part)
