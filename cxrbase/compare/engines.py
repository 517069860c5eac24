"""Engines that run cells: processes on this machine, tasks on a Ray cluster, or an array job of Slurm."""

import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from cxrbase.compare.board import FAILURE, RESULT, Place
from cxrbase.compare.machine import Machine
from cxrbase.compare.run_cell import run, settle, start, stop
from cxrbase.compare.slurm import submit
from cxrbase.errors import ConfigError

Engine = Literal["local", "ray", "slurm"]
Tick = Callable[[], None]

logger = logging.getLogger(__name__)
_PAUSE_S = 0.5


def execute(
    places: Sequence[Place],
    *,
    engine: Engine,
    jobs: int | None,
    tick: Tick,
    slurm: Mapping[str, Any] | None = None,
) -> None:
    """Runs every cell that has no result, and returns when all have a result or a failure.

    Args:
        places: All cells, in the order they are started.
        engine: Where they run.
        jobs: Cells at once; None takes one per GPU, or one per CPU core. Ray and Slurm hold as many as they can.
        tick: Called about twice a second, to show how things stand.
        slurm: Parameters of submitit in place of those found.
    """
    open_ones = [place for place in places if not (place.folder / RESULT).is_file()]
    if engine == "local":
        # The share of all, so that a cell that is run later has the same cores as the others had.
        _local(open_ones, Machine(jobs, len(places)), tick)
    elif engine == "ray":
        _ray(open_ones, tick)
    else:
        _slurm(open_ones, slurm or {}, tick)


def _local(places: Sequence[Place], machine: Machine, tick: Tick) -> None:
    waiting = list(places)
    for place in places:
        machine.check(place.cell)
    running: list[tuple[Place, dict[str, str], subprocess.Popen[bytes]]] = []
    try:
        while waiting or running:
            # In order: one that needs several GPUs is not passed by those that need one.
            while waiting and (share := machine.take(waiting[0].cell)) is not None:
                place = waiting.pop(0)
                running.append((place, share, start(place.folder, share)))
            tick()
            time.sleep(_PAUSE_S)
            for entry in [entry for entry in running if entry[2].poll() is not None]:
                running.remove(entry)
                machine.give_back(entry[1])
                settle(entry[0].folder, entry[2].returncode)
    finally:
        stop([process for _, _, process in running])
        tick()


def _ray(places: Sequence[Place], tick: Tick) -> None:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("the engine ray needs the package ray: pip install 'cxrbase[ray]'") from error
    if not ray.is_initialized():
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    largest = max((node.get("GPU", 0) for node in nodes), default=0)
    # A task whose node dies is tried elsewhere; a cell that is done by then is left alone by `run`.
    task: Any = ray.remote(max_retries=-1)(run)
    pending = {}
    for place in places:
        if largest and place.cell.gpus > largest:
            logger.warning("%s waits for a node of %d GPUs: none has more than %d", place.cell.title, place.cell.gpus,
                           largest)  # fmt: skip
        needs = {"num_cpus": place.cell.devices, "num_gpus": place.cell.gpus if largest else 0}
        pending[task.options(**needs).remote(str(place.folder.resolve()), home=os.getcwd())] = place
    try:
        while pending:
            done, _ = ray.wait(list(pending), timeout=_PAUSE_S)
            tick()
            for reference in done:
                _take(partial(ray.get, reference), pending.pop(reference), ray.exceptions.RayError)
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)


def _slurm(places: Sequence[Place], options: Mapping[str, Any], tick: Tick) -> None:
    if not places:
        return
    jobs = submit(places, places[0].folder.parent.parent / "jobs", options)
    try:
        for _ in _until(lambda: all(job.done() for job, _ in jobs)):
            tick()
    finally:
        for job, _ in jobs:
            if not job.done():
                job.cancel()
    from submitit.core.utils import UncompletedJobError

    for job, place in jobs:
        _take(job.result, place, UncompletedJobError)


def _until(over: Callable[[], bool]) -> Iterator[None]:
    while not over():
        yield
        time.sleep(_PAUSE_S)


def _take(result: Callable[[], Any], place: Place, lost: type[Exception]) -> None:
    """Takes a task's end; one that was lost with its machine is a failed cell."""
    try:
        result()
    except lost as error:
        logger.warning("%s was lost: %s", place.cell.title, " ".join(str(error).split())[:200])
        if not (place.folder / FAILURE).is_file():
            settle(place.folder, -9)
