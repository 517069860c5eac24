"""Refuses settings of the trainer under which a run would fail late, or train otherwise than it says."""

import re

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
