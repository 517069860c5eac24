"""The manifest: one row per image, with who it is of, which split it is in and what is known about it."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cxrbase.data.decode import IMAGE_NAMES, is_image
from cxrbase.data.manifest_columns import (
    LABEL_PREFIX,
    SPLITS,
    complete,
    distinct_names,
    pick,
    read_table,
    text_of,
    with_view_position,
)
from cxrbase.data.manifest_splits import deal_splits, fill_splits
from cxrbase.errors import ManifestError
from cxrbase.whole_files import written_whole

__all__ = ["LABEL_PREFIX", "SPLITS", "Manifest", "Target"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """How a binary task is read off a column of a manifest.

    Args:
        column: Column to read.
        positive: Values that mean present.
        negative: Values that mean absent; empty takes every other value that is not blank.
        where: Values that other columns must have; rows that differ are unknown. None takes all rows.
    """

    column: str
    positive: list[str]
    negative: list[str]
    where: dict[str, str] | None = None


@dataclass(frozen=True)
class Manifest:
    """Images and what is known about them; checked and completed when it is made.

    Args:
        table: One row per image. Needs `path`; the other string columns are filled with "", `age` with NaN.
        root: Folder that `path` is relative to.

    Raises:
        ManifestError: A path is blank, repeated or outside `root`, a split is unknown, a patient is in two splits, or a
            label is not 1, 0 or NaN.
    """

    table: pa.Table
    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", complete(self.table))
        object.__setattr__(self, "root", Path(self.root))

    @classmethod
    def from_columns(cls, columns: Mapping[str, Sequence[Any] | NDArray[Any]], *, root: str | Path) -> "Manifest":
        """Makes a manifest of columns of equal length, missing ones excepted; see the class for what is checked."""
        try:
            table = pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})
        except (pa.ArrowException, UnicodeError, OverflowError) as error:
            raise ManifestError(f"the columns do not make a table: {error}") from error
        return cls(table, Path(root))

    @classmethod
    def read(
        cls, path: str | Path, *, root: str | Path | None = None, targets: Mapping[str, Target] | None = None
    ) -> "Manifest":
        """Reads a manifest.

        Args:
            path: A .parquet or .csv file. Columns beyond the known ones are kept as text; `view` is accepted for
                `view_position`.
            root: Folder of the images; None takes the folder of the file.
            targets: Labels to derive, by name.

        Raises:
            ManifestError: The file is missing, damaged or malformed.
        """
        path = Path(path)
        if path.suffix.lower() not in (".parquet", ".csv"):
            raise ManifestError(f"cannot read the manifest {path}: its name must end in .parquet or .csv")
        if not path.is_file():
            raise ManifestError(f"no manifest {path}: give the path of an existing .parquet or .csv file")
        try:
            table = read_table(path)
            table = _add_targets(with_view_position(table), targets or {})
            manifest = cls(table, path.parent if root is None else Path(root))
        except ManifestError as error:
            raise ManifestError(f"{path}: {error}") from error
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise ManifestError(f"cannot read {path}, write it again: {' '.join(str(error).split())}") from error
        for name in manifest.table.column_names:
            if name.startswith(LABEL_PREFIX) and name.removeprefix(LABEL_PREFIX) not in manifest.labels:
                logger.warning("%s: column %s holds no 0 or 1, so it is text and not a label", path, name)
        return manifest

    @classmethod
    def from_folder(cls, root: str | Path) -> "Manifest":
        """Lists the images below a folder, see `is_image`, sorted; hidden files are left out."""
        root = Path(root)
        if not root.is_dir():
            raise ManifestError(f"no folder {root}: give an existing folder of images")
        paths: list[str] = []
        seen: set[str] = set()
        for folder, folders, files in os.walk(root, followlinks=True):
            # Data sets are often linked together, so links are followed, but each folder only once.
            fresh = os.path.realpath(folder) not in seen
            seen.add(os.path.realpath(folder))
            folders[:] = [name for name in folders if fresh and not name.startswith(".")]
            found = [Path(folder, name) for name in files if fresh and not name.startswith(".")]
            paths += [p.relative_to(root).as_posix() for p in found if is_image(p)]
        if not paths:
            raise ManifestError(f"no images below {root}: looked for {IMAGE_NAMES}")
        return cls.from_columns({"path": sorted(paths)}, root=root)

    def write(self, path: str | Path) -> None:
        """Writes typed Parquet; the file appears complete or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            pq.write_table(self.table, part)

    def with_splits(self, *, val: float = 0.15, test: float = 0.15, seed: int = 0) -> "Manifest":
        """Deals shares `val` and `test` of the patients, in [0, 1), by a hash, so that newcomers move nobody."""
        if min(val, test) < 0 or val + test >= 1:
            raise ValueError(f"val and test must be at least 0 and together below 1, got {val} and {test}")
        if (self.column("split") != "").any():
            raise ManifestError("the manifest has splits already: empty its column split to deal new ones")
        return self.divided(deal_splits(self.patients().tolist(), val=val, test=test, seed=seed))

    def with_missing_splits(self) -> "Manifest":
        """The manifest with the splits that it lacks dealt by patient, see `fill_splits`."""
        return self.divided(fill_splits(self, self.splits(), packed=False))

    def divided(self, splits: Sequence[str] | NDArray[Any]) -> "Manifest":
        """The manifest with these splits, (N,) of str; ManifestError where a patient would be in two."""
        place = self.table.column_names.index("split")
        return Manifest(self.table.set_column(place, "split", pa.array(splits, pa.string())), self.root)

    def with_targets(self, targets: Mapping[str, Target]) -> "Manifest":
        """The manifest with labels that are read off its columns, by name; ManifestError where a column is absent."""
        return Manifest(_add_targets(self.table, targets), self.root) if targets else self

    def select(self, split: str) -> "Manifest":
        """Rows of one split; ManifestError where it has none."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        chosen = self.table.filter(pc.equal(self.table["split"], split))
        if not len(chosen):
            raise ManifestError(f"the manifest has no image in split {split}: fill its column split")
        return Manifest(chosen, self.root)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, without their prefix."""
        labels = [f.name for f in self.table.schema if f.name.startswith(LABEL_PREFIX) and f.type == pa.float32()]
        return tuple(name.removeprefix(LABEL_PREFIX) for name in labels)

    @property
    def paths(self) -> list[Path]:
        """Path of each image, `root` included."""
        return [self.root / path for path in self.table["path"].to_pylist()]

    def label_matrix(self) -> NDArray[np.float32]:
        """Labels, (N, number of labels): 1 present, 0 absent, NaN unknown."""
        columns = [self.column(LABEL_PREFIX + name) for name in self.labels]
        return np.stack(columns, axis=1) if columns else np.zeros((len(self), 0), np.float32)

    def column(self, name: str) -> NDArray[Any]:
        """One column, (N,): float32 for age and labels, otherwise objects of type str."""
        return np.asarray(pick(self.table, name))

    def patients(self) -> NDArray[Any]:
        """Patient of each image, (N,) of str; the path stands in for a blank patient_id."""
        patients = self.column("patient_id")
        return np.where(patients == "", self.column("path"), patients)

    def patient_codes(self) -> NDArray[np.int32]:
        """Patient of each image as a number, (N,)."""
        return np.unique(self.patients().astype(str), return_inverse=True)[1].astype(np.int32)

    def splits(self) -> NDArray[Any]:
        """Split of each image, (N,) of str."""
        return self.column("split")

    def coded(self, name: str) -> tuple[NDArray[np.int32], list[str]]:
        """One text column as numbers, (N,), and what they stand for; "" throughout where the manifest lacks it."""
        if name not in self.table.column_names:
            return np.zeros(len(self), np.int32), [""]
        values, codes = np.unique(self.column(name).astype(str), return_inverse=True)
        return codes.astype(np.int32), values.tolist()

    def images_hash(self, rows: NDArray[np.int64]) -> str:
        """SHA-256 of the paths of some rows, as hex."""
        return hashlib.sha256("\n".join(self.column("path")[rows]).encode()).hexdigest()

    def check_files(self) -> None:
        """Raises a ManifestError that names the first missing files, if there are any."""
        if missing := [str(path) for path in self.paths if not os.path.isfile(path)]:
            first = ", ".join(missing[:3])
            raise ManifestError(
                f"{len(missing)} of {len(self)} images are not in {self.root}, first {first}: see `root`"
            )

    def fingerprint(self) -> str:
        """SHA-256 of the content, as hex; the same for the same rows however they are stored."""
        digest = hashlib.sha256()
        for name in self.table.column_names:
            values = self.column(name)
            numeric = values.dtype == np.float32
            digest.update(json.dumps([name, len(values), numeric]).encode())
            # A NaN has many bit patterns; nan_to_num(nan=-1) gives it one that neither an age nor a label can have.
            digest.update(np.nan_to_num(values, nan=-1).tobytes() if numeric else json.dumps(values.tolist()).encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        """Number of images."""
        return int(self.table.num_rows)


def _add_targets(table: pa.Table, targets: Mapping[str, Target]) -> pa.Table:
    for name, target in targets.items():
        table = _add_target(table, name, target)
    return table


def _add_target(table: pa.Table, name: str, target: Target) -> pa.Table:
    label, where = LABEL_PREFIX + name, target.where or {}
    if label in distinct_names(table):
        raise ManifestError(f"target {name} would replace the column {label}: give it another name")
    named = {column: "view_position" if column == "view" else column for column in (target.column, *where)}
    found = {column: column if column in table.column_names else other for column, other in named.items()}
    text = {column: text_of(table, name).to_numpy(zero_copy_only=False) for column, name in found.items()}
    inside = np.logical_and.reduce([text[column] == value for column, value in where.items()], axis=0)
    positive = inside & np.isin(text[target.column], target.positive)
    negative = np.isin(text[target.column], target.negative) if target.negative else text[target.column] != ""
    if not positive.any():
        logger.warning("target %s: no image has %s in column %s", name, " or ".join(target.positive), target.column)
    values = np.where(positive, 1, np.where(inside & negative, 0, np.nan))
    return table.append_column(label, pa.array(values, pa.float32(), from_pandas=True))
