"""Where the curves of a run are written."""

from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger

# What is logged is on disk after so many seconds, to be looked at while a run goes on. It also bounds how long a run
# may take to end after Ctrl-C: where that strikes within Condition.notify of the writer's queue, a dead entry stays in
# the list of waiters and swallows the notice to end, and the writer sleeps until its next flush (else 2 minutes).
FLUSH_S = 5


def curves(run_dir: str | Path) -> TensorBoardLogger:
    """A TensorBoard logger that writes into the folder of a run itself."""
    return TensorBoardLogger(run_dir, name="", version="", default_hp_metric=False, flush_secs=FLUSH_S)
