"""`cxrbase fit`: pretrains an encoder, or fits one to a task if a task file is given."""

from itertools import pairwise
from pathlib import Path

from cxrbase.config_files import read_config


def fit(words: list[str]) -> int:
    """Runs the one that the files ask for, and returns the exit code.

    Args:
        words: Words after `fit`.
    """
    if any(_is_task(path) for path in configs(words)):
        from cxrbase.finetune_cli import fit_task

        return fit_task(words)
    from cxrbase.training_cli import fit as pretrain

    return pretrain(words)


def configs(words: list[str]) -> list[Path]:
    """Files given by --config, in order."""
    after = [second for first, second in pairwise(words) if first in ("--config", "-c")]
    joined = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    return [Path(name) for name in (*after, *joined)]


def _is_task(path: Path) -> bool:
    """Whether a file has a section `task`; what is no file is left to the parser that it belongs to."""
    return path.is_file() and "task" in read_config(path)
