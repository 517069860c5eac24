"""Small versions of the images of several sets, read from files or from packed shards."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.audit_align import SIDE, shrunk, small_image
from cxrbase.data.audit_images import AuditSet
from cxrbase.data.images import default_cache, index_path, is_url
from cxrbase.data.shard_cache import ShardCache
from cxrbase.data.shard_index import ShardIndex
from cxrbase.data.shard_store import LocalShards, ShardStore
from cxrbase.errors import ShardError

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
# Larger than what is compared, because a longer side of that size would leave the shorter one to be stretched.
_READ_AT = 2 * SIDE
_CACHE = 8_000_000_000  # bytes


class SmallImages:
    """Gives the images of some sets by their row, in the order of the sets.

    Args:
        sets: The sets.
    """

    def __init__(self, sets: Sequence[AuditSet]) -> None:
        self._readers = [_reader(entry) for entry in sets]
        self._starts = np.cumsum([0, *(len(entry.manifest) for entry in sets)])
        self.names = [Path(path).name for entry in sets for path in entry.manifest.table["path"].to_pylist()]

    def __call__(self, row: int) -> Pixels:
        """One image, (SIDE, SIDE) uint8; DecodeError or ShardError where it cannot be read."""
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._readers[part](row - int(self._starts[part]))


def _reader(entry: AuditSet) -> Callable[[int], Pixels]:
    if not entry.packed:
        root, paths = entry.manifest.root, entry.manifest.table["path"]
        return lambda row: small_image(root / paths[row].as_py())
    index = ShardIndex(index_path(entry.packed, default_cache(entry.packed)))
    index = index.take(entry.manifest.table["path"].to_pylist())
    if not is_url(entry.packed):
        store = ShardStore(index, LocalShards(entry.packed), size=_READ_AT)
        return lambda row: shrunk(store.image(row))
    return _far_reader(entry.packed, index)


def _far_reader(url: str, index: ShardIndex) -> Callable[[int], Pixels]:
    """Of an object store, as far as its shards can all be kept, because candidates lie in any two of them."""
    if (size := int(index.size.sum(dtype=np.int64))) > _CACHE:
        said = f"{url} holds {size / 1e9:.3g} GB, more than the {_CACHE / 1e9:g} GB that are kept"
        logger.warning("%s, so changed copies of its images cannot be told: copy it to a local disk for that", said)

        def refuse(row: int) -> Pixels:
            raise ShardError(said)

        return refuse
    # Not in the folder of a run, whose shards would make room for these.
    cache = default_cache(url)
    far = ShardStore(index, ShardCache(url, cache.with_name(f"{cache.name}-audit"), limit=2 * _CACHE), size=_READ_AT)
    return lambda row: shrunk(far.image(row))
