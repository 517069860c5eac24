"""Images of a task without their features: labels, patients and groups, by split."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from cxrbase.data.manifest_columns import MOST_ORIGINS
from cxrbase.errors import ManifestError

Floats = npt.NDArray[np.floating[Any]]

FEWEST_PATIENTS = 5  # with a finding, or without: of fewer, many resamples hold none, and an interval says little
AGE_BANDS = (20.0, 40.0, 60.0, 80.0)

# Columns that subgroups are told by, beside age. `origin` is where a set that was put together has an image from.
TEXT_GROUPS = ("sex", "view_position", "site", "source", "origin")


def text_group(name: str, codes: npt.NDArray[np.int32], names: list[str]) -> npt.NDArray[Any]:
    """Group of each image by one of `TEXT_GROUPS`, (N,) strings, "" unknown, as an origin of too many values is.

    Args:
        name: Of the column.
        codes: (N,), as `Manifest.coded` gives them.
        names: What they stand for.
    """
    if name == "origin" and len(names) > MOST_ORIGINS:
        return np.full(len(codes), "", object)
    return np.array(names, object)[codes]


@dataclass(frozen=True, eq=False)
class Cohort:
    """Images of one split.

    Args:
        labels: (N, K), 1 present, 0 absent, NaN unknown; targets to learn from may lie between.
        patients: (N,) strings.
        groups: By name, such as sex or site, the group of each image, (N,) strings, "" unknown.
    """

    labels: Floats
    patients: npt.NDArray[Any]
    groups: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks that the parts belong together."""
        lengths = {len(self.labels), len(self.patients), *(len(group) for group in self.groups.values())}
        if self.labels.ndim != 2 or len(lengths) > 1:
            raise ValueError(f"labels must be (N, K) and patients and groups (N,), got lengths {sorted(lengths)}")

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def take(self, rows: npt.NDArray[Any]) -> "Cohort":
        """Some of the images, by index (M,) or mask (N,)."""
        groups = {name: group[rows] for name, group in self.groups.items()}
        return Cohort(self.labels[rows], self.patients[rows], groups)

    def codes(self) -> npt.NDArray[np.int64]:
        """A number for each patient, (N,), which tells nobody who it is."""
        return np.asarray(np.unique(self.patients.astype(str), return_inverse=True)[1], np.int64)


@dataclass(frozen=True, eq=False)
class Splits:
    """A task: what is learnt from, what chooses, and what is scored once.

    Args:
        classes: Names of the K classes.
        train: Images to learn from.
        val: Images that choose regularisation, threshold and temperature.
        test: Images to score.
        checksum: SHA-256 of what is in which split, as hex.

    Raises:
        ManifestError: A split is empty, patients are in two splits, or no class can be learnt.
    """

    classes: tuple[str, ...]
    train: Cohort
    val: Cohort
    test: Cohort
    checksum: str

    def __post_init__(self) -> None:
        """Refuses what would give a score that means nothing."""
        for name, part in self.parts():
            if not len(part):
                raise ManifestError(
                    f"the {name} split must hold labelled images, got none: fill the column split, or deal it anew"
                )
            if part.labels.shape[1] != len(self.classes):
                raise ValueError(f"{name} labels must have {len(self.classes)} columns, got {part.labels.shape[1]}")
        for (first, one), (second, two) in ((a, b) for i, a in enumerate(self.parts()) for b in self.parts()[i + 1 :]):
            shared = np.intersect1d(one.patients.astype(str), two.patients.astype(str))
            if len(shared):
                raise ManifestError(
                    f"patients must be in one split only, got {len(shared)} in both {first} and {second}: "
                    "split by patient"
                )
        if not any(kinds == {0.0, 1.0} for kinds in self._kinds(self.train)):
            raise ManifestError(
                f"no class can be learnt: none of {', '.join(self.classes)} has both positive and negative images in "
                "the train split: label more images or choose other classes"
            )

    def parts(self) -> list[tuple[str, Cohort]]:
        """The three splits by name."""
        return [("train", self.train), ("val", self.val), ("test", self.test)]

    def undefined(self) -> dict[str, str]:
        """Classes that cannot be learnt or scored, with the reason."""
        return self._lacking("test") | self._lacking("train")

    def undecided(self) -> dict[str, str]:
        """Classes for which validation cannot choose a threshold and a temperature, with the reason."""
        return self._lacking("val")

    def rare(self) -> dict[str, str]:
        """Classes of which few test patients have a label, with what is there."""
        reasons = {}
        for name, column in zip(self.classes, self.test.labels.T, strict=True):
            for value, kind in ((1, "positive"), (0, "negative")):
                count = len(np.unique(self.test.patients[column == value].astype(str)))
                if 0 < count < FEWEST_PATIENTS:
                    reasons[name] = f"{count} {kind} patient{'s' * (count > 1)} in test"
        return reasons

    def _lacking(self, split: str) -> dict[str, str]:
        """Classes without both labels in a split, with what is there."""
        reasons = {}
        for label, kinds in zip(self.classes, self._kinds(dict(self.parts())[split]), strict=True):
            if kinds != {0.0, 1.0}:
                there = "no known label" if not kinds else f"only {'positives' if 1.0 in kinds else 'negatives'}"
                reasons[label] = f"{there} in {split}"
        return reasons

    def counts(self) -> dict[str, Any]:
        """Images, patients and labels of each split, for a result row."""
        return {
            name: {
                "images": len(part),
                "patients": len(np.unique(part.patients.astype(str))),
                "positive": dict(zip(self.classes, (part.labels == 1).sum(0).tolist(), strict=True)),
                "negative": dict(zip(self.classes, (part.labels == 0).sum(0).tolist(), strict=True)),
            }
            for name, part in self.parts()
        }

    @staticmethod
    def _kinds(part: Cohort) -> Iterator[set[float]]:
        return (set(np.unique(column[np.isin(column, (0, 1))]).tolist()) for column in part.labels.T)


def age_bands(years: npt.ArrayLike) -> npt.NDArray[Any]:
    """Bands such as `40-59` of ages in years, (N,) of str; blank where unknown."""
    ages = np.asarray(years, np.float64)
    ends = [0.0, *AGE_BANDS, np.inf]
    names = [f"{low:.0f}-{high - 1:.0f}" if np.isfinite(high) else f"{low:.0f}+" for low, high in
             pairwise(ends)]  # fmt: skip
    known = np.nan_to_num(ages)
    banded = np.array(names, object)[np.searchsorted(AGE_BANDS, known, side="right")]
    return np.where(np.isnan(ages), "", banded)
