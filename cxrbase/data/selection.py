"""Selects which training images are drawn, and how often: sources, views, exclusion lists, weights."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.manifest_excluded import NamedImages, excluded
from cxrbase.data.manifest_exclusions import read_exclusions
from cxrbase.data.order import Part
from cxrbase.errors import ConfigError

logger = logging.getLogger(__name__)


class ImageTable(Protocol):
    """What is known about images: a manifest, or the index of packed ones."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, without their prefix."""

    def column(self, name: str) -> NDArray[Any]:
        """One column, (N,)."""

    def coded(self, name: str) -> tuple[NDArray[np.int32], list[str]]:
        """One text column as numbers and what they stand for."""

    def patients(self) -> NDArray[Any]:
        """Patient of each image, (N,) of str."""

    def patient_codes(self) -> NDArray[np.int32]:
        """Patient of each image as a number, (N,)."""

    def splits(self) -> NDArray[Any]:
        """Split of each image, (N,) of str."""

    def label_matrix(self) -> NDArray[np.float32]:
        """Labels, (N, number of labels): 1 present, 0 absent, NaN unknown."""

    def images_hash(self, rows: NDArray[np.int64]) -> str:
        """Tells whether some rows are the same images, as hex."""

    def __len__(self) -> int:
        """Number of images."""


@dataclass(frozen=True)
class Selection:
    """What pretraining draws of its splits.

    Args:
        sources: Data sets to draw from, by their name in the column `source`; None draws from all.
        view_positions: Views to draw, such as PA and AP; None draws all, unknown ones included. A source that does not
            tell its views then has no image, which is said in a warning.
        exclude: Lists of images to leave out, as the exclude.csv of `cxrbase audit`.
        weights: How often each image of a source is drawn per epoch: 2 is twice, 0.25 a fresh quarter of the source in
            each epoch. Sources that are not named are drawn once.
        one_per_patient: No two images of a patient in a global batch, as contrastive objectives would push them apart;
            equal ids are one person, of whatever source.
    """

    sources: list[str] | None = None
    view_positions: list[str] | None = None
    exclude: list[str] | None = None
    weights: dict[str, float] | None = None
    one_per_patient: bool = False

    def __post_init__(self) -> None:
        for source, weight in (self.weights or {}).items():
            if not 0 < weight < np.inf:
                raise ValueError(
                    f"the weight of {source} must be positive and finite, got {weight}: leave a source out by "
                    "data.select.sources"
                )

    def parts(
        self, table: ImageTable, rows: NDArray[np.int64], *, called: Mapping[str, Sequence[str]] | None = None
    ) -> list[Part]:
        """The rows that remain, in one part, or where sources are weighted in one for each source.

        Args:
            table: All images.
            rows: Those of the splits to draw from.
            called: Other names of the sources, see `NamedImages`.

        Raises:
            ConfigError: A source is not in the table or no image has any of the views, or nothing remains, in all or of
                a source that is named.
            ManifestError: An exclusion list cannot be read, or may mean images of two sources.
        """
        _warn_of_absent(table, rows, wanted=self.sources)
        if self.sources is not None:
            rows = _only(table, rows, name="sources", column="source", wanted=self.sources)
        if self.view_positions is not None:
            seen = _only(table, rows, name="view_positions", column="view_position", wanted=self.view_positions)
            rows = _kept(table, rows, seen, why=f"has view_position {' or '.join(self.view_positions)}")
        if self.exclude:
            (out,) = excluded(read_exclusions(self.exclude), [NamedImages(table, called or {})])
            rows = _kept(table, rows, rows[~out[rows]], why="is left by the exclusion lists")
        if not len(rows):
            raise ConfigError("data.select leaves no image to train on: widen its sources and view_positions")
        codes, names = table.coded("source")
        _drawn("sources", self.sources or (), {names[code] for code in np.unique(codes[rows])})
        if not self.weights:
            return [Part(rows)]
        _known("weights", self.weights, names)
        _drawn("weights", self.weights, {names[code] for code in np.unique(codes[rows])})
        given = {name.lower(): weight for name, weight in self.weights.items()}
        weight_of = np.array([given.get(name.lower(), 1.0) for name in names])
        # A part for each source, so that a source's share is exact in every epoch.
        parts = {names[c]: Part(rows[codes[rows] == c], float(weight_of[c])) for c in np.unique(codes[rows])}
        for name, part in parts.items():
            _refuse_empty(name, part)
        return list(parts.values())


def _only(
    table: ImageTable, rows: NDArray[np.int64], *, name: str, column: str, wanted: list[str]
) -> NDArray[np.int64]:
    codes, names = table.coded(column)
    _known(name, wanted, names)
    lower = {value.lower() for value in wanted}
    return np.asarray(rows[np.array([value.lower() in lower for value in names])[codes[rows]]])


def _known(name: str, wanted: Sequence[str] | Mapping[str, float], there: list[str]) -> None:
    """Refuses what no image has; of views only all of them, because a list of usual ones is for any set."""
    lower = {value.lower() for value in there}
    if unknown := [value for value in wanted if value.lower() not in lower]:
        found = ", ".join(sorted({value for value in there if value})) or "none"
        said = f"data.select.{name} has {', '.join(unknown)}, which no image has; there are {found}"
        if name != "view_positions" or len(unknown) == len(wanted):
            raise ConfigError(said)
        logger.warning(said)


def _kept(table: ImageTable, before: NDArray[np.int64], after: NDArray[np.int64], *, why: str) -> NDArray[np.int64]:
    """The rows after a filter; names whole sources that it takes away."""
    codes, names = table.coded("source")
    for code in np.setdiff1d(codes[before], codes[after]):
        logger.warning(
            "no image of %s is trained on: none of its %d in the splits to train on %s",
            names[code] or "no named source", int((codes[before] == code).sum()), why,
        )  # fmt: skip
    return after


def _drawn(name: str, wanted: Iterable[str], there: set[str]) -> None:
    """Refuses a source that is named and of which no image remains."""
    lower = {value.lower() for value in there}
    if lacking := [value for value in wanted if value.lower() not in lower]:
        raise ConfigError(
            f"data.select.{name} has {', '.join(lacking)}, of which no image is left to train on: fill its column "
            "split, choose other splits, views or exclusion lists, or do not name it"
        )


def _refuse_empty(source: str, part: Part) -> None:
    if not len(part):
        raise ConfigError(
            f"data.select.weights draws no image of {source}: {part.weight:g} of its {len(part.rows)} images rounds to "
            f"none; give it at least {1 / len(part.rows):.2g}, or leave it out by data.select.sources"
        )


def _warn_of_absent(table: ImageTable, rows: NDArray[np.int64], *, wanted: list[str] | None) -> None:
    """Names whole sources that are wanted and have no image in the splits to draw from."""
    codes, names = table.coded("source")
    lower = None if wanted is None else {value.lower() for value in wanted}
    for code in np.setdiff1d(codes, codes[rows]):
        if lower is None or names[code].lower() in lower:
            logger.warning(
                "no image of %s is trained on: none of its %d is in the splits to train on",
                names[code] or "no named source", int((codes == code).sum()),
            )  # fmt: skip
