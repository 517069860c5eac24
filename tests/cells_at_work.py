"""Who works or worked on the cells of a comparison, from their files and the processes of this machine."""

import contextlib
from pathlib import Path


def finished(root: Path) -> dict[str, int]:
    """Time of writing of each result."""
    return {path.parent.name: path.stat().st_mtime_ns for path in root.glob("cells/*/result.json")}


def started(root: Path) -> dict[str, list[int]]:
    """Processes that began to work on each cell, in order."""
    found = {}
    for log in root.glob("cells/*/log.txt"):
        lines = [line for line in log.read_text().splitlines(keepends=True) if line.startswith("begins: process ")]
        if begun := [int(line.split()[2]) for line in lines if line.endswith("\n")]:
            found[log.parent.name] = begun
    return found


def workers(root: Path) -> list[str]:
    """Command lines of all processes that name a folder."""
    said = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            said.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in said if str(root) in line]
