"""Runs cells as Slurm array jobs with submitit, one array for each number of GPUs a cell needs."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrbase.compare.board import Place
from cxrbase.compare.run_cell import run
from cxrbase.errors import ConfigError

# Lightning takes the one task of the job for the one device of a run, unless the job looks like an interactive one.
_OF_A_WORKER = {"SLURM_JOB_NAME": "interactive"}
_CORES_PER_GPU = 8


def submit(places: Sequence[Place], folder: Path, options: Mapping[str, Any]) -> list[tuple[Any, Place]]:
    """Submits cells, and returns each job with its cell.

    Args:
        places: The cells.
        folder: Where submitit keeps its files; on a file system that all nodes share.
        options: Parameters of submitit in place of those found here.
    """
    # All are made before the first is used, so that wrong options submit nothing.
    arrays = {gpus: executor_for(folder, gpus, options) for gpus in sorted({place.cell.gpus for place in places})}
    jobs = []
    for gpus, executor in arrays.items():
        own = [place for place in places if place.cell.gpus == gpus]
        folders = [str(place.folder.resolve()) for place in own]
        submitted = executor.map_array(run, folders, [_OF_A_WORKER] * len(own), [os.getcwd()] * len(own))
        jobs += list(zip(submitted, own, strict=True))
    return jobs


def executor_for(folder: Path, gpus: int, options: Mapping[str, Any]) -> Any:
    """What submits cells that need some number of GPUs; without Slurm on this machine it runs them here.

    Raises:
        ConfigError: submitit is missing or does not know an option.
    """
    try:
        import submitit
    except ImportError as error:
        raise ConfigError("the engine slurm needs the package submitit: pip install 'cxrbase[slurm]'") from error
    executor = submitit.AutoExecutor(folder=str(folder))
    found = {"gpus_per_node": gpus, "cpus_per_task": _CORES_PER_GPU * gpus}
    if executor.cluster != "slurm":
        found = {"gpus_per_node": 0, "cpus_per_task": 1}
    try:
        executor.update_parameters(**{"name": "cxrbase-compare", "timeout_min": 60 * 24, **found, **options})
    except (NameError, ValueError, AssertionError) as error:
        raise ConfigError(f"--slurm takes parameters of submitit, got {dict(options)}: {_first(error)}") from error
    return executor


def _first(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "").strip()
