"""Finds the images that exclusion lists name, even if their sources have other names now."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.manifest_columns import ORIGINS
from cxrbase.data.manifest_exclusions import ExclusionList
from cxrbase.errors import ManifestError

logger = logging.getLogger(__name__)
_SHOWN = 5


class Columns(Protocol):
    """A manifest, or the index of packed images."""

    def column(self, name: str) -> NDArray[Any]:
        """One column, (N,)."""

    def coded(self, name: str) -> tuple[NDArray[np.int32], list[str]]:
        """One text column as numbers and what they stand for; "" throughout where there is none."""

    def __len__(self) -> int:
        """Images."""


@dataclass(frozen=True)
class NamedImages:
    """Images in one place, and what their sources are called.

    Args:
        table: One row per image, with `path`, `source` and perhaps `ORIGINS`, sources before they were given others.
        called: Other names of each source, the more telling first; those of "" are names of all images, such as that of
            their folder.
    """

    table: Columns
    called: Mapping[str, Sequence[str]]

    def names(self, source: str, origins: Iterable[str]) -> tuple[str, ...]:
        """What the source of an image is called, the more telling name first."""
        return (source, *self.called.get(source, ()), *(self.called.get("", ()) if source else ()), *origins)

    def origins(self) -> Iterator[tuple[str, ...]]:
        """Values of `ORIGINS` of each image."""
        columns = (self.table.coded(name) for name in ORIGINS)
        return zip(*([names[code] for code in codes.tolist()] for codes, names in columns), strict=True)

    @property
    def known(self) -> set[str]:
        """All names."""
        used = (name for column in ("source", *ORIGINS) for name in self.table.coded(column)[1])
        return {*used, *(name for names in self.called.values() for name in names)} - {""}

    @property
    def title(self) -> str:
        """What to call the images in a message."""
        sources = sorted(set(self.table.coded("source")[1]) - {""})
        return _listed(sources or self.called.get("", ())[:1] or ["the images"])


class _Image(NamedTuple):
    table: int
    row: int
    source: str
    names: tuple[str, ...]


class _Places:
    """Images by their paths: `exact` as they are, `loose` also with and without `<source>/` before them."""

    def __init__(self, tables: Sequence[NamedImages], wanted: set[str]) -> None:
        self.exact: dict[str, list[_Image]] = defaultdict(list)
        self.loose: dict[str, list[_Image]] = defaultdict(list)
        for number, images in enumerate(tables if wanted else ()):
            columns = zip(images.table.column("source"), images.table.column("path"), images.origins(), strict=True)
            for row, (source, path, origins) in enumerate(columns):
                forms = path, f"{source}/{path}", path.removeprefix(f"{source}/")
                if wanted.isdisjoint(forms):  # nearly all of a million
                    continue
                image = _Image(number, row, source, images.names(source, origins))
                for form in dict.fromkeys(forms):
                    (self.exact if form == path else self.loose)[form].append(image)

    def at(self, source: str, path: str) -> list[list[_Image]]:
        """Images that have a path, those with the very path first, then as packing writes and audits read it."""
        forms = _forms(source, path)
        return [places.get(form, []) for places in (self.exact, self.loose) for form in forms]


def excluded(lists: Sequence[ExclusionList], tables: Sequence[NamedImages]) -> list[NDArray[np.bool_]]:
    """Which images the lists name, (N,) for each table.

    An entry without a source names every image with its path. Another one names the images whose source has that name,
    or whose folder, data set or origin has. A list of one set whose name is not known here, because it was moved, is
    taken by the paths alone; one of several sets is not, because its paths may be those of another set.

    Args:
        lists: What to leave out.
        tables: All images there are.

    Raises:
        ManifestError: An entry may mean images of two sources.
    """
    masks = [np.zeros(len(images.table), bool) for images in tables]
    wanted = {form for one in lists for entry in one.entries for form in _forms(*entry)}
    places = _Places(tables, wanted)
    known: set[str] = set().union(*(images.known for images in tables))
    # A list whose source is here knows which of its entries are of other sets, and so do the lists beside it.
    moved = known.isdisjoint(source for one in lists for source in one.sources)
    for one in lists:
        absent = []
        for source, path in one.entries:
            found = _found(one, source, path, places, moved)
            absent += [] if found else [(source, path)]
            for image in found:
                masks[image.table][image.row] = True
        _say(one, absent, known, tables)
    return masks


def _found(one: ExclusionList, source: str, path: str, places: _Places, moved: bool) -> list[_Image]:
    """Images that an entry names; `moved` where no list is of a source that is here."""
    pools = places.at(source, path)
    if not source:
        return next((pool for pool in pools if pool), [])
    ranked = defaultdict(list)
    for order, pool in enumerate(pools):
        for image in pool:
            if source in image.names:
                ranked[image.names.index(source), order].append(image)
    if ranked:
        return _of_one(one, source, path, ranked[min(ranked)])
    if moved and len(one.sources) == 1 and one.sets in (None, 1):
        # Who writes a source by hand means it, so it cannot be that of an image with another one.
        meant = ([image for image in pool if one.sets == 1 or not image.source] for pool in pools)
        return _of_one(one, source, path, next((pool for pool in meant if pool), []))
    return []


def _of_one(one: ExclusionList, source: str, path: str, found: list[_Image]) -> list[_Image]:
    homes = {(image.table, image.source) for image in found}
    if len(homes) > 1:
        names = " and ".join(sorted({name for _, name in homes if name})[:_SHOWN])
        raise ManifestError(
            f"{one.file} names {path} of {source}, which may be that of {names}: write one of them into its column "
            "source, or nothing for all"
        )
    return found


def _say(one: ExclusionList, absent: list[tuple[str, str]], known: set[str], tables: Sequence[NamedImages]) -> None:
    count, here = len(one.entries), " and ".join(images.title for images in tables)
    logger.info(
        "%s: %d of %d entries name images of %s, which are left out", one.file, count - len(absent), count, here
    )
    others = [source for source in one.sources if source not in known]
    said = f"nothing here is called {_listed(others)}" if others else ""
    if absent:
        source, path = absent[0]
        first = f"{path} of {source}" if source else path
        logger.warning(
            "%s: %d of %d entries name no image of %s, the first is %s%s",
            one.file, len(absent), count, here, first, f"; {said}" if said else "",
        )  # fmt: skip
    if others and len(absent) < count and any(source in others for source, path in set(one.entries) - set(absent)):
        logger.warning("%s: %s, so its entries are taken by their paths alone", one.file, said)


def _forms(source: str, path: str) -> tuple[str, ...]:
    """A path as it is, and as it was before packing put the source before it."""
    return tuple(dict.fromkeys((path, _bare(path, source))))


def _bare(path: str, source: str) -> str:
    return path.removeprefix(f"{source}/") if source else path


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
