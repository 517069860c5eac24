"""A local cache of bounded size for shards of an object store: fetched once per node, whole, and ahead of need."""

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.shard_index import ShardIndex
from cxrbase.data.shards import INDEX
from cxrbase.data.storage import Storage
from cxrbase.errors import ConfigError, ShardError
from cxrbase.whole_files import written_whole

logger = logging.getLogger(__name__)

_GOOD_WINDOW = 32  # shards; with fewer, the images of a batch are measurably closer to each other than by chance

_TAIL = 20 * 512  # bytes that a tar ends with, at most
_LOCKS = ".locks"


class ShardCache:
    """A local copy of some of the shards of a folder in an object store.

    All processes of a node share it. A shard appears under its name complete or not at all, one process at a time
    fetches a shard, and those that were not used for longest make room for new ones.

    Args:
        url: fsspec URL of the folder of the index.
        folder: Local folder.
        limit: Bytes that the shards in it may take.
        retries: How often a fetch that failed is tried again.
        pause_s: Seconds before the first of these; doubled each time.
    """

    stays = False

    def __init__(self, url: str, folder: str | Path, *, limit: int, retries: int = 4, pause_s: float = 0.5) -> None:
        self.url, self.folder, self.limit = url, Path(folder), limit
        self.retries, self.pause_s = retries, pause_s
        self._storage: Storage | None = None
        self._owner = 0

    def index(self) -> Path:
        """Fetches the index anew, which is what tells whether the shards at hand are still the right ones."""
        with self._locked(INDEX):
            self._write(INDEX, self._fetch(INDEX))
        return self.folder / INDEX

    def open(self, name: str) -> FileIO:
        """Opens a shard, fetched first where it is not at hand.

        Raises:
            ShardError: It cannot be fetched, or is larger than the cache.
        """
        path = self.folder / name
        # Another process may remove it between fetching and opening.
        for _ in range(100):
            with contextlib.suppress(FileNotFoundError):
                file = FileIO(path)
                self.touch(name)
                return file
            self.fetch(name)
        raise ShardError(f"{name} was removed from {self.folder} as often as it was fetched: raise data.cache_gb")

    def fetch(self, name: str) -> None:
        """Brings a shard to the local disk where it is not; see `open`."""
        with self._locked(name):
            if (self.folder / name).exists():
                return
            data = self._fetch(name)
            if len(data) > self.limit:
                raise ShardError(
                    f"{name} takes {len(data) / 1e9:.3g} GB and the cache {self.limit / 1e9:.3g}: raise data.cache_gb"
                )
            # Room is made and taken by one process at a time, or two would count on the same room.
            with self._locked("room"):
                self._make_room(len(data))
                self._write(name, data)

    def touch(self, name: str) -> None:
        """Says that a shard is in use, so that others go before it."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.folder / name)

    def drop(self, name: str) -> bool:
        """Removes a damaged copy; there is always another to fetch."""
        (self.folder / name).unlink(missing_ok=True)
        return True

    def __getstate__(self) -> dict[str, Any]:
        """Without the connection, which every process makes for itself."""
        return {**self.__dict__, "_storage": None}

    def _fetch(self, name: str) -> bytes:
        for attempt in range(self.retries + 1):
            try:
                return self._remote().read(name)
            except ShardError as error:
                if attempt == self.retries or isinstance(error.__cause__, FileNotFoundError | PermissionError):
                    raise
                pause = self.pause_s * 2**attempt
                logger.warning("%s; trying again in %g s", error, pause)
                time.sleep(pause)
        raise AssertionError

    def _remote(self) -> Storage:
        # Connections do not survive a fork.
        if self._storage is None or self._owner != os.getpid():
            self._storage, self._owner = Storage(self.url), os.getpid()
        return self._storage

    def _make_room(self, needed: int) -> None:
        files = sorted(self._files(), key=lambda entry: entry[1].st_mtime_ns)
        total = sum(status.st_size for _, status in files)
        for path, status in files:
            if total + needed <= self.limit:
                return
            path.unlink(missing_ok=True)
            total -= status.st_size

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in self.folder.rglob("*.tar"):
            if path.parent.name == _LOCKS:
                continue
            with contextlib.suppress(FileNotFoundError):
                found.append((path, path.stat()))
        return found

    def _write(self, name: str, data: bytes) -> None:
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as part:
                part.write_bytes(data)
        except OSError as error:
            raise ShardError(
                f"cannot keep {name} in {self.folder} ({error.strerror or error}): free space, lower data.cache_gb, or "
                "set data.cache_dir to another folder"
            ) from error

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Held by one process of the node at a time, and given up by its death."""
        path = self.folder / _LOCKS / name.replace("/", "_")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except OSError as error:
            raise ShardError(
                f"cannot write to {self.folder} ({error.strerror or error}): set data.cache_dir to another folder"
            ) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # Closing is not enough: a worker process that was forked meanwhile has the file too, and so the lock.
                fcntl.flock(file, fcntl.LOCK_UN)


def shard_bytes(index: ShardIndex) -> NDArray[np.int64]:
    """Bytes of each shard, (S,), at least: up to the end of its last image."""
    ends = np.zeros(len(index.shard_names), np.int64)
    np.maximum.at(ends, index.shard, index.offset + index.size)
    return ends


def window_of(index: ShardIndex, limit: int) -> int:
    """Shards that can be mixed with each other, so that they and the next as many fit into a cache; 0 for all.

    Args:
        index: Index of the shards.
        limit: Bytes that the cache may take.

    Raises:
        ConfigError: Not even two shards fit.
    """
    sizes = shard_bytes(index) + _TAIL
    if int(sizes.sum()) <= limit:
        return 0
    largest = int(sizes.max())
    window = limit // (2 * largest)
    if window < 1:
        raise ConfigError(
            f"data.cache_gb={limit / 1e9:.3g} cannot hold two shards of {largest / 1e9:.3g} GB: set it to "
            f"{2 * largest / 1e9:.2g} at least, {2 * _GOOD_WINDOW * largest / 1e9:.2g} for a good shuffle, or "
            f"{sizes.sum() / 1e9:.3g} to hold everything"
        )
    if window < min(_GOOD_WINDOW, len(sizes)):
        logger.warning(
            "data.cache_gb=%.3g lets %d shards be mixed at a time; %.2g GB would let %d, for a better shuffle",
            limit / 1e9, window, 2 * _GOOD_WINDOW * largest / 1e9, _GOOD_WINDOW,
        )  # fmt: skip
    return window


def warn_of_wider(index: ShardIndex, window: int, limit: int) -> None:
    """Warns where the epoch that a checkpoint is of mixes more shards than fit into a cache.

    Args:
        index: Index of the shards.
        window: Shards that are mixed with each other in that epoch; 0 for all.
        limit: Bytes that the cache may take.
    """
    sizes = shard_bytes(index) + _TAIL
    needed = min(int(sizes.sum()), 2 * window * int(sizes.max()) if window else int(sizes.sum()))
    if needed > limit:
        logger.warning(
            "the epoch of the checkpoint mixes %s shards at a time, more than data.cache_gb=%.3g holds, so that shards "
            "are fetched again and again until it ends: raise data.cache_gb to %.3g",
            window or "all", limit / 1e9, 1.005 * needed / 1e9,
        )  # fmt: skip
