"""The images that a run was begun with, which it keeps to when it goes on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.canvas import CanvasStore
from cxrbase.data.dataset import ImageStore
from cxrbase.data.quarantine import Quarantine


class BegunWith:
    """Training images that could be read when a run was begun.

    Which files of a folder can be read is found when they are opened, so it may be others when a run goes on. Packed
    images are all drawn.

    Args:
        store: The images as they were opened.
        wanted: Whether a row of the manifest is of the splits to train on, (N,) bool.
    """

    def __init__(self, store: ImageStore, *, wanted: NDArray[np.bool_]) -> None:
        self.store, self._wanted = store, wanted
        self._unread = np.setdiff1d(np.arange(len(store)), store.rows)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows to draw from, sorted."""
        return np.setdiff1d(np.flatnonzero(self._wanted), self._unread)

    def state(self) -> dict[str, list[int]]:
        """For a checkpoint."""
        return {"unread": self._unread.tolist()}

    def take_up(self, state: Mapping[str, Any], quarantine: Quarantine) -> bool:
        """Keeps to the images of another run.

        Args:
            state: Of the checkpoint.
            quarantine: Takes the images that cannot be read any more, so that others stand in for them. Those that can
                be read again stay left out.

        Returns:
            Whether the rows changed.
        """
        unread = state.get("unread", self._unread.tolist())  # earlier versions do not tell
        if unread == self._unread.tolist():
            return False
        self._unread = np.array(unread, np.int64)
        lost = np.setdiff1d(self.rows, self.store.rows)
        damaged = self.store.damaged if isinstance(self.store, CanvasStore) else lost[:0]
        quarantine.add(np.intersect1d(lost, damaged), "damaged")
        quarantine.add(np.setdiff1d(lost, damaged), "missing")
        return True
