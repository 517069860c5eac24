"""The file of canvases while it is filled: its room is taken at once, and what a killed maker left is removed."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cxrbase.whole_files import written_whole

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_NO_ROOM_AHEAD = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


@contextmanager
def mapped_whole(path: Path, shape: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
    """Gives an array of zeros in a file that moves to `path` when the block ends without an error.

    Args:
        path: Of the .npy file; its folder must be there.
        shape: Of the array.

    Raises:
        OSError: There is no room for all of it.
    """
    _remove_left(path)
    # Locked until the file has its name, or another maker could take it for left.
    with ExitStack() as held, written_whole(path) as part:
        file = held.enter_context(_own(part))
        pixels = np.lib.format.open_memmap(part, "w+", np.uint8, shape)
        _take_room(file)
        yield pixels
        pixels.flush()


def _take_room(file: BinaryIO) -> None:
    # A mapped page that finds the disk full kills the process, where this is an error that can be told.
    try:
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except OSError as error:
        if error.errno not in _NO_ROOM_AHEAD:
            raise


def _own(part: Path) -> BinaryIO:
    """Makes a file and locks it, which tells others that its maker lives."""
    while True:
        file = part.open("wb")
        _lock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # another maker removed it before it was locked


def _remove_left(path: Path) -> None:
    for part in path.parent.glob(f".{path.name}.*.part"):
        with suppress(FileNotFoundError, PermissionError), part.open("r+b") as file:
            if _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                part.unlink()


def _lock(file: BinaryIO, how: int) -> bool:
    """Whether the file is locked now; some file systems have no locks, and nothing is removed from them."""
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True
