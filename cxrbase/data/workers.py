"""Worker processes of a loader: how they end, and the error if one disappears."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from cxrbase.errors import WorkerError

# A killed process closes its connections a moment before it can be waited for.
_GRACE_S = 1.0


@contextmanager
def own_sigchld() -> Iterator[None]:
    """Takes back the signal that PyTorch takes when it starts workers.

    Its handler raises wherever the main process happens to be, even in the middle of a checkpoint. Without it, a lost
    worker is found where its batch is waited for, within five seconds.
    """
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


@contextmanager
def lost_workers(batches: Callable[[], Any]) -> Iterator[None]:
    """Says in one sentence that a worker process is gone, of which PyTorch and the operating system say many things.

    Args:
        batches: Gives the iterator over batches, of PyTorch's loader or any other.

    Raises:
        WorkerError: A worker process is gone.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        ended = _ended(getattr(batches(), "_workers", ()))
        if ended is None:
            raise
        raise WorkerError(
            f"a worker process of the loader {ended}, possibly out of memory: set fewer num_workers or a smaller "
            "batch_size, and resume with --ckpt_path=<run folder>"
        ) from error


def _ended(workers: Any) -> str | None:
    """How the first worker that is gone ended; None where all are there."""
    if workers:
        wait([worker.sentinel for worker in workers], _GRACE_S)
    codes = [worker.exitcode for worker in workers if worker.exitcode is not None]
    if not codes:
        return None
    return f"was killed ({signal.Signals(-codes[0]).name})" if codes[0] < 0 else f"ended with exit code {codes[0]}"


def end_workers(batches: Any) -> None:
    """Ends the processes of an iterator over batches, where it has any."""
    end = getattr(batches, "_shutdown_workers", None)
    if end is not None:
        end()
