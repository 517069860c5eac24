"""Opens the images of a run: a folder of files, a folder of shards, or shards in an object store."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrbase.data.manifest import Manifest, Target
from cxrbase.data.selection import ImageTable
from cxrbase.data.shard_cache import ShardCache, window_of
from cxrbase.data.shard_index import ShardIndex
from cxrbase.data.shard_store import LocalShards, ShardStore
from cxrbase.data.shards import INDEX
from cxrbase.errors import ManifestError, ShardError


@dataclass(frozen=True)
class Phantom:
    """The embedded data set, made where it is missing.

    Args:
        patients: Number of patients; each has one to four images.
        image_size: Side of the images in pixels.
        seed: Seed of the patients.
    """

    patients: int = 1200
    image_size: int = 128
    seed: int = 0

    def make(self, root: Path) -> None:
        """Makes it in a folder where it is missing."""
        from cxrbase.data.phantom import make_phantom

        make_phantom(root, patients=self.patients, image_size=self.image_size, seed=self.seed)


def is_url(root: str) -> bool:
    """Whether a folder is one of an object store."""
    return "://" in root


def is_packed(root: str) -> bool:
    """Whether images are packed: there is an index, or the folder is one of an object store."""
    return is_url(root) or (Path(root) / INDEX).is_file()


def refuse_unfinished(root: Path) -> None:
    """Raises a ShardError where a folder was begun by `cxrbase pack`, which writes its index last."""
    if (root / "manifests").is_dir() and any((root / "plans").glob("*.json")) and not (root / INDEX).exists():
        raise ShardError(f"{root} holds images whose packing did not finish: run cxrbase pack again, and let it finish")


def default_cache(root: str) -> Path:
    """Where decoded canvases, or shards of an object store, are kept."""
    if not is_url(root):
        return Path(root) / ".canvas"
    return Path.home() / ".cache" / "cxrbase" / hashlib.sha256(root.encode()).hexdigest()[:16]


def fetch_index(root: str, cache: Path, limit_gb: float = 8.0) -> None:
    """Brings the index of an object store to this node, into a cache that holds `limit_gb` with the shards to come."""
    if is_url(root):
        ShardCache(root, cache, limit=int(limit_gb * 1e9)).index()


def index_path(root: str, cache: Path) -> Path:
    """Where the index of packed images is on this node, once it was fetched."""
    return (cache if is_url(root) else Path(root)) / INDEX


def open_packed(
    root: str, *, size: int | None, cache: Path, limit_gb: float, names: Sequence[str] | None = None
) -> tuple[ShardIndex, ShardStore, int]:
    """Opens packed images.

    Args:
        root: Folder, or URL whose index was fetched.
        size: Side of a canvas in pixels; None takes what 99 % of the images fit.
        cache: Local folder for the shards of an object store.
        limit_gb: What they may take there.
        names: Paths of the images that are wanted, as the index has them, in the order of the rows; None takes all.

    Returns:
        The index, the images, and how many shards may be mixed at a time, 0 for all.

    Raises:
        ShardError: The index is missing or damaged.
        ConfigError: The cache cannot hold two shards.
    """
    index = ShardIndex(index_path(root, cache))
    index = index if names is None else index.take(names)
    if not is_url(root):
        return index, ShardStore(index, LocalShards(root), size=size), 0
    limit = int(limit_gb * 1e9)
    return index, ShardStore(index, ShardCache(root, cache, limit=limit), size=size), window_of(index, limit)


def names_of(root: str, manifest: str | None, table: ImageTable) -> dict[str, list[str]]:
    """What the sources of the images at a place are called beside their names, as exclusion lists may have it.

    Args:
        root: Folder of the images or of the shards, or URL of these.
        manifest: The named manifest, if there is one.
        table: What is known about the images.

    Returns:
        Names by source; those of "" are names of all images.
    """
    if is_url(root):
        names = [root.rstrip("/").rpartition("/")[2]]
    else:
        named = [Path(manifest).stem, Path(manifest).resolve().parent.name] if manifest else []
        names = [*named, Path(root).resolve().name]
    return {**(table.called if isinstance(table, ShardIndex) else {}), "": names}


def read_manifest(root: Path, *, named: str | None, targets: dict[str, Target] | None) -> Manifest:
    """Manifest of a folder: the named one, that in the folder, or all its images; with the splits that it lacks."""
    if not root.is_dir():
        raise ManifestError(f"no folder {root}: give the folder of your images with --data.root=/path/to/images")
    given = [Path(named)] if named else []
    found = given or [p for p in (root / "manifest.parquet", root / "manifest.csv") if p.is_file()]
    if found:
        manifest = Manifest.read(found[0], root=root, targets=targets)
        manifest.check_files()
    else:
        refuse_unfinished(root)
        manifest = Manifest.from_folder(root)
    return manifest.with_missing_splits()
