"""What the clock of a training step costs: blocks of steps with and without it, in turn, in one run.

    OMP_NUM_THREADS=1 python benchmarks/clock.py

A run of `cxrbase fit`'s module, data and callback on images of noise, in which every second block of steps has the
clock and its logging switched off. The ratio of two neighbouring blocks holds the noise of the machine; `marks` is
the time of the clock's own calls, measured beside it, which does not.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from _record import headline, save, spread, table
from jsonargparse import auto_cli
from PIL import Image
from throughput import settings

from cxrbase.callbacks.step_times import StepTimes
from cxrbase.clock import StepClock
from cxrbase.compare.cost import build

MARKS = 9  # calls of a step: between, copy, views, forward, backward, optimiser, teacher and two to spare
GOAL = 0.01


class EverySecondBlock(StepTimes):
    """Switches itself off and on, and times the blocks."""

    def __init__(self, steps: int) -> None:
        super().__init__(every_n_steps=20)
        self.steps = steps
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self._began = 0.0
        # Of the process alone, because others may share the machine; a GPU has a time of its own.
        self.now = time.perf_counter if torch.cuda.is_available() else time.process_time

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Ends a block where it is full."""
        if trainer.global_step % self.steps == 0:
            now = self.now()
            if trainer.global_step:
                self.seconds[self.enabled].append((now - self._began) / self.steps)
                self.enabled = not self.enabled
                self.clock = pl_module.clock = StepClock()  # type: ignore[assignment]
                if self.enabled:
                    self.clock.start(pl_module.device)
            self._began = self.now()
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)


def write_images(folder: Path, count: int = 400, side: int = 128) -> None:
    """Images of noise, enough for several steps an epoch."""
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (side, side), np.uint8)).save(folder / f"{number:04}.png")


def marks_s(device: torch.device, repeats: int = 2000) -> float:
    """Seconds that a step's marks and their summing up take."""
    clock, rounds = StepClock(), []
    clock.start(device)
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(repeats):
            for _ in range(MARKS):
                clock.mark("forward")
            clock.spent()
        rounds.append((time.perf_counter() - start) / repeats)
    return statistics.median(rounds)


def clock_cost(
    objective: str = "mae", size: str = "tiny", batch_size: int = 64, block: int = 20, blocks: int = 24, out: str = ""
) -> None:
    """Measures and writes JSON.

    Args:
        objective: mae, dino or simclr.
        size: Name in experiments/size; the smaller, the more the clock weighs.
        batch_size: Images a step.
        block: Steps of a block.
        blocks: Blocks; the first pair does not count.
        out: JSON to write; "" takes benchmarks/results/clock_<device>.json.
    """
    given = settings(objective, size)
    timer = EverySecondBlock(block)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with tempfile.TemporaryDirectory() as folder:
        given["data"] |= {"root": folder, "batch_size": batch_size}
        write_images(Path(folder))
        module, data = build(given)
        trainer = L.Trainer(
            accelerator="auto", devices=1, max_steps=block * (blocks + 1), max_epochs=-1, callbacks=[timer],
            default_root_dir=Path(folder), **quiet,
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
        device = module.device
    on, off = timer.seconds[True][1:], timer.seconds[False][1:]
    ratios = [with_ / without for with_, without in zip(on, off, strict=False)]
    marks, step = marks_s(device), spread(off)
    result = {
        "objective": objective, "size": size, "batch_size": batch_size, "goal": GOAL,
        "step_without_s": step, "step_with_s": spread(on), "ratio": spread(ratios),
        "marks_s": marks, "marks_share": marks / step["median"],
    }  # fmt: skip
    row = {
        "objective": objective,
        "size": size,
        "s a step": step["median"],
        "with / without": spread(ratios)["median"],
        "low": min(ratios),
        "high": max(ratios),
        "marks, share of a step": marks / step["median"],
        "goal": GOAL,
    }
    cost = headline(f"{objective} {size}, a step with the clock / without", row["with / without"], "", low=row["low"],
                    high=row["high"], goal="below 1.01")  # fmt: skip
    alone = headline(
        f"{objective} {size}, the clock's own calls / a step", marks / step["median"], "", goal="below 0.01"
    )
    result |= {"headlines": [cost, alone]}
    path = save(f"clock_{device.type}", {"table": [row]} | result, packages=("torch", "lightning"), out=out)
    print(table([row]), path, sep="\n")


if __name__ == "__main__":
    auto_cli(clock_cost, as_positional=False)
