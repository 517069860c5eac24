"""The images of several sets, small, wherever they lie: files, or packed in shards."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.audit_align import SIDE, shrunk, small_image
from cxrbase.data.audit_images import AuditSet
from cxrbase.data.images import default_cache, open_packed

Pixels = NDArray[np.uint8]
# Larger than what is compared, because a longer side of that size would leave the shorter one to be stretched.
_READ_AT = 2 * SIDE
_CACHE_GB = 8.0


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
    names = entry.manifest.table["path"].to_pylist()
    cache = default_cache(entry.packed)
    store = open_packed(entry.packed, size=_READ_AT, cache=cache, limit_gb=_CACHE_GB, names=names)[1]
    return lambda row: shrunk(store.image(row))
