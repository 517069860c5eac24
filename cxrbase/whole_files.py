"""Writes files that are either complete or absent, whatever stops the process."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a name beside `path` to write to, and moves the file there when the block ends without an error.

    A reader finds the old file or the new one, and several processes may write the same one. What an error leaves is
    removed; what a killed process leaves starts with a dot and ends in .part.

    Args:
        path: Of the file; its folder must be there.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
