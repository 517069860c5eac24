"""Measures how the time of a training step divides into phases, without making a device wait."""

import time
from collections import defaultdict, deque
from typing import Any

import torch


class StepClock:
    """Splits time into phases by marks; off until it is started.

    On a GPU a mark is an event that the device itself times when it gets there, so nobody waits for anybody; on a CPU
    it is the time of day.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[str, Any]] = deque()
        self._cuda: bool | None = None

    def start(self, device: torch.device) -> None:
        """Switches the clock on."""
        self._cuda = device.type == "cuda"
        self._marks.clear()

    def mark(self, phase: str) -> None:
        """Ends a phase, which began at the mark before."""
        if self._cuda is None:
            return
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._marks.append((phase, event))
        else:
            self._marks.append((phase, time.perf_counter()))

    def spent(self) -> dict[str, float]:
        """Seconds of each phase since the last call; marks that the device has not reached are left for the next."""
        seconds: dict[str, float] = defaultdict(float)
        while len(self._marks) > 1:
            (_, start), (phase, end) = self._marks[0], self._marks[1]
            if self._cuda:
                if not end.query():
                    break
                seconds[phase] += start.elapsed_time(end) / 1000
            else:
                seconds[phase] += end - start
            self._marks.popleft()
        return dict(seconds)
