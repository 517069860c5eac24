"""Checks where a result shall go before work is spent on it, and says where none of the images could be read."""

from pathlib import Path

from cxrbase.data.images import is_url
from cxrbase.errors import ConfigError, ManifestError


def local_place(out: str | Path) -> Path:
    """The place that --out names; ConfigError where it is not on this machine, or inside a file."""
    if is_url(str(out)):
        raise ConfigError(f"--out must be on this machine, got {out}: write it here and copy it there")
    path = Path(out)
    if inside := next((parent for parent in path.parents if parent.is_file()), None):
        raise ConfigError(f"--out {path} cannot be written, as {inside} is a file: name a folder instead")
    return path


def refuse_all_bad(place: Path, *, images: int, bad: int) -> None:
    """Raises a ManifestError where not one image of a table could be read, as in a job with the wrong files."""
    if images and bad == images:
        raise ManifestError(f"none of the {images} images could be read: the column error of {place} says why")
