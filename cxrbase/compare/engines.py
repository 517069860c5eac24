"""Where cells run: processes on this machine, tasks on a Ray cluster, or an array job of Slurm; with the same files."""

import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch

from cxrbase.compare.board import FAILURE, RESULT, Place
from cxrbase.compare.run_cell import run, settle, start, stop
from cxrbase.cores import available_cores
from cxrbase.errors import ConfigError

Engine = Literal["local", "ray", "slurm"]
Tick = Callable[[], None]

logger = logging.getLogger(__name__)
_PAUSE_S = 0.5


def execute(places: Sequence[Place], *, engine: Engine, jobs: int | None, tick: Tick) -> None:
    """Runs every cell that has no result, and returns when all have a result or a failure.

    Args:
        places: All cells, in the order they are started.
        engine: Where they run.
        jobs: Cells at once; None takes one per GPU, or one per two CPU cores. Ray and Slurm hold as many as they can.
        tick: Called about twice a second, to show how things stand.
    """
    open_ones = [place for place in places if not (place.folder / RESULT).is_file()]
    if engine == "local":
        _local(open_ones, slots(jobs), tick)
    elif engine == "ray":
        _ray(open_ones, tick)
    else:
        _slurm(open_ones, tick)


def slots(jobs: int | None) -> list[dict[str, str]]:
    """Environment of each place where a cell can run on this machine."""
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs must be at least 1, got {jobs}")
    gpus = torch.cuda.device_count()
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": str(number % gpus)} for number in range(jobs or gpus)]
    cores = available_cores()
    count = jobs or max(1, cores // 2)
    # Whoever set a number of threads knows of limits that cannot be seen here, such as a container's.
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // count))
    return [{"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}] * count


def _local(places: Sequence[Place], free: list[dict[str, str]], tick: Tick) -> None:
    waiting, free = list(places), list(free)
    running: list[tuple[Place, dict[str, str], subprocess.Popen[bytes]]] = []
    try:
        while waiting or running:
            while waiting and free:
                place, slot = waiting.pop(0), free.pop(0)
                running.append((place, slot, start(place.folder, slot)))
            tick()
            time.sleep(_PAUSE_S)
            for entry in [entry for entry in running if entry[2].poll() is not None]:
                running.remove(entry)
                free.append(entry[1])
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
    gpus = 1 if ray.cluster_resources().get("GPU") else 0  # type: ignore[no-untyped-call]
    # A task whose node dies is tried elsewhere; a cell that is done by then is left alone by `run`.
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=-1)(run)
    pending = {task.remote(str(place.folder.resolve())): place for place in places}
    try:
        while pending:
            done, _ = ray.wait(list(pending), timeout=_PAUSE_S)
            tick()
            for reference in done:
                _take(partial(ray.get, reference), pending.pop(reference), ray.exceptions.RayError)
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)


def _slurm(places: Sequence[Place], tick: Tick) -> None:
    try:
        import submitit
    except ImportError as error:
        raise ConfigError("the engine slurm needs the package submitit: pip install 'cxrbase[slurm]'") from error
    if not places:
        return
    # Without Slurm on this machine submitit runs the jobs here, as processes.
    executor = submitit.AutoExecutor(folder=str(places[0].folder.parent.parent / "jobs"))
    executor.update_parameters(name="cxrbase-compare", timeout_min=60 * 24, slurm_gpus_per_node=1, cpus_per_task=8)
    if executor.cluster != "slurm":
        executor.update_parameters(gpus_per_node=0, cpus_per_task=1)
    jobs = dict(zip(executor.map_array(run, [str(p.folder.resolve()) for p in places]), places, strict=True))
    try:
        for _ in _until(lambda: all(job.done() for job in jobs)):
            tick()
    finally:
        for job in jobs:
            if not job.done():
                job.cancel()
    for job, place in jobs.items():
        _take(job.result, place, submitit.core.utils.UncompletedJobError)


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
