"""Assigns every image of a task to a split: official, from a list, or at random by patient."""

import hashlib
import logging
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxrbase.data.manifest import SPLITS, Manifest
from cxrbase.data.sources.tables import read_lines
from cxrbase.errors import ManifestError
from cxrbase.evaluation.task import Task, TaskSplits

logger = logging.getLogger(__name__)

Names = NDArray[Any]


def assign_splits(task: Task, manifest: Manifest) -> Manifest:
    """The manifest with train, val and test filled; images of no split keep a blank one.

    Where no image has a split, all patients are dealt. Where train is official, missing val and test are dealt from its
    patients by a hash of the patient and the seed, so that newcomers move nobody.

    Raises:
        ManifestError: A list is missing or names no image, or a patient would be in two splits.
    """
    settings = task.splits
    splits = manifest.column("split").astype(object)
    splits = np.array([settings.rename.get(split, split) for split in splits], dtype=object)
    for split, name in settings.lists.items():
        splits[_listed(manifest, manifest.root / name)] = split
    shares = {name: getattr(settings, name) for name in ("val", "test") if not (splits == name).any()}
    dealt = (splits == "") if (splits == "").all() else (splits == "train")
    shown = {name: share for name, share in shares.items() if share and dealt.any()}
    if shown:
        splits[dealt] = _deal(manifest.patients()[dealt], shown, settings)
        said = " and ".join(f"{share:.1%} as {name}" for name, share in shown.items())
        logger.info("%s: no official %s, so patients are dealt %s, seed %d", task.name, " and ".join(shown), said,
                    settings.seed)  # fmt: skip
    refuse_shared(manifest.patients(), splits)
    index = manifest.table.column_names.index("split")
    return Manifest(manifest.table.set_column(index, "split", pa.array(splits.tolist(), pa.string())), manifest.root)


def refuse_shared(patients: Names, splits: Names) -> None:
    """Raises a ManifestError where a patient has images in two splits."""
    home: dict[str, str] = {}
    for patient, split in zip(patients, splits, strict=True):
        if split and home.setdefault(patient, split) != split:
            raise ManifestError(
                f"patient {patient} is in split {home[patient]} and in split {split}: patients must not cross splits, "
                "so deal them anew or correct the lists"
            )


def _deal(patients: Names, shares: dict[str, float], settings: TaskSplits) -> Names:
    dealt = {}
    for patient in set(patients):
        place = int.from_bytes(hashlib.sha256(f"{settings.seed}:{patient}".encode()).digest()[:8]) / 2**64
        # Test first, so that a change of val moves nobody out of test.
        edge, found = 0.0, "train"
        for name in ("test", "val"):
            edge += shares.get(name, 0.0)
            if place < edge:
                found = name
                break
        dealt[patient] = found
    return np.array([dealt[patient] for patient in patients], dtype=object)


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
