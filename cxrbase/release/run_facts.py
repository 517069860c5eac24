"""What a run folder records: its summary, its settings, and the images it was trained on."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cxrbase.config_files import read_config
from cxrbase.data.manifest import SPLITS, Manifest
from cxrbase.data.sources.catalogue import SOURCES
from cxrbase.errors import ConfigError, ManifestError

_SIMULATED = ("Simulated radiographs of cxrbase", "Apache-2.0")


@dataclass(frozen=True)
class SourceCount:
    """Images of one source.

    Attributes:
        name: As in the column `source`.
        title: Official name; "" where it is not a known source.
        licence: Terms of its images; "" where unknown.
        images: By split.
        patients: Number of different patients.
    """

    name: str
    title: str
    licence: str
    images: dict[str, int]
    patients: int


@dataclass(frozen=True)
class RunFacts:
    """A run folder, as far as it could be read.

    Attributes:
        summary: summary.json; empty where there is none.
        config: config.yaml; empty where there is none.
        sources: One entry per source; empty where the run has no record of them and the images are no longer there.
        groups: Images and patients that were trained on, by variable and group; empty where the run has no record.
    """

    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    sources: tuple[SourceCount, ...] = ()
    groups: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)


def read_run(folder: Path) -> RunFacts:
    """Reads what is there; damaged or missing files leave their part empty, because a card must not fail on them.

    Args:
        folder: A run folder; anything else gives no facts.
    """
    if not folder.is_dir():
        return RunFacts()
    summary = _mapping(folder / "summary.json")
    config = _mapping(folder / "config.yaml")
    record = part_of(summary, "data")
    sources = recorded_sources(record) or _sources(config.get("data"))
    return RunFacts(summary, config, sources, recorded_groups(record))


def _mapping(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text()) if path.suffix == ".json" else read_config(path)
    except (OSError, ValueError, ConfigError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def recorded_sources(record: dict[str, Any]) -> tuple[SourceCount, ...]:
    """The sources that a run wrote down, as of `evaluation.image_groups.count_images`; damaged ones are left out."""
    found = []
    entries = record.get("sources")
    for entry in entries if isinstance(entries, list) else []:
        images = {split: count for split, count in part_of(entry, "images").items() if isinstance(count, int)}
        if images and isinstance(entry.get("name"), str) and isinstance(entry.get("patients"), int):
            title, licence = _known(entry["name"])
            found.append(SourceCount(entry["name"] or "not named", title, licence, images, entry["patients"]))
    return tuple(found)


def recorded_groups(record: dict[str, Any]) -> dict[str, dict[str, tuple[int, int]]]:
    """Images and patients by variable and group that a run wrote down; damaged ones are left out."""
    groups = part_of(part_of(record, "trained_on"), "groups")
    found = {}
    for variable in groups:
        sizes = part_of(groups, variable)
        pairs = {group: (part_of(sizes, group).get("images"), part_of(sizes, group).get("patients")) for group in sizes}
        found[variable] = {
            group: (images, patients)
            for group, (images, patients) in pairs.items()
            if isinstance(images, int) and isinstance(patients, int)
        }
    return {variable: sizes for variable, sizes in found.items() if sizes}


def part_of(mapping: Any, name: str) -> dict[str, Any]:
    """A mapping inside another, empty where there is none."""
    inner = mapping.get(name) if isinstance(mapping, dict) else None
    return inner if isinstance(inner, dict) else {}


def _sources(data: Any) -> tuple[SourceCount, ...]:
    """Counts from the manifest that the run was trained with, where it is still in its place."""
    if not isinstance(data, dict) or not isinstance(data.get("root"), str):
        return ()
    root = Path(data["root"])
    places = [data["manifest"]] if isinstance(data.get("manifest"), str) else []
    places += [root / "manifest.parquet", root / "manifest.csv"]
    found = next((Path(place) for place in places if Path(place).is_file()), None)
    if found is None:
        return ()
    try:
        return count_sources(Manifest.read(found, root=root))
    except ManifestError:
        return ()


def count_sources(manifest: Manifest) -> tuple[SourceCount, ...]:
    """Images by source and split, with the licence of each source that is known."""
    sources, splits, patients = manifest.column("source"), manifest.column("split"), manifest.patients()
    counts = []
    for name in sorted(set(sources.tolist())):
        inside = sources == name
        images = {split: int((inside & (splits == split)).sum()) for split in (*SPLITS, "")}
        title, licence = _known(str(name))
        counts.append(
            SourceCount(
                name=str(name) or "not named",
                title=title,
                licence=licence,
                images={split or "no split": count for split, count in images.items() if count},
                patients=len(np.unique(patients[inside])),
            )
        )
    return tuple(counts)


def _known(name: str) -> tuple[str, str]:
    if name == "phantom":
        return _SIMULATED
    source = SOURCES.get(name)
    return (source.title, source.licence) if source else ("", "")
