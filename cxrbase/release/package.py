"""Files next to the weights of an export (preprocessing, licence, checksums), and their check on loading."""

import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from cxrbase.data.reading import Reading
from cxrbase.errors import ConfigError
from cxrbase.sizes import height_width

WEIGHTS = "model.safetensors"
CHECKSUMS = "SHA256SUMS"
_MAX_LICENCE = 1_000_000
_OF_FILES = (".txt", ".md", ".rst", ".html", ".pdf")  # no SPDX name ends so


def preprocessing(card: dict[str, Any]) -> dict[str, Any]:
    """How a file becomes the network's input, as steps that a program can follow.

    Args:
        card: Of the encoder: image_size, mean, std, and intensity, window and crop_borders where they are known.

    Returns:
        JSON-ready; `steps` are to be done in order.
    """
    height, width = height_width(card["image_size"])
    reading = Reading.of(card)
    intensity = card.get("intensity", reading.convention)
    region = "square at the full shorter side" if height == width else f"part of shape {height} x {width}, the largest"
    return {
        "input": {"shape": ["batch", 1, height, width], "dtype": "float32", "channels": "one, bone bright"},
        "steps": [
            {"step": "decode", "to": "uint8, one channel", **reading.values(), "intensity": intensity},
            {"step": "crop", "region": f"central {region}"},
            {"step": "resize", "height": height, "width": width, "interpolation": "bilinear", "antialias": True},
            {"step": "scale", "divide_by": 255},
            {"step": "normalise", "mean": card["mean"], "std": card["std"]},
        ],
    }


def read_licence(licence: str) -> tuple[str, str]:
    """Name and text of a licence.

    Args:
        licence: A file with the text, or an SPDX name; Apache-2.0 has its whole text.

    Raises:
        ConfigError: It is neither a text file nor a name.
    """
    given = Path(licence)
    if given.is_file():
        if given.stat().st_size > _MAX_LICENCE:
            raise ConfigError(f"{licence} is too large for a licence, {given.stat().st_size:,} bytes")
        try:
            return "other", given.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{licence} is no text of a licence: it is not UTF-8 (byte {error.start:,})") from error
    if given.suffix.lower() in _OF_FILES:
        raise ConfigError(
            f"no file {licence}: give an existing one with the text, or an SPDX name such as CC-BY-NC-4.0"
        )
    try:
        name = str(canonicalize_license_expression(licence))
    except InvalidLicenseExpression as error:
        raise ConfigError(
            f"licence must be an existing file or an SPDX name such as CC-BY-NC-4.0, got {licence!r}; of terms that "
            "have no such name (https://spdx.org/licenses), give the text in a file"
        ) from error
    text = _apache() if name == "Apache-2.0" else None
    return name, text or f"SPDX-License-Identifier: {name}\n"


def _apache() -> str | None:
    """The text that comes with this package; a source folder beside the installed one may hold its name without it."""
    texts = (found.read_text("licenses/LICENSE") for found in metadata.distributions(name="cxrbase"))
    return next(filter(None, texts), None)


def write_checksums(folder: Path) -> None:
    """Writes SHA256SUMS of all files in a folder, for `sha256sum --check`."""
    lines = [f"{_sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir()) if path.name != CHECKSUMS]
    (folder / CHECKSUMS).write_text("".join(lines))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
