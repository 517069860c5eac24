"""The folder of a comparison: the state of each cell, read from files at any time."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cxrbase.compare.heartbeat import PROGRESS
from cxrbase.compare.plan import Cell, Plan, folder_name
from cxrbase.whole_files import written_whole

State = Literal["waiting", "running", "done", "failed"]
SPEC, RESULT, FAILURE, LOG = "cell.json", "result.json", "failed.json", "log.txt"
AGAIN = "--- another try ---"  # a line of the log
_QUIET_S = 120.0  # after which the worker of a cell counts as gone


@dataclass(frozen=True)
class Place:
    """A cell and its folder.

    Args:
        cell: What is run.
        folder: Where it is run and leaves everything.
    """

    cell: Cell
    folder: Path

    @property
    def result(self) -> dict[str, Any] | None:
        """The finished result; None where there is none yet."""
        return read_json(self.folder / RESULT)

    @property
    def failure(self) -> dict[str, Any] | None:
        """Why the last try failed."""
        return read_json(self.folder / FAILURE)

    @property
    def progress(self) -> dict[str, Any]:
        """What the worker last said of itself."""
        return read_json(self.folder / PROGRESS) or {}

    def state(self) -> State:
        """Where the cell stands; one that has said nothing for long counts as waiting, its worker being gone."""
        if (self.folder / RESULT).is_file():
            return "done"
        if (self.folder / FAILURE).is_file():
            return "failed"
        return "running" if time.time() - self.progress.get("at", 0.0) < _QUIET_S else "waiting"


def lay_out(plan: Plan, root: Path, *, data: str | Mapping[str, str], tasks: str = "") -> list[Place]:
    """Makes the folder of every cell with its specification; finished ones are left as they are.

    Args:
        plan: The comparison.
        root: Folder of the comparison.
        data: Fingerprint of what pretraining reads, of all cells or by their title.
        tasks: Fingerprint of what scores are made of.
    """
    places = []
    for cell in plan.cells():
        read = data if isinstance(data, str) else data[cell.title]
        folder = root / "cells" / folder_name(cell, cell.key(plan, data=read, tasks=tasks))
        folder.mkdir(parents=True, exist_ok=True)
        keys = {"data": read, "tasks": tasks, "pretraining": cell.pretraining_key(plan, data=read)}
        write_json(folder / SPEC, {"cell": asdict(cell), "plan": asdict(plan)} | keys)
        places.append(Place(cell, folder))
    return places


def forget_failures(places: Sequence[Place]) -> None:
    """Gives failed cells another try; their logs say so, and that an earlier try's errors are not of this one."""
    for place in places:
        (place.folder / FAILURE).unlink(missing_ok=True)
        if (place.folder / LOG).is_file() and not (place.folder / RESULT).is_file():
            with (place.folder / LOG).open("a") as log:
                log.write(f"{AGAIN}\n")


def write_json(path: Path, content: Any) -> None:
    """Writes a file that is there whole or not at all; NaN, as of an interval that no resample defines, is null."""
    with written_whole(path) as part:
        part.write_text(json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n")


def _without_nan(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _without_nan(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no file."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return found
