"""Fetches shards before the stream needs them, which is possible because their order is known."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.shard_cache import ShardCache
from cxrbase.data.stream import StreamSampler
from cxrbase.errors import ShardError

logger = logging.getLogger(__name__)

_STREAMS = 4  # fetches at a time


class LookAhead:
    """Keeps the shards of the present window and of the next one at hand.

    Args:
        cache: Where they go.
        names: Name of each shard by number.
    """

    def __init__(self, cache: ShardCache, names: list[str]) -> None:
        self.cache, self.names = cache, names
        self._pool: ThreadPoolExecutor | None = None
        self._lock, self._reached = threading.Lock(), -1
        self._windows: list[NDArray[np.int32]] = []
        self._ends = np.zeros(0, np.int64)

    def begin(self, sampler: StreamSampler) -> None:
        """Begins an epoch, at the sampler's position in it."""
        self.close()
        self._windows, self._ends = sampler.source.windows(sampler.epoch, sampler.plan)
        self._pool, self._reached = ThreadPoolExecutor(_STREAMS, thread_name_prefix="fetch"), -1
        self.at(sampler.start)

    def at(self, position: int) -> None:
        """Told how far the stream is, in images of the epoch; returns at once."""
        window = int(np.searchsorted(self._ends, position, side="right"))
        with self._lock:
            if window <= self._reached or self._pool is None:
                return
            known, self._reached = self._reached, window
        for number in (window, window + 1):
            for shard in self._windows[number] if number < len(self._windows) else ():
                # Those of the present window were asked for when it was the next; now they are only kept.
                work = self.cache.touch if known >= 0 and number <= known + 1 else self._fetch
                self._pool.submit(work, self.names[shard])

    def close(self) -> None:
        """Stops fetching."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _fetch(self, name: str) -> None:
        try:
            self.cache.fetch(name)
        except ShardError as error:
            # Whoever needs it tries again and says what it means for the run.
            logger.warning("could not fetch ahead: %s", error)
