"""The table shown while cells run: state, stage, progress, time left, best so far."""

import logging
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cxrbase.compare.board import Place

logger = logging.getLogger(__name__)

_PROTOCOL = "linear"  # whose macro AUROC is shown


class Board:
    """A live table on a terminal; elsewhere a line of the log whenever a cell changes its state.

    Args:
        places: The cells.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places
        self.console = Console(stderr=True)
        self.live = Live(self.table(), console=self.console, refresh_per_second=2, transient=False)
        self._states: dict[str, str] = {}

    def __enter__(self) -> "Board":
        """Starts to show the table."""
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leaves the last table on the screen."""
        self.tick()
        if self.console.is_terminal:
            self.live.stop()

    def tick(self) -> None:
        """Shows how things stand now."""
        if self.console.is_terminal:
            self.live.update(self.table())
            return
        for place in self.places:
            state = place.state()
            if self._states.get(place.cell.title) != state and state != "waiting":
                self._states[place.cell.title] = state
                done = sum(place.state() == "done" for place in self.places)
                said = f"{place.cell.title}: {state} {score(place)}".rstrip()
                logger.info("%d of %d done; %s", done, len(self.places), said)

    def table(self) -> Table:
        """All cells, and the best so far below."""
        table = Table("cell", "state", "progress", "left", "loss", f"AUROC ({_PROTOCOL})", box=None)
        best: tuple[float, str] | None = None
        for place in self.places:
            result, progress = place.result, place.progress
            value = score_value(place) if result else None
            if value is not None and (best is None or value > best[0]):
                best = value, place.cell.title
            loss = progress.get("loss")
            table.add_row(
                place.cell.title, _stage(place), _share(place), _left(place),
                "" if loss is None else f"{loss:.3f}", "" if value is None else f"{value:.3f}",
            )  # fmt: skip
        table.caption = "" if best is None else f"best so far: {best[1]} {best[0]:.3f}"
        return table


def score_value(place: Place) -> float | None:
    """Mean macro AUROC over the tasks of a finished cell."""
    result = place.result
    rows = [task["protocols"].get(_PROTOCOL) for task in result["tasks"].values()] if result else []
    found = [row["value"] for row in rows if row is not None and row["value"] is not None]
    return sum(found) / len(found) if found else None


def score(place: Place) -> str:
    """The same as text."""
    value = score_value(place)
    return "" if value is None else f"{value:.3f}"


def _stage(place: Place) -> str:
    state = place.state()
    return str(place.progress.get("stage", state)) if state == "running" else state


def _share(place: Place) -> str:
    step, steps = place.progress.get("step"), place.progress.get("steps")
    return f"{step:,}/{steps:,}" if step is not None and steps else ""


def _left(place: Place) -> str:
    progress = place.progress
    if place.state() != "running" or not progress.get("step") or "began" not in progress:
        return ""
    took, done = time.time() - progress["began"], progress["step"] - progress.get("first", 0)
    if done < 1:
        return ""
    seconds = took / done * (progress["steps"] - progress["step"])
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
