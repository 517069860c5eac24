"""The number of CPU cores this process may use."""

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> int:
    """Cores that this process may use, at least 1: a batch system limits them by affinity, a container by a quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(_QUOTA)
    return cores if quota is None else max(1, min(cores, quota))


def _quota(path: Path) -> int | None:
    """Whole cores of control group v2's `quota period` in microseconds; None without a limit."""
    try:
        quota, period = path.read_text(encoding="ascii").split()
        return int(quota) // int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or `max`
        return None
