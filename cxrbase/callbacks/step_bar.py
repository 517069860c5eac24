"""The progress bar of a run: Lightning's content, on one line."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar

from cxrbase.callbacks.step_times import StepTimes
from cxrbase.callbacks.throughput import Throughput
from cxrbase.pretraining import Pretraining
from cxrbase.progress_lines import ProgressLines, can_redraw


class StepBar(RichProgressBar):
    """Shows the loss, images/s, and each phase's share of a step in per cent, such as wait 1 fwd 33 bwd 61.

    Phases below half a per cent are left out. All are numbers that the host has already, the loss that of the step
    before: what is logged for the bar, Lightning reads from the device after every batch.

    Args:
        throughput: Where images are counted.
        step_times: Where phases are timed.
    """

    def __init__(self, throughput: Throughput, step_times: StepTimes) -> None:
        super().__init__()
        self.throughput, self.step_times = throughput, step_times

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What is shown, by name."""
        found: dict[str, Any] = super().get_metrics(trainer, pl_module)
        found.pop("v_num", None)
        return found | facts(pl_module, self.throughput, self.step_times)


def facts(pl_module: L.LightningModule, throughput: Throughput, step_times: StepTimes) -> dict[str, Any]:
    """What the host knows of a run in progress, by name; nothing is read from the device."""
    found: dict[str, Any] = {}
    assert isinstance(pl_module, Pretraining)
    if (last := pl_module.report.last) is not None:
        found["loss"] = f"{last.loss:.3f}"
    if (recent := throughput.recent_per_s) is not None:
        found["images/s"] = f"{recent:,.0f}"
    if shares := step_times.shares:
        found["%"] = " ".join(f"{name} {share}" for name, share in shares.items() if share)
    return found


def progress(throughput: Throughput, step_times: StepTimes) -> Callback:
    """A bar where one can be drawn, and lines in the log of a job."""
    if can_redraw():
        return StepBar(throughput, step_times)
    return ProgressLines(lambda module: facts(module, throughput, step_times))
