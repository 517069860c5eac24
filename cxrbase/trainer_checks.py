"""Refuses settings of the trainer under which a run would fail late, not train, or train otherwise than it says."""

import re
from collections.abc import Sequence
from typing import Any

import torch

from cxrbase.errors import ConfigError

# With Lightning's short names, which stand for them.
PRECISIONS = {"32-true": "32", "bf16-mixed": "bf16", "16-mixed": "16"}
_FLAT = re.compile("fsdp|deepspeed", re.IGNORECASE)
_SPREAD = (
    "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy "
    "--trainer.strategy.data_parallel_size=<number of all devices> --trainer.strategy.tensor_parallel_size=1 "
    "--trainer.strategy.save_distributed_checkpoint=false"
)


def refuse_precision(precision: object, *, option: str) -> None:
    """Refuses a precision in which weights are not float32, as images and losses are.

    Args:
        precision: As Lightning takes it; None is left to be chosen.
        option: What sets it.

    Raises:
        ConfigError: It is another one.
    """
    if precision is not None and str(precision) not in {*PRECISIONS, *PRECISIONS.values()}:
        raise ConfigError(
            f"{option} must keep weights in float32, got {str(precision)!r}: set it to {' or '.join(PRECISIONS)}"
        )


def refuse_strategy(strategy: object) -> None:
    """Refuses strategies that flatten weights, so that matrices are not told from biases, or write checkpoints apart.

    Args:
        strategy: Name or settings, as parsed.

    Raises:
        ConfigError: It is one of these: weight decay would be lost, the first score fail, or no run could be resumed.
    """
    name = str(getattr(strategy, "class_path", strategy))
    if _FLAT.search(name):
        raise ConfigError(
            f"--trainer.strategy must leave weights their shapes and a checkpoint one file, got {name!r}: set {_SPREAD}"
        )


def refuse_no_place(*, run_dir: str | None, root: str) -> None:
    """Refuses empty places, as of an unset variable of a shell, and a run folder that is not on this machine.

    Args:
        run_dir: Folder of the run; None for a new one.
        root: Folder of the images.

    Raises:
        ConfigError: One of them is such.
    """
    for option, place in (("--run_dir", run_dir), ("--data.root", root)):
        if place is not None and not place.strip():
            raise ConfigError(f"{option} is empty: give . for the current folder, or leave it out")
    if "://" in (run_dir or ""):
        raise ConfigError(f"--run_dir must be a folder on this machine, got {run_dir}: copy it there after the run")


def refuse_no_steps(trainer: Any) -> None:
    """Refuses settings of the trainer by which a run would have no step, or not the images that the stream deals.

    Args:
        trainer: Section `trainer` as parsed.

    Raises:
        ConfigError: One of them is such.
    """
    for name in ("max_steps", "max_epochs", "limit_train_batches", "accumulate_grad_batches"):
        if trainer[name] == 0:
            raise ConfigError(f"--trainer.{name}=0 leaves nothing to train: leave it out, or make it larger")
    if trainer.overfit_batches:
        raise ConfigError(
            f"--trainer.overfit_batches={trainer.overfit_batches} would replace the training stream: use "
            "--trainer.limit_train_batches for a short epoch"
        )


def refuse_devices(devices: Any, *, accelerator: str) -> None:
    """Refuses numbers of devices that a CPU, as one of them, cannot be.

    Args:
        devices: As Lightning takes it.
        accelerator: As Lightning takes it.

    Raises:
        ConfigError: The run is on a CPU, and it is neither `auto` nor a number above 0.
    """
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    if on_cpu and devices != "auto" and not (str(devices).isdigit() and int(devices) > 0):
        raise ConfigError(f"--trainer.devices on a CPU must be auto or a number of processes above 0, got {devices}")


def refuse_overwritten(words: Sequence[str]) -> None:
    """Refuses words for what another option or the run itself sets, as they would be without effect.

    Args:
        words: Of the command line.

    Raises:
        ConfigError: It names one.
    """
    options = [word.partition("=")[::2] for word in words]
    following = [*words[1:], ""]
    for (name, joined), after in zip(options, following, strict=True):
        if name in ("--checkpoint.dirpath", "--trainer.default_root_dir"):
            raise ConfigError(f"{name} is set by --run_dir: leave it out")
        if name in ("--checkpoint.save_last", "--weights_only") and (joined or after).lower() == "false":
            raise ConfigError(
                f"{name} is always true, as a run is resumed from last.ckpt and runs no code of it: leave it out"
            )
