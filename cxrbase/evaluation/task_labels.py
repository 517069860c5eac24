"""Turns a manifest's columns into labels for training and labels for scoring."""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.manifest import LABEL_PREFIX, Manifest
from cxrbase.data.sources.labels import CODE_PREFIX
from cxrbase.errors import ConfigError
from cxrbase.evaluation.task import Task

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TaskLabels:
    """Labels of N images for K findings.

    Args:
        classes: Names of the findings.
        truth: (N, K), 1 present, 0 absent, NaN unknown or uncertain: what scores are compared to.
        targets: (N, K), the same with uncertain ones as the task has it, in [0, 1]: what is learnt.
        counts: For each finding how many images are `positive`, `negative`, `uncertain` and `blank` in the manifest.
    """

    classes: tuple[str, ...]
    truth: Floats
    targets: Floats
    counts: dict[str, dict[str, int]]


def task_labels(task: Task, manifest: Manifest) -> TaskLabels:
    """Labels of every image of a manifest under the policies of a task; the counts are logged.

    Raises:
        ConfigError: The task asks for a finding that the manifest lacks, or the manifest has none.
    """
    classes = tuple(task.findings) or manifest.labels
    _check(task, manifest, classes)
    columns = [_column(task, manifest, name) for name in classes]
    truth = np.stack([column[0] for column in columns], axis=1)
    targets = np.stack([column[1] for column in columns], axis=1)
    counts = {name: column[2] for name, column in zip(classes, columns, strict=True)}
    for name, count in counts.items():
        said = ", ".join(f"{number:,} {what}" for what, number in count.items())
        logger.info("%s: %s (uncertain: %s, blank: %s)", name, said, task.uncertain_of(name), task.blank_of(name))
    if task.kind == "multiclass":
        one = (truth == 1).sum(1) == 1
        truth = targets = np.where(one[:, None], (truth == 1).astype(np.float32), np.float32(np.nan))
        if len(truth) > one.sum():
            logger.info("%d images do not have exactly one of %s", len(truth) - one.sum(), ", ".join(classes))
    return TaskLabels(classes, truth, targets, counts)


def _check(task: Task, manifest: Manifest, classes: tuple[str, ...]) -> None:
    found = ", ".join(manifest.labels) or "no label"
    if not classes:
        raise ConfigError(
            f"task {task.name} has no finding to ask for: the manifest has no column {LABEL_PREFIX}<finding>, so name "
            "columns in task.targets"
        )
    if missing := [name for name in classes if name not in manifest.labels]:
        raise ConfigError(f"task {task.name} asks for {', '.join(missing)}, the manifest has {found}")


def _column(task: Task, manifest: Manifest, name: str) -> tuple[Floats, Floats, dict[str, int]]:
    values = manifest.column(LABEL_PREFIX + name).astype(np.float32)
    has_codes = CODE_PREFIX + name in manifest.table.column_names
    code = manifest.column(CODE_PREFIX + name) if has_codes else np.full(len(values), "")
    unsure = np.isnan(values) & (code == "-1")
    blank = np.isnan(values) & ~unsure
    counts = {
        "positive": int((values == 1).sum()),
        "negative": int((values == 0).sum()),
        "uncertain": int(unsure.sum()),
        "blank": int(blank.sum()),
    }
    truth = np.where(blank & (task.blank_of(name) == "negative"), np.float32(0), values)
    meant = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0, "soft": task.soft_value}[task.uncertain_of(name)]
    return truth, np.where(unsure, np.float32(meant), truth), counts
