"""Reports a collapsed run, in which the network no longer tells images apart, with a remedy."""

import logging
from collections import deque
from typing import Any, Literal, NamedTuple

import lightning as L
from lightning.pytorch.callbacks import Callback

from cxrbase.callbacks.probe import FrozenProbe
from cxrbase.data.datamodule import CXRDataModule
from cxrbase.errors import CollapseError
from cxrbase.pretraining import Pretraining

logger = logging.getLogger(__name__)

# Each lies between healthy and collapsed runs of the tests: loss and entropy as shares of the loss of a network that
# says the same of every image (ln K for DINO), spread and rank as `feature_std` and `rankme` give them.
LOSS_WITHIN, ENTROPY_LOW, ENTROPY_HIGH, STD_LOW, RANK_LOW = 0.005, 0.01, 0.995, 0.01, 1.1

REMEDIES = {
    "constant loss": "lower --model.lr, lengthen --model.warmup, or raise data.batch_size",
    "uniform teacher": "lower teacher_temperature (0.04 to 0.07), or set centring: sinkhorn",
    "one prototype": "set centre_momentum below 1 or centring: sinkhorn, and raise momentum (0.99 or more) or "
    "teacher_temperature",
    "equal features": "lower --model.lr, lengthen --model.warmup, and for a teacher raise momentum (0.99 or more)",
    "one direction": "lower --model.lr, lengthen --model.warmup, and for a teacher raise momentum (0.99 or more)",
}


class Look(NamedTuple):
    """What is known of a run at one step; None where it does not apply.

    Attributes:
        loss: Of the last batch.
        same: Loss of a network that says the same of every image.
        entropy: Of the teacher's probabilities, in nats.
        std: Spread of the features, from 0.
        rank: RankMe of the features, from 1.
    """

    loss: float
    same: float | None = None
    entropy: float | None = None
    std: float | None = None
    rank: float | None = None


def symptoms(look: Look) -> dict[str, str]:
    """Signs of collapse by name, each with what was seen."""
    seen: dict[str, str] = {}
    if look.same is not None and abs(look.loss - look.same) < LOSS_WITHIN * look.same:
        seen["constant loss"] = f"the loss is {look.loss:.4g}, and {look.same:.4g} is saying the same of all images"
    if look.same is not None and look.entropy is not None:
        share = look.entropy / look.same
        told = f"the teacher's entropy is {look.entropy:.4g}, of at most {look.same:.4g}"
        if share > ENTROPY_HIGH:
            seen["uniform teacher"] = told
        elif share < ENTROPY_LOW:
            seen["one prototype"] = told
    if look.std is not None and look.std < STD_LOW:
        seen["equal features"] = f"the features' spread is {look.std:.2g}, of at most 1"
    if look.rank is not None and look.rank < RANK_LOW:
        seen["one direction"] = f"the features' RankMe is {look.rank:.3g}, and 1 is a single direction"
    return seen


class Collapse(Callback):
    """Watches loss, teacher and features, and warns of a collapse or stops the run.

    Args:
        on_collapse: "warn" once of each sign, or "stop" the run with an error; its last checkpoint stays.
        every_n_steps: Optimizer steps between two looks.
        patience: Looks in a row that must show a sign.
        after: Share of the run before which nothing is judged, in [0, 1): a run begins with much the same features for
            all images, which is not yet a collapse.
    """

    def __init__(
        self,
        on_collapse: Literal["warn", "stop"] = "warn",
        every_n_steps: int = 100,
        patience: int = 3,
        after: float = 0.1,
    ) -> None:
        if on_collapse not in ("warn", "stop"):
            raise ValueError(f"on_collapse must be warn or stop, got {on_collapse!r}")
        if every_n_steps < 1 or patience < 1:
            raise ValueError(f"every_n_steps and patience must be at least 1, got {every_n_steps} and {patience}")
        if not 0 <= after < 1:
            raise ValueError(f"after is a share of the run and must be in [0, 1), got {after}")
        self.on_collapse, self.every_n_steps, self.after = on_collapse, every_n_steps, after
        self.probe: FrozenProbe | None = None
        self._looks: deque[dict[str, str]] = deque(maxlen=patience)
        self._told: set[str] = set()
        self._step = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks now and then, on all ranks, so that they stop together."""
        step = trainer.global_step
        assert isinstance(pl_module, Pretraining)
        # With accumulation a step has several batches.
        if step == self._step or step % self.every_n_steps or pl_module.progress < self.after:
            return
        self._step = step
        self._looks.append(symptoms(self._look(trainer, pl_module)))
        for name, seen in self._lasting().items():
            if name not in self._told:
                self._told.add(name)
                logger.warning("step %d: collapse (%s): %s; %s", step, name, seen, REMEDIES[name])
        stop = self.on_collapse == "stop" and bool(self._told)
        if trainer.strategy.reduce_boolean_decision(stop, all=False):
            names = " and ".join(sorted(self._told)) or "seen by another process"
            remedies = "; ".join(REMEDIES[name] for name in sorted(self._told))
            raise CollapseError(f"stopped at step {step} by a collapse ({names}): {remedies}")

    def _lasting(self) -> dict[str, str]:
        """Signs of all the last looks."""
        looks = list(self._looks)
        if len(looks) < (self._looks.maxlen or 1):
            return {}
        return {name: seen for name, seen in looks[-1].items() if all(name in look for look in looks)}

    def _look(self, trainer: L.Trainer, pl_module: Pretraining) -> Look:
        logged, data = trainer.callback_metrics, trainer.datamodule  # type: ignore[attr-defined]
        images = data.batch_size * trainer.world_size if isinstance(data, CXRDataModule) else 0
        entropy = logged.get("train/teacher_entropy")
        features = self.probe.features if self.probe is not None else {}
        return Look(
            loss=float(logged["train/loss"]),
            same=pl_module.objective.indifferent_loss(images),
            entropy=None if entropy is None else float(entropy),
            std=features.get("features/std"),
            rank=features.get("features/rankme"),
        )
