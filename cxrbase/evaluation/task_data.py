"""Reads and checks the images, labels and splits of a task."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cxrbase.data.images import default_cache, fetch_index, index_path, is_packed, is_url, refuse_unfinished
from cxrbase.data.manifest import SPLITS, Manifest
from cxrbase.data.manifest_columns import is_lateral, read_table
from cxrbase.data.shard_index import ShardIndex
from cxrbase.data.sources.catalogue import find
from cxrbase.data.sources.tables import read_lines
from cxrbase.errors import ConfigError, ManifestError
from cxrbase.evaluation.task import Task
from cxrbase.evaluation.task_labels import Floats, task_labels
from cxrbase.evaluation.task_splits import assign_splits, refuse_shared, split_sizes

logger = logging.getLogger(__name__)

Rows = NDArray[np.int64]

# Fewer do not tell apart what is chosen by them, and their interval by resampling is known to be too narrow.
_FEW_PATIENTS = 20
_IS_FEW = {
    "val": "epoch, threshold and temperature are chosen on only",
    "test": "scores and intervals are of only",
}


@dataclass(frozen=True, eq=False)
class TaskData:
    """What a task is asked about: one row per image that has a split and at least one label.

    Args:
        task: The task.
        manifest: The N images, their splits filled.
        classes: Names of the K findings.
        truth: (N, K), 1 present, 0 absent, NaN unknown or uncertain: what scores are compared to.
        targets: (N, K) in [0, 1] or NaN: what is learnt; differs from `truth` for uncertain labels only.
        label_counts: For each finding what the manifest says, before anything was left out.
        laterals: Lateral images that `task.views` leaves out, of patients of the task and in their split; None where
            there are none.
    """

    task: Task
    manifest: Manifest
    classes: tuple[str, ...]
    truth: Floats
    targets: Floats
    label_counts: dict[str, dict[str, int]]
    laterals: Manifest | None = None

    def rows(self, split: str) -> Rows:
        """Rows of one split, sorted, (M,)."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        return np.flatnonzero(self.manifest.column("split") == split)

    @property
    def patients(self) -> NDArray[Any]:
        """Patient of each image, (N,) of str."""
        return self.manifest.patients()

    def column(self, name: str) -> NDArray[Any]:
        """A column of the manifest, (N,), such as sex, age, view_position, site or source."""
        return self.manifest.column(name)

    @property
    def split_checksum(self) -> str:
        """SHA-256 of which image is in which split, as hex; the order of the rows does not matter."""
        pairs = zip(self.column("path"), self.column("split"), strict=True)
        return hashlib.sha256("\n".join(sorted(f"{split}\t{path}" for path, split in pairs)).encode()).hexdigest()

    @property
    def label_checksum(self) -> str:
        """SHA-256 of the classes and of what is known of each image, as hex."""
        order = np.argsort(self.column("path"))
        known = np.nan_to_num(np.stack([self.truth[order], self.targets[order]]), nan=-1).astype("<f4")
        return hashlib.sha256("\t".join(self.classes).encode() + known.tobytes()).hexdigest()

    @property
    def warnings(self) -> list[str]:
        """What a reader of a score on these images must know; it stands in every result."""
        parts = split_sizes(self.column("split"), self.patients)
        few = [f"{_IS_FEW[name]} {parts[name]['patients']} patients" for name in _IS_FEW
               if parts[name]["patients"] < _FEW_PATIENTS]  # fmt: skip
        return [*self.task.warnings, *few]

    def sizes(self) -> dict[str, dict[str, Any]]:
        """Images, patients and positives per finding of each split."""
        found: dict[str, dict[str, Any]] = dict(split_sizes(self.column("split"), self.patients))
        for split, size in found.items():
            positive = (self.truth[self.rows(split)] == 1).sum(0)
            size["positives"] = {name: int(count) for name, count in zip(self.classes, positive, strict=True)}
        return found

    def check(self) -> None:
        """Refuses a task that cannot be learnt or judged: a split is missing, or no finding can be learnt.

        Raises:
            ManifestError: In one sentence what is missing and what to do.
        """
        for split in SPLITS:
            if not len(self.rows(split)):
                raise ManifestError(
                    f"task {self.task.name} has no labelled image in split {split}: fill the column split, or set "
                    "task.splits (shares of patients, rename, lists)"
                )
        train = self.targets[self.rows("train")]
        lacking = [
            f"no {what} of {name}"
            for name, column in zip(self.classes, train.T, strict=True)
            for what, there in (("positive", (column > 0.5).any()), ("negative", (column < 0.5).any()))
            if not there
        ]
        if len(lacking) >= len(self.classes) and not self._any_learnable(train):
            raise ManifestError(
                f"task {self.task.name} has {lacking[0]} in train: label more images, deal other splits, or ask for "
                "another finding"
            )
        for what in lacking:
            logger.warning("%s: there is %s in train, so it is not learnt", self.task.name, what)

    @staticmethod
    def _any_learnable(targets: Floats) -> bool:
        return bool(((targets > 0.5).any(0) & (targets < 0.5).any(0)).any())


