"""Assigns every image of a task to a split: official, from a list, or at random by patient."""

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxrbase.data.images import is_packed
from cxrbase.data.manifest import SPLITS, Manifest
from cxrbase.data.manifest_splits import fill_splits
from cxrbase.data.sources.tables import read_lines
from cxrbase.errors import ManifestError
from cxrbase.evaluation.task import Task

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
    splits = manifest.column("split").astype(object)
    splits = np.array([settings.rename.get(split, split) for split in splits], dtype=object)
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
