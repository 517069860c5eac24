"""Locks a cell, so that only one process works on it, across comparisons and machines."""

import errno
import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Waits until no other process works on a cell, and keeps others from it; the death of the process gives it up.

    NFS, Lustre and others carry such locks between machines, unless they were mounted without them.

    Args:
        folder: Folder of the cell.
    """
    with (folder / LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write("another process works on this cell: waiting for its end\n")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            sys.stderr.write(f"{folder} has no file locks: do not start this comparison twice at a time\n")
        try:
            yield
        finally:
            # Closing is not enough: a worker process of a loader has the file too, and so the lock.
            fcntl.flock(file, fcntl.LOCK_UN)
