"""Where images that stand in for unreadable ones are drawn from: shards that are at hand, and other patients."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from cxrbase.data.order import REPEAT, Order, Plan, Rows


class StandIns:
    """The order of the epoch under way, in memory that loader workers share.

    Args:
        order: What epochs draw from.

    Attributes:
        pool: All rows that are drawn from, sorted.
    """

    def __init__(self, order: Order) -> None:
        self.pool, self.patients = order.rows, order.patients
        shards = 0 if order.shards is None else len(np.unique(order.shards[self.pool]))
        self._ids = torch.zeros(len(order), dtype=torch.int64)
        self._ends = torch.zeros(shards, dtype=torch.int64)
        self._plan = torch.zeros(2, dtype=torch.int64)
        for tensor in (self._ids, self._ends, self._plan):
            tensor.share_memory_()  # type: ignore[no-untyped-call]

    def begin(self, order: Order, epoch: int, plan: Plan, ids: Rows) -> None:
        """Takes an epoch down; to be called before its images are read.

        Args:
            order: What the epoch draws from.
            epoch: Its number.
            plan: What its order depends on besides.
            ids: Its ids in their order, as of `told_apart`, (N,) int64.
        """
        self._plan[:] = torch.tensor([plan.group if self.patients is not None else 0, plan.window])
        if not self._plan.any():
            return
        self._ids[:] = torch.from_numpy(ids)
        self._ends.fill_(len(ids))
        if plan.window:
            ends = order.windows(epoch, plan)[1]
            self._ends[: len(ends)] = torch.from_numpy(ends)

    def nearest(self, wanted: int) -> Iterator[Rows]:
        """Rows to draw from before all others do, the most suitable first; each may be empty.

        A function of the order and of the place of an image in it, so that it is the same in any worker and after a
        restart. Nothing where patients may share a batch and all shards are mixed.

        Args:
            wanted: Id of the unreadable image.
        """
        group, window = self._plan.tolist()
        if not group and not window:
            return
        places = np.flatnonzero(self._ids.numpy() == wanted)
        if not len(places):
            return
        place = int(places[0])
        around = self._around(place) if window else self.pool[:0]
        if group:
            # Two patients in a batch matter more than a shard that is fetched for it.
            yield self._apart(around, place, group)
            yield self._apart(self.pool, place, group)
        yield around

    def _around(self, place: int) -> Rows:
        """Rows of the same window, without the quarter of it on either side that may be in the same batch."""
        ends = self._ends.numpy()
        number = int(np.searchsorted(ends, place, side="right"))
        first, last = int(ends[number - 1]) if number else 0, int(ends[number])
        ids: Rows = self._ids.numpy()
        rows, close = ids[first:last] % REPEAT, (last - first) // 4
        return np.roll(rows, first - place)[close : last - first - close]

    def _apart(self, rows: Rows, place: int, group: int) -> Rows:
        """Those of some rows whose patient is not in the batch, and stands in at no other place of it."""
        assert self.patients is not None
        start, slot = place - place % group, place % group
        ids: Rows = self._ids.numpy()
        batch = ids[start : start + group] % REPEAT
        patients = self.patients[rows]
        # Each place of a batch has patients of its own, because nobody knows what stands in at the other ones.
        free: NDArray[np.bool_] = patients % group == slot
        free[free] = ~np.isin(patients[free], self.patients[batch])
        return rows[free]
