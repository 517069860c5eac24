"""Images found unreadable during training: counted over all workers, named, and bounded."""

import csv
import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cxrbase.errors import CorruptError, DecodeError, ShardError

logger = logging.getLogger(__name__)

# Position in this table is what is stored for a row; 0 is a row that nothing is known against.
REASONS = {
    "": "",
    "missing": "it or its shard is missing or out of reach",
    "checksum": "its bytes are not those of the index",
    "damaged": "it cannot be decoded",
}
_NAMES = list(REASONS)
_SHOWN = 10


class Quarantine:
    """Rows that are not read again, in memory that loader workers share.

    Args:
        rows: Rows of the manifest.
        limit: Largest share of them that may end here, in [0, 1].
        names: Gives the names of some rows, for messages.
    """

    def __init__(self, rows: int, *, limit: float, names: Callable[[NDArray[np.int64]], list[str]]) -> None:
        if not 0 <= limit <= 1:
            raise ValueError(f"max_bad must be in [0, 1], got {limit}")
        self.limit, self.names = limit, names
        self._state = torch.zeros(rows, dtype=torch.uint8)
        # Workers set it to the time at which they entered something, so that looking costs nothing while all is well.
        self._touched = torch.zeros((), dtype=torch.int64)
        for tensor in (self._state, self._touched):
            tensor.share_memory_()  # type: ignore[no-untyped-call]
        self._told = np.zeros(rows, bool)
        self._seen = 0

    def holds(self, row: int) -> bool:
        """Whether a row is known to be unreadable."""
        return bool(self._state.numpy()[row])  # an index into the tensor takes half as long again

    def add(self, rows: NDArray[np.int64], reason: str) -> None:
        """Enters rows; from any worker."""
        fresh = rows[(self._state[rows] == 0).numpy()]
        if not len(fresh):
            return
        self._state[fresh] = _NAMES.index(reason)
        self._touched.fill_(time.monotonic_ns())

    def lock_up(self, row: int, error: CorruptError | DecodeError, sharing: Callable[[int], NDArray[np.int64]]) -> None:
        """Enters a row that could not be read, and with a lost shard all that it held.

        Args:
            row: Row of the manifest.
            error: What reading it raised.
            sharing: Rows whose bytes are lost together with those of a row.
        """
        whole = isinstance(error, CorruptError) and error.whole_shard
        rows = sharing(row) if whole else np.array([row])
        reason = error.reason if isinstance(error, CorruptError) else "missing" if error.unreachable else "damaged"
        self.add(rows, reason)

    @property
    def rows(self) -> NDArray[np.int64]:
        """What is in it, sorted."""
        return np.flatnonzero(self._state.numpy())

    def report(self, file: Path | None = None) -> None:
        """Names what came in since the last report, in the main process, and ends the run where it is too much.

        Args:
            file: CSV that the new rows are added to.

        Raises:
            ShardError: There are more than `limit` allows.
        """
        if last := self.tell(file):
            self._judge(*last)

    def exchange(self, device: torch.device) -> None:
        """Takes in what the other processes of the run found, and ends all of them where it is too much together.

        All processes must call it at the same point, with as many rows. Each goes on to name only what it found itself.

        Args:
            device: Where the processes exchange tensors.

        Raises:
            ShardError: There are more than `limit` allows; in all processes.
        """
        union = self._state.to(device, copy=True)
        torch.distributed.all_reduce(union, torch.distributed.ReduceOp.MAX)
        found = union.cpu()
        fresh = (found > 0) & (self._state == 0)
        self._state[fresh] = found[fresh]
        self._told[fresh.numpy()] = True
        if len(held := self.rows):
            self._judge(*self._last(held))

    def tell(self, file: Path | None = None) -> tuple[str, str] | None:
        """Names what came in since the last time, in the main process; gives one name and reason of it.

        Args:
            file: CSV that the new rows are added to.
        """
        if int(self._touched) == self._seen:
            return None
        self._seen = int(self._touched)
        held = self.rows  # once, because others add to it meanwhile
        rows = held[~self._told[held]]
        self._told[rows] = True
        names, reasons = self.names(rows), [_NAMES[code] for code in self._state[rows].tolist()]
        for name, reason in list(zip(names, reasons, strict=True))[:_SHOWN]:
            logger.warning("left out: %s, %s", name, REASONS[reason])
        if len(rows) > _SHOWN:
            logger.warning("left out: %d more images", len(rows) - _SHOWN)
        if file is not None and len(rows):
            with file.open("a", encoding="utf-8", newline="") as out:
                csv.writer(out, lineterminator="\n").writerows(zip(rows.tolist(), names, reasons, strict=True))
        # Otherwise of those that an earlier run or another process named.
        return (names[0], REASONS[reasons[0]]) if names else self._last(held)

    def _last(self, held: NDArray[np.int64]) -> tuple[str, str]:
        return self.names(held[-1:])[0], REASONS[_NAMES[int(self._state[held[-1]])]]

    def _judge(self, name: str, reason: str) -> None:
        count, allowed = len(self.rows), self.limit * len(self._state)
        if count > allowed:
            raise ShardError(
                f"{count} of {len(self._state)} images are unreadable, more than data.max_bad={self.limit:g} allows; "
                f"last: {name}, {reason}: mend or pack them again, or raise data.max_bad"
            )

    def state(self) -> dict[str, list[int]]:
        """Rows and reasons, for a checkpoint."""
        return {"rows": self.rows.tolist(), "reasons": self._state[self.rows].tolist()}

    def restore(self, state: dict[str, list[int]]) -> None:
        """Takes up what another run found and reported; what was missing or out of reach is tried again."""
        rows, reasons = np.array(state["rows"], np.int64), np.array(state["reasons"], np.uint8)
        kept = reasons != _NAMES.index("missing")
        self._state[rows[kept]] = torch.from_numpy(reasons[kept])
        # A loader that is made again takes the same state up again.
        if not self._told[rows].all():
            logger.warning(
                "%d images that were unreadable before the stop stay left out, "
                "%d that were missing or out of reach are tried again",
                kept.sum(), (~kept).sum(),
            )  # fmt: skip
        self._told[rows] = True
