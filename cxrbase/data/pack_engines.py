"""Runs blocks on this machine's processes or on a Ray cluster; both give the same files."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from cxrbase.data.pack_block import BlockRecord, BlockTask, pack_block
from cxrbase.errors import ConfigError, ShardError

if TYPE_CHECKING:
    import ray

# A node may die more than once under the same block on spot machines.
_RETRIES = 20


def run_local(tasks: Iterable[BlockTask], *, jobs: int) -> Generator[BlockRecord, None, None]:
    """Packs blocks in `jobs` processes, in this one where it is 1; records come as they are done.

    Raises:
        ShardError: The output cannot be written, or a process was killed.
    """
    if jobs == 1:
        yield from map(pack_block, tasks)
        return
    # Forked processes inherit locks that threads of libraries hold.
    context = multiprocessing.get_context("spawn")
    # Nothing is ever sent: the pipe breaks when this process closes its end or dies.
    lifeline, own_end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(lifeline,))
    waiting: set[Future[BlockRecord]] = set()
    try:
        for task in tasks:
            waiting.add(pool.submit(pack_block, task))
            # Two for each process, because the tables of all blocks together are large.
            if len(waiting) >= 2 * jobs:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
        pool.shutdown()
    except BrokenProcessPool as error:
        raise ShardError(
            "a process that packs was killed, possibly out of memory: run the same command again with fewer "
            "--jobs, it goes on where it stopped"
        ) from error
    finally:
        own_end.close()
        pool.shutdown(cancel_futures=True)
        lifeline.close()


def run_ray(tasks: Iterable[BlockTask]) -> Generator[BlockRecord, None, None]:
    """Packs blocks on the Ray cluster of RAY_ADDRESS, or the one that this machine is part of.

    A block whose node died is done again on another. All nodes must see the originals and the output.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster.
        ShardError: The output cannot be written.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'cxrbase[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"no Ray cluster ({' '.join(str(error).split())[:150]}): start one with `ray start --head`, or set "
                "RAY_ADDRESS to one"
            ) from error
    work = ray.remote(num_cpus=1, max_retries=_RETRIES)(pack_block)
    waiting: list[ray.ObjectRef[BlockRecord]] = []
    try:
        for task in tasks:
            waiting.append(work.remote(task))
            # Asked each time, because a cluster grows and shrinks.
            resources: dict[str, Any] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            while len(waiting) >= max(2, 2 * int(resources.get("CPU", 1))):
                record, waiting = _next(waiting)
                yield record
        while waiting:
            record, waiting = _next(waiting)
            yield record
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)


def _next(waiting: list["ray.ObjectRef[BlockRecord]"]) -> tuple[BlockRecord, list["ray.ObjectRef[BlockRecord]"]]:
    import ray

    done, waiting = ray.wait(waiting, num_returns=1)
    try:
        return ray.get(done[0]), waiting
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ShardError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise ShardError(
            f"Ray lost a block for good ({' '.join(str(error).split())[:150]}): run the same command again, it goes on "
            "where it stopped"
        ) from error


def _start_worker(lifeline: Connection) -> None:
    import cv2

    # Processes are as many as cores, and Ctrl-C is the parent's to answer.
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()


def _end_with_parent(lifeline: Connection) -> None:
    """Ends this process when its parent was killed or gives up; a block that is lost is done again."""
    lifeline.poll(None)
    os._exit(1)
