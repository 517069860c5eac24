"""The progress bar of a run: what Lightning shows, in a line that fits."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from cxrbase.callbacks.step_times import PHASES

_LABELS = {"train/loss": "loss", "train/images_per_s": "images/s"}


class StepBar(RichProgressBar):
    """Shows the loss, images/s, and each phase's share of a step in per cent, such as wait 1 fwd 33 bwd 61.

    Phases below half a per cent are left out.
    """

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Lightning's metrics under short names, the phases joined."""
        found: dict[str, Any] = super().get_metrics(trainer, pl_module)
        phases = {short.rstrip("%"): found.pop(short) for short in PHASES.values() if short in found}
        shown = {_LABELS.get(name, name): value for name, value in found.items() if name != "v_num"}
        if "images/s" in shown:
            shown["images/s"] = f"{shown['images/s']:,.0f}"
        if phases:
            shown["%"] = " ".join(f"{name} {share:.0f}" for name, share in phases.items() if round(share))
        return shown
