"""What the cells on this machine share: its GPUs, or its cores if it has none."""

import os
from collections.abc import Mapping, Sequence

import torch

from cxrbase.compare.plan import Cell
from cxrbase.cores import available_cores
from cxrbase.errors import ConfigError


class Machine:
    """Gives running cells their share.

    Args:
        jobs: Cells at once; None takes one per GPU, or one per core. More than there are GPUs share them.
        cells: Cells there are to run, among which the cores are shared; None for at least as many as jobs.
        gpus: The GPUs as CUDA_VISIBLE_DEVICES names them; None takes all that this process sees.
    """

    def __init__(self, jobs: int | None, cells: int | None = None, *, gpus: Sequence[str] | None = None) -> None:
        if jobs is not None and jobs < 1:
            raise ConfigError(f"jobs must be at least 1, got {jobs}")
        self.gpus = visible_gpus() if gpus is None else list(gpus)
        self.cores = available_cores()
        # Small networks gain little from a second core, and much of a cell's work is of one thread.
        asked = jobs or len(self.gpus) or self.cores
        self.jobs = self._left = asked if self.gpus or cells is None else max(1, min(asked, cells))
        places = -(-self.jobs // len(self.gpus)) if self.gpus else 0
        self._places = dict.fromkeys(self.gpus, places)

    def check(self, cell: Cell) -> None:
        """Raises a ConfigError where a cell needs more GPUs than there are."""
        if self.gpus and cell.gpus > len(self.gpus):
            raise ConfigError(
                f"{cell.title} asks for {cell.gpus} GPUs by trainer.devices, this machine has {len(self.gpus)}: ask "
                "for fewer, or run it elsewhere by --engine"
            )

    def take(self, cell: Cell) -> dict[str, str] | None:
        """Environment of a cell that may run now; None where it has to wait for another one's end."""
        free = sorted((gpu for gpu in self.gpus if self._places[gpu]), key=self._places.__getitem__, reverse=True)
        if not self._left or (self.gpus and len(free) < cell.gpus):
            return None
        self._left -= 1
        if not self.gpus:
            return self._threads(cell)
        for gpu in free[: cell.gpus]:
            self._places[gpu] -= 1
        return {"CUDA_VISIBLE_DEVICES": ",".join(free[: cell.gpus])}

    def give_back(self, environment: Mapping[str, str]) -> None:
        """Takes the share of a cell back that has ended."""
        self._left += 1
        for gpu in environment["CUDA_VISIBLE_DEVICES"].split(",") if self.gpus else ():
            self._places[gpu] += 1

    def _threads(self, cell: Cell) -> dict[str, str]:
        # Whoever set a number of threads knows of limits that cannot be seen here, such as a container's.
        asked = os.environ.get("OMP_NUM_THREADS")
        threads = asked or str(max(1, self.cores // self.jobs // cell.devices))
        return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


def visible_gpus() -> list[str]:
    """Every GPU that this process may use, by the name that it was given by."""
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]
