"""Assigns every image of a task to a split: official, from a list, or at random by patient."""

import logging
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxrbase.data.images import is_packed
from cxrbase.data.manifest import LABEL_PREFIX, SPLITS, Manifest
from cxrbase.data.manifest_splits import fill_splits
from cxrbase.data.sources.tables import read_lines
from cxrbase.errors import ManifestError
from cxrbase.evaluation.task import Task

logger = logging.getLogger(__name__)

Names = NDArray[Any]


def assign_splits(task: Task, manifest: Manifest, *, kept: NDArray[np.bool_] | None = None) -> Manifest:
    """The manifest with train, val and test filled; images of no split keep a blank one.

    What is missing is dealt by patient with the shares and seed of the task, as pretraining does; see `fill_splits`.

    Args:
        task: Says what is official, and how the rest is dealt.
        manifest: All images, because what its data set has is known by all of them.
        kept: (N,), which of them the task is about; None takes all.

    Raises:
        ManifestError: A list is missing or names no image, or a patient would be in two splits.
    """
    settings = task.splits
    splits = _renamed(task, manifest)
    for split, name in settings.lists.items():
        splits[_listed(manifest, manifest.root / name)] = split
    splits = fill_splits(
        manifest, splits, packed=is_packed(task.data.root), val=settings.val, test=settings.test, seed=settings.seed,
        name=task.name,
    )  # fmt: skip
    if kept is not None:
        manifest, splits = Manifest(manifest.table.filter(pa.array(kept)), manifest.root), splits[kept]
    refuse_shared(manifest.patients(), splits)
    return manifest.divided(splits)


def _renamed(task: Task, manifest: Manifest) -> Names:
    """Official splits under the names the task has for them; none stands in for a test split that can be scored."""
    splits = manifest.column("split").astype(object)
    names = dict(task.splits.rename)
    if names.get("test", "test") == "test" and _any_label(task, manifest, splits == "test"):
        for split in [split for split, name in names.items() if name == "test" and split != "test"]:
            logger.info("%s: there are labelled test images, so %s is not renamed to test", task.name, split)
            del names[split]
    return np.array([names.get(split, split) for split in splits], dtype=object)


def _any_label(task: Task, manifest: Manifest, rows: NDArray[np.bool_]) -> bool:
    findings = [name for name in task.findings or manifest.labels if name in manifest.labels]
    columns = (manifest.column(LABEL_PREFIX + name)[rows].astype(np.float32) for name in findings)
    return any(bool((~np.isnan(column)).any()) for column in columns)


def refuse_shared(patients: Names, splits: Names) -> None:
    """Raises a ManifestError where a patient has images in two splits."""
    home: dict[str, str] = {}
    for patient, split in zip(patients, splits, strict=True):
        if split and home.setdefault(patient, split) != split:
            raise ManifestError(
                f"patient {patient} is in split {home[patient]} and in split {split}: patients must not cross splits, "
                "so deal them anew or correct the lists"
            )


def _listed(manifest: Manifest, path: Path) -> NDArray[np.bool_]:
    names = {str(PurePosixPath(line)) for line in read_lines(path)}
    paths = manifest.column("path")
    found = np.array([name in names or PurePosixPath(name).name in names for name in paths], dtype=bool)
    if not found.any():
        raise ManifestError(f"{path} names no image of {manifest.root}: list paths or file names, one per line")
    return found


def split_sizes(splits: Names, patients: Names) -> dict[str, dict[str, int]]:
    """Images and patients of each split."""
    return {
        name: {"images": int((splits == name).sum()), "patients": len(set(patients[splits == name]))} for name in SPLITS
    }