def load_task_data(task: Task) -> TaskData:
    """Reads the manifest of a task, deals its splits and resolves its labels; no image is opened.

    Everything that is left out is counted in the log, and so are the images and patients of each split.

    Raises:
        ManifestError: The data are not there, in one sentence with what to get and how to lay it out, or are malformed,
            or a patient is in two splits.
        ShardError: They are packed, and the packing did not finish or its index is damaged.
        ConfigError: The task asks for what the manifest lacks.
    """
    whole = _excluded(task, task_manifest(task))
    manifest = assign_splits(task, whole, kept=_viewed(task, whole))
    labels = task_labels(task, manifest)
    known = ~np.isnan(labels.targets).all(1)
    # An uncertain label is for training alone: elsewhere an image must have one that can be judged.
    known &= (manifest.column("split") == "train") | ~np.isnan(labels.truth).all(1)
    kept = known & (manifest.column("split") != "")
    _say(task, "have no split", int((manifest.column("split") == "").sum()))
    _say(task, "have no label", int((~known).sum()))
    if not kept.any():
        raise ManifestError(f"task {task.name} has no labelled image in {manifest.root}: see its findings and splits")
    chosen = Manifest(manifest.table.filter(pa.array(kept)), manifest.root)
    refuse_shared(chosen.patients(), chosen.column("split"))
    data = TaskData(task, chosen, labels.classes, labels.truth[kept], labels.targets[kept], labels.counts,
                    _laterals(task, whole, manifest))  # fmt: skip
    said = ", ".join(f"{name} {size['images']:,} images of {size['patients']:,} patients"
                     for name, size in split_sizes(chosen.column("split"), chosen.patients()).items())  # fmt: skip
    logger.info("%s: %s; no patient is in two splits", task.name, said)
    for warning in data.warnings:
        logger.warning("%s: %s", task.name, warning)
    return data


def task_manifest(task: Task) -> Manifest:
    """The manifest of all images of a task, with its targets; the phantom is made where it is missing."""
    if is_packed(task.data.root):
        return _packed_manifest(task)
    where, root = task.data, Path(task.data.root)
    if where.phantom is not None:
        where.phantom.make(root)
        return Manifest.read(root / "manifest.parquet", targets=task.targets)
    if where.source:
        source = find(where.source)
        if not root.is_dir():
            raise ManifestError(
                f"task {task.name} needs {source.title}, and there is no folder {root}: get it ({source.access}) and "
                f"lay it out as {'; '.join(source.layout)}, or say where it is with --task.data.root"
            )
        return source.read(root, partial=where.partial).with_targets(task.targets)
    names = [where.manifest] if where.manifest else ["manifest.parquet", "manifest.csv"]
    found = next((root / name for name in names if (root / name).is_file()), None)
    if found is None:
        refuse_unfinished(root)
        raise ManifestError(
            f"task {task.name} needs {root} with {' or '.join(names)}, one row per image: path, patient_id, split and "
            "label_<finding> or the columns of task.targets; say where it is with --task.data.root"
        )
    manifest = Manifest.read(found, root=root, targets=task.targets)
    manifest.check_files()
    return manifest


