"""Traces which encoders an encoder's training started from, as recorded in the run folders."""

from pathlib import Path
from typing import Any

from cxrbase.config_files import read_config
from cxrbase.errors import ConfigError


def lineage(encoder: str | Path) -> list[Path]:
    """Weights of an encoder and of those that it started from, itself first, each once.

    Args:
        encoder: As `load_any_encoder` takes it; a network without weights has none.
    """
    found: list[Path] = []
    passed: set[Path] = set()
    weights = _weights_of(str(encoder))
    while weights is not None and weights.resolve() not in passed:
        passed.add(weights.resolve())
        found.append(weights)
        weights = _started_from(config_of(weights))
    return found


def config_of(weights: Path) -> Path:
    """Where the settings of a run are, given its folder or a file in it."""
    return (weights if weights.is_dir() else weights.parent) / "config.yaml"


def _weights_of(place: str) -> Path | None:
    if not place.startswith("timm:"):
        return Path(place)
    file = place.partition("=")[2]
    return Path(file) if file else None


def _started_from(config: Path) -> Path | None:
    try:
        model: Any = read_config(config).get("model")
    except (OSError, ConfigError):
        return None
    place = model.get("init_from") if isinstance(model, dict) else None
    return _weights_of(place) if isinstance(place, str) else None
