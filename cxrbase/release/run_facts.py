"""What a run folder says about itself: its summary, its settings, and the images it was trained on."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cxrbase.data.manifest import SPLITS, Manifest
from cxrbase.data.sources.catalogue import SOURCES
from cxrbase.errors import ManifestError

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
        sources: One entry per source; empty where the images are no longer there.
    """

    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    sources: tuple[SourceCount, ...] = ()


def read_run(folder: Path) -> RunFacts:
    """Reads what is there; damaged or missing files leave their part empty, because a card must not fail on them.

    Args:
        folder: A run folder; anything else gives no facts.
    """
    if not folder.is_dir():
        return RunFacts()
    summary = _mapping(folder / "summary.json")
    config = _mapping(folder / "config.yaml")
    return RunFacts(summary, config, _sources(config.get("data")))


def _mapping(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


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