def why_absent(task: Task) -> str | None:
    """Half a sentence on the images of a task that are not there; None where they are, or can be made."""
    where = task.data
    if where.phantom is not None or is_url(where.root) or Path(where.root).exists():
        return None
    wanted = f" of {find(where.source).title}" if where.source else ""
    return f"no folder {where.root}{wanted}"


def without_images(tasks: Mapping[str, Task]) -> dict[str, str]:
    """Why the images of a task are not there, by its file; tasks whose images are there are left out."""
    return {path: reason for path, task in tasks.items() if (reason := why_absent(task))}


def some_without_images(tasks: Mapping[str, Task]) -> dict[str, str]:
    """The same where some images must be there.

    Raises:
        ConfigError: There are tasks, and no images of any.
    """
    absent = without_images(tasks)
    if absent and len(absent) == len(tasks):
        listed = "; ".join(f"{path} has {reason}" for path, reason in absent.items())
        raise ConfigError(f"no task has images to score on: {listed}; set task.data.root in one of the files")
    return absent


def _packed_manifest(task: Task) -> Manifest:
    """The rows of an index, of the task's source where it names one; no file is at their paths."""
    root, source = task.data.root, task.data.source
    if task.data.manifest:
        raise ConfigError(f"task.data.manifest={task.data.manifest} is for folders: leave it out for packed images")
    cache = default_cache(root)
    fetch_index(root, cache)
    path = index_path(root, cache)
    ShardIndex(path)  # says in one sentence what is wrong with a damaged one
    table = read_table(path)
    if source:
        # Before it is a manifest, as numbers of patients of other sources may be the same.
        table = table.filter(pc.equal(table["source"], source))
        if not len(table):
            raise ManifestError(f"task {task.name} needs the source {source}, and {path} has no image of it")
    return Manifest(table, path.parent).with_targets(task.targets)


def _viewed(task: Task, manifest: Manifest) -> NDArray[np.bool_] | None:
    """Which images have a view that the task keeps, (N,); None where it keeps all."""
    if not task.views:
        return None
    views, wanted = manifest.column("view_position"), " or ".join(task.views)
    kept = np.isin(views, task.views)
    if not (views != "").any():
        raise ManifestError(
            f"task {task.name} keeps the views {wanted}, and no image says its view: fill the column view_position of "
            "the manifest, or leave `views` out of the task"
        )
    _say(task, f"are of another view than {wanted}", int((~kept & (views != "")).sum()))
    _say(task, f"do not say whether they are {wanted}", int((views == "").sum()))
    if not kept.any():
        raise ManifestError(f"task {task.name} has no image with view_position {wanted}")
    return kept


def _laterals(task: Task, whole: Manifest, kept: Manifest) -> Manifest | None:
    """Lateral images of patients whose other images are kept: only of these it is known which split they must be in."""
    if not task.views:
        return None
    home = dict(zip(kept.patients(), kept.column("split"), strict=True))
    views, patients = whole.column("view_position"), whole.patients()
    rows = [row for row, view in enumerate(views)
            if is_lateral(view) and view not in task.views and home.get(patients[row])]  # fmt: skip
    if not rows:
        return None
    return Manifest(whole.table.take(pa.array(rows)), whole.root).divided([home[patients[row]] for row in rows])


def _excluded(task: Task, manifest: Manifest) -> Manifest:
    if task.exclude is None:
        return manifest
    names = set(read_lines(manifest.root / task.exclude))
    out = np.isin(manifest.column("path"), list(names)) | np.isin(manifest.column("patient_id"), list(names))
    _say(task, f"are listed in {task.exclude}", int(out.sum()))
    if unknown := names - set(manifest.column("path")) - set(manifest.column("patient_id")):
        logger.warning("%d lines of %s name no image and no patient", len(unknown), task.exclude)
    return Manifest(manifest.table.filter(pa.array(~out)), manifest.root)


def _say(task: Task, what: str, count: int) -> None:
    if count:
        logger.info("%s: %d images %s and are left out", task.name, count, what)
