"""`cxrbase phantom`: generates the embedded data set, with a contact sheet to look at."""

import sys
from pathlib import Path

from jsonargparse import auto_cli
from jsonargparse.typing import PositiveInt

from cxrbase.suggestions import SuggestingParser


def phantom(words: list[str]) -> int:
    """Runs `cxrbase phantom` with the words after it and returns the exit code."""
    auto_cli(make, parser_class=SuggestingParser, args=words, prog="cxrbase phantom", as_positional=False)
    return 0


def make(
    root: str = "data/phantom",
    patients: int = 1200,
    image_size: int = 128,
    seed: int = 0,
    workers: PositiveInt | None = None,  # type: ignore[valid-type]
) -> None:
    """Makes simulated radiographs with known findings, and contact_sheet.png beside them.

    Args:
        root: Folder to write to; one that holds the same set is left as it is.
        patients: Number of patients; each has one to four images.
        image_size: Side of the images in pixels.
        seed: Seed of the patients.
        workers: Processes; None takes every core.
    """
    from cxrbase.data.contact_sheet import contact_sheet
    from cxrbase.data.manifest import Manifest
    from cxrbase.data.phantom import make_phantom

    manifest = Manifest.read(
        make_phantom(Path(root), patients=patients, image_size=image_size, seed=seed, workers=workers)
    )
    sheet = Path(root) / "contact_sheet.png"
    contact_sheet(manifest, sheet)
    sys.stdout.write(f"{len(manifest)} images in {root}; look at {sheet}\n")
