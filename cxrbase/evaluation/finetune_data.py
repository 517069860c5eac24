"""What a fine-tuning run learns from: the images of a task that can be read, their splits, and the drawn labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.dataset import ImageStore
from cxrbase.data.labelled import LabelledImages
from cxrbase.data.manifest import Manifest
from cxrbase.data.reading import Reading
from cxrbase.errors import ConfigError
from cxrbase.evaluation.cohort import Cohort, Splits
from cxrbase.evaluation.finetune_settings import FineTune
from cxrbase.evaluation.image_groups import count_images
from cxrbase.evaluation.laterals import Laterals, open_laterals
from cxrbase.evaluation.shots import fraction, k_shot, most_shots
from cxrbase.evaluation.suite.score_task import splits_of
from cxrbase.evaluation.task_data import TaskData
from cxrbase.evaluation.task_images import open_images
from cxrbase.sizes import longest

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Material:
    """Images and labels of one run.

    Args:
        store: The images of the task that can be read.
        laterals: Lateral images of the same patients, to know them by.
        canvas: Longest side that is kept of an image, in pixels.
        splits: Cohorts of train, val and test.
        rows: Their rows in the task's manifest.
        targets: What is learnt, (N, K) for all rows, NaN where nothing is.
    """

    store: ImageStore
    laterals: Laterals
    canvas: int
    splits: Splits
    rows: dict[str, Rows]
    targets: NDArray[np.float32]

    @classmethod
    def of(cls, data: TaskData, settings: FineTune, image_size: tuple[int, int], read: Reading) -> Material:
        """Opens the images, and draws what is learnt from.

        Raises:
            ConfigError: There is too little to learn from.
        """
        canvas = settings.canvas_size or 2 * longest(image_size)
        opening: dict[str, Any] = {
            "size": canvas,
            "read": read,
            "cache_dir": settings.cache_dir,
            "option": "--finetune.cache_dir",
            "limit_gb": settings.cache_gb,
        }
        store = open_images(data, max_bad=settings.max_bad, bad_option="--finetune.max_bad", **opening)
        laterals = open_laterals(data, **opening)
        splits, rows = splits_of(data, store.rows)
        made = cls(store, laterals, canvas, splits, rows, _few(settings, splits.train, rows["train"], data))
        if settings.mode == "probe" and min(settings.batch_size, len(made.train) // settings.devices) < 2:
            raise ConfigError(
                "a linear probe needs at least 2 images per step: raise finetune.batch_size or finetune.shots"
            )
        return made

    @property
    def train(self) -> Rows:
        """Rows that are learnt from."""
        return np.flatnonzero(~np.isnan(self.targets).all(1))

    def counted(self, manifest: Manifest) -> dict[str, Any]:
        """How many images and patients are used and learnt from, by source and group, as of `count_images`."""
        splits = np.full(len(manifest), "", object)
        for name, rows in self.rows.items():
            splits[rows] = name
        return count_images(manifest, self.train, splits=splits)

    @property
    def learnt(self) -> NDArray[np.bool_]:
        """Classes with something to tell apart in training, (K,)."""
        return _told_apart(self.targets[self.train])

    def module(self, settings: FineTune, card: dict[str, Any], image_size: tuple[int, int]) -> LabelledImages:
        """The images as batches."""
        return LabelledImages(
            self.store, self.targets, train=self.train, val=self.rows["val"], image_size=image_size, mean=card["mean"],
            std=card["std"], batch_size=settings.batch_size, num_workers=settings.num_workers,
            augment=settings.augment, seed=settings.seed,
        )  # fmt: skip


def _told_apart(targets: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Classes with both labels, (K,)."""
    return np.asarray((targets > 0.5).any(0) & (targets < 0.5).any(0))


def _few(settings: FineTune, train: Cohort, rows: NDArray[np.int64], data: TaskData) -> NDArray[np.float32]:
    """Targets (N, K) of all images of the task, NaN for those that are not learnt from."""
    targets = np.full(data.targets.shape, np.nan, np.float32)
    if settings.shots is None:
        drawn = fraction(train, settings.fraction, seed=settings.seed)
        targets[rows[drawn]] = data.targets[rows[drawn]]
        if not _told_apart(targets[rows[drawn]]).any():
            few, whole = (len(np.unique(patients.astype(str))) for patients in (train.patients[drawn], train.patients))
            raise ConfigError(
                f"finetune.fraction={settings.fraction:g} draws {few} of {whole} training patients, and none of "
                f"{', '.join(data.classes)} has images with and without it among them: raise finetune.fraction, or "
                "draw others by finetune.seed"
            )
        return targets
    place, labels = k_shot(train, settings.shots, seed=settings.seed)
    exclusive = data.task.kind == "multiclass"
    if exclusive:
        # A softmax needs the whole answer. That of an image drawn as one without a class would be a label more of
        # another class, so each class has its own k alone, and the others' are those without it.
        place = place[(labels == 1).any(1)]
        labels = data.targets[rows[place]]
    targets[rows[place]] = labels
    if not _told_apart(targets[rows]).any():
        raise ConfigError(
            f"no class has {settings.shots} patients with and without it in train: set finetune.shots to at most "
            f"{most_shots(train, exclusive=exclusive)}"
        )
    return targets
