"""The lateral images that a task leaves out, used to teach its model when to warn."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxrbase.data.centre import few_rows
from cxrbase.data.dataset import ImageStore
from cxrbase.data.manifest import Manifest
from cxrbase.data.manifest_columns import is_lateral
from cxrbase.evaluation.lateral_check import FEWEST, LateralCheck
from cxrbase.evaluation.task_data import TaskData
from cxrbase.evaluation.task_images import open_images

logger = logging.getLogger(__name__)

LIMIT = 2048  # images of a kind and split that are looked at

Rows = NDArray[np.int64]
Features = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Laterals:
    """Lateral images of the training and validation patients of a task.

    Args:
        store: The images; None where there is nothing to learn from.
        rows: Readable rows of the store by split, train and val.
        why: Why there is nothing to learn from, "" where there is.
    """

    store: ImageStore | None = None
    rows: dict[str, Rows] = field(default_factory=dict)
    why: str = ""

    def fit(
        self, features: Callable[[ImageStore, Rows], Features], train: Callable[[], Features], val: Features
    ) -> LateralCheck | None:
        """A check fitted on the features of a model, or None where there is nothing to learn from.

        Args:
            features: Gives the features, (M, D), of some rows of a store.
            train: Gives those of frontal training images, (N, D); called where they are needed only.
            val: Those of the frontal validation images, (V, D).
        """
        if self.store is None:
            return None
        lateral = {split: features(self.store, rows) for split, rows in self.rows.items()}
        return LateralCheck.of(train(), lateral["train"], val, lateral["val"])


def open_laterals(data: TaskData, **opening: Any) -> Laterals:
    """Opens them before anything is trained, as decoding may be what fails.

    Args:
        data: The task.
        opening: Size, reading, cache folder and limit, as `open_images` takes them.
    """
    if why := _why_none(data):
        return _none(data, why)
    assert data.laterals is not None
    splits = data.laterals.column("split")
    chosen = np.concatenate([few_rows(np.flatnonzero(splits == split), LIMIT) for split in ("train", "val")])
    manifest = Manifest(data.laterals.table.take(pa.array(chosen)), data.laterals.root)
    # A damaged one makes this check smaller, which is no reason to stop.
    store = open_images(data, manifest=manifest, max_bad=1.0, **opening)
    rows = {split: store.rows[manifest.column("split")[store.rows] == split] for split in ("train", "val")}
    if len(rows["train"]) < FEWEST:
        return _none(data, f"fewer than {FEWEST} lateral images of training patients can be read")
    return Laterals(store, rows)


def _why_none(data: TaskData) -> str:
    if not data.task.views:
        return "the task keeps all views"
    if any(is_lateral(view) for view in data.task.views):
        return "the task learns from lateral images"
    count = 0 if data.laterals is None else int((data.laterals.column("split") == "train").sum())
    return "" if count >= FEWEST else f"there are {count} lateral images of its training patients, {FEWEST} are needed"


def _none(data: TaskData, why: str) -> Laterals:
    logger.info("%s: views are not checked: %s", data.task.name, why)
    return Laterals(why=why)
