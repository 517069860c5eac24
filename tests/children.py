"""The processes that a process has started, read from Linux itself: `ps` cuts its lines to a terminal's width."""

from pathlib import Path


def _parent(place):
    try:
        return int((place / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended meanwhile
        return None


def children(pid):
    """Returns the processes whose parent is `pid`, in the order of their numbers."""
    return sorted(int(place.name) for place in Path("/proc").glob("[0-9]*") if _parent(place) == pid)


def forked(pid):
    """Returns the children that were forked, without those that run a command of their own."""
    own = Path(f"/proc/{pid}/cmdline").read_bytes()
    return [child for child in children(pid) if Path(f"/proc/{child}/cmdline").read_bytes() == own]
