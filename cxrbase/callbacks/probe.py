"""Scores the frozen encoder before and after pretraining, and watches its features for collapse in between."""

import copy
import logging
import time
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from timm.models.vision_transformer import VisionTransformer

from cxrbase.data.centre import Canvases
from cxrbase.data.datamodule import CXRDataModule
from cxrbase.errors import ManifestError
from cxrbase.evaluation.cohort import Cohort
from cxrbase.evaluation.features import extract_features
from cxrbase.evaluation.image_groups import groups_of
from cxrbase.evaluation.metrics import cluster_weights, feature_std, rankme
from cxrbase.evaluation.probe import Labelled, ProbeResult, compare, plain_result, result_of, run_probe
from cxrbase.evaluation.subgroups import subgroup_report
from cxrbase.pretraining import Pretraining

logger = logging.getLogger(__name__)


class FrozenProbe(Callback):
    """Linear probe and kNN on frozen features, for the network as it was before pretraining and after it.

    The control is the network with random weights, scored before a checkpoint is restored, so that a resumed run has it
    too. Where a run starts from other weights (`init_from`), what pretraining added is told by those, as they were
    loaded; their score is kept in checkpoints, because a resumed run may no longer have the file.

    Args:
        every_n_steps: Optimizer steps between two scores on the validation split in the curves; 0 for none.
        monitor_every: Optimizer steps between two looks at the features' rank and spread.
        monitor_images: Images looked at for rank and spread.
        limit: Largest number of images per split; evenly spaced ones are taken.
        resamples: Resampled patient sets for the intervals.
        test: Whether the test split is scored, before and after; without it there are the curves alone.
        enabled: Whether scores are computed at all.
    """

    def __init__(
        self,
        every_n_steps: int = 0,
        monitor_every: int = 100,
        monitor_images: int = 512,
        limit: int = 20000,
        resamples: int = 1000,
        test: bool = True,
        enabled: bool = True,
    ) -> None:
        least = {"every_n_steps": 0, "monitor_every": 1, "monitor_images": 2, "limit": 1, "resamples": 1}
        for name, value in zip(least, (every_n_steps, monitor_every, monitor_images, limit, resamples), strict=True):
            if value < least[name]:
                raise ValueError(f"{name} must be at least {least[name]}, got {value}")
        self.every_n_steps, self.monitor_every, self.monitor_images = every_n_steps, monitor_every, monitor_images
        self.limit, self.resamples, self.test, self.enabled = limit, resamples, test, enabled
        self.untrained: ProbeResult | None = None
        self.start: ProbeResult | None = None
        self.pretrained: ProbeResult | None = None
        # Linear probe of the pretrained network by group of patients, as of `subgroup_report`.
        self.subgroups: dict[str, Any] = {}
        # Rank and spread at the last look, by name.
        self.features: dict[str, float] = {}
        self._looked_at: Canvases | None = None
        self._tested = np.empty(0, np.int64)
        self._step = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Scores the network as it was initialised."""
        data: CXRDataModule = trainer.datamodule  # type: ignore[attr-defined]
        needed = ("train", "test" if self.test else "val")
        splits = {split: len(data.labelled_rows(split)) for split in needed}
        if self.enabled and not all(splits.values()):
            logger.warning("no labelled images in %s, so frozen features are not scored", splits)
            self.enabled = False
        if self.enabled and self.test and trainer.is_global_zero:
            encoder = copy.deepcopy(_encoder(pl_module)).to(trainer.strategy.root_device)
            self.untrained = self._score(trainer, encoder, "untrained")
            self.enabled = self.untrained is not None
            self._report(trainer, self.untrained, step=0)
        self.enabled = trainer.strategy.broadcast(self.enabled)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Scores the weights that a new run starts from, where they are not random."""
        assert isinstance(pl_module, Pretraining)
        scored = self.enabled and self.test
        if not scored or pl_module.init_from is None or trainer.ckpt_path:
            return
        encoder = _encoder(pl_module)
        if trainer.is_global_zero:
            encoder = copy.deepcopy(encoder).to(trainer.strategy.root_device)
            self.start = self._score(trainer, encoder, "start")
            self._report(trainer, self.start, step=0, prefix="start_probe")

    def state_dict(self) -> dict[str, Any]:
        """The score of the weights that the run started from, if there are any."""
        return {} if self.start is None else {"start": plain_result(self.start)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it up again; checkpoints of earlier versions have none."""
        if "start" in state_dict:
            self.start = result_of(state_dict["start"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes where a resumed run begins."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs feature rank and spread, and now and then scores on the validation split."""
        step = trainer.global_step
        # With accumulation a step has several batches.
        if step == self._step:
            return
        self._step = step
        look, score = step % self.monitor_every == 0, self.enabled and self._scores_at(trainer, step)
        encoder = _encoder(pl_module) if look or score else None
        if encoder is None or not trainer.is_global_zero:
            return
        if look:
            self._monitor(trainer, encoder)
        if score:
            result = self._score(trainer, encoder, "validation", test="val")
            self._report(trainer, result, step=step, prefix="val_probe")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Scores the pretrained network."""
        encoder = _encoder(pl_module)
        if not trainer.is_global_zero:
            return
        if trainer.global_step % self.monitor_every or not self.features:  # else looked at just now
            self._monitor(trainer, encoder)
        if self.enabled and self.test:
            self.pretrained = self._score(trainer, encoder, "pretrained")
            self.subgroups = self._by_group(trainer, self.pretrained) if self.pretrained else {}
            self._report(trainer, self.pretrained, step=trainer.global_step)

    def _scores_at(self, trainer: L.Trainer, step: int) -> bool:
        data: CXRDataModule = trainer.datamodule  # type: ignore[attr-defined]
        due = self.every_n_steps > 0 and step % self.every_n_steps == 0
        return due and len(data.labelled_rows("val")) > 0

    def summary(self) -> dict[str, Any] | None:
        """Scores before and after pretraining, and their paired difference, for summary.json.

        The difference is to what the run started from: to `start` where that is there, otherwise to `random_init`.
        """
        if self.untrained is None or self.pretrained is None:
            return None
        control = self.start or self.untrained
        if {self.untrained.test_key, control.test_key} != {self.pretrained.test_key}:
            logger.warning("frozen features are not compared: test images became unreadable during the run")
            return None
        scored = {"random_init": self.untrained, "start": self.start, "pretrained": self.pretrained}
        told = {name: result.to_dict() for name, result in scored.items() if result is not None}
        return {
            "metric": "macro_auroc",
            "classes": list(self.pretrained.classes),
            **{name: result.linear.value for name, result in scored.items() if result is not None},
            "n_train": self.pretrained.n_train,
            "n_test": self.pretrained.n_test,
            "linear": {name: result["linear"] for name, result in told.items()},
            "knn": {name: result["knn"] for name, result in told.items()},
            "subgroups": self.subgroups,
            "difference": {name: s.to_dict() for name, s in compare(self.pretrained, control).items()},
        }

    def _score(
        self, trainer: L.Trainer, encoder: VisionTransformer, name: str, test: str = "test"
    ) -> ProbeResult | None:
        """Scores of an encoder; None, with a warning, where what can be read of the splits allows none."""
        data: CXRDataModule = trainer.datamodule  # type: ignore[attr-defined]
        splits = [self._labelled(trainer, data, encoder, split, name) for split in ("train", "val", test)]
        train, val, tested = splits
        # Scoring the validation split itself leaves none to choose the regularisation on: train is split instead.
        chosen = val if test == "test" else Labelled(val.features[:0], val.labels[:0], val.patients[:0])
        try:
            return run_probe(train, chosen, tested, classes=data.classes, resamples=self.resamples, seed=data.seed)
        except ManifestError as error:
            logger.warning("frozen features are not scored: %s", error)
            return None

    def _by_group(self, trainer: L.Trainer, result: ProbeResult) -> dict[str, Any]:
        data: CXRDataModule = trainer.datamodule  # type: ignore[attr-defined]
        rows = self._tested
        test = Cohort(data.labels(rows), data.patients(rows), groups_of(data.manifest, rows))
        weights = cluster_weights(test.patients, resamples=self.resamples, seed=data.seed)
        return subgroup_report(result.linear_scores, test, weights, classes=result.classes)

    def _labelled(
        self, trainer: L.Trainer, data: CXRDataModule, encoder: VisionTransformer, split: str, name: str
    ) -> Labelled:
        device = trainer.strategy.root_device
        views = data.centre.batches(data.centre.few(data.labelled_rows(split), self.limit), device=device)
        features = extract_features(
            encoder, views, device=device, total=len(views), description=f"{name} {split} features"
        )
        if split == "test":
            self._tested = views.rows
        return Labelled(features, data.labels(views.rows), data.patients(views.rows))

    def _monitor(self, trainer: L.Trainer, encoder: VisionTransformer) -> None:
        data: CXRDataModule = trainer.datamodule  # type: ignore[attr-defined]
        began, device = time.perf_counter(), trainer.strategy.root_device
        if self._looked_at is None:
            # Read once, as they are the same at every look.
            self._looked_at = data.centre.canvases(data.centre.few(data.store.rows, self.monitor_images))
        if len(self._looked_at.rows) < 2:
            return
        views = data.centre.views(self._looked_at, device=device)
        features = extract_features(encoder, views, device=device, description="")
        self.features = {"features/rankme": rankme(features), "features/std": feature_std(features)}
        took = {"features/look_s": time.perf_counter() - began}
        self._log(trainer, self.features | took, trainer.global_step)

    def _report(self, trainer: L.Trainer, result: ProbeResult | None, *, step: int, prefix: str = "probe") -> None:
        if result is None:
            return
        metrics = {f"{prefix}/linear_macro_auroc": result.linear.value, f"{prefix}/knn_macro_auroc": result.knn.value}
        for name, value in result.linear.per_class.items():
            if value is not None:
                metrics[f"{prefix}_linear/{name}"] = value
        self._log(trainer, metrics, step)

    @staticmethod
    def _log(trainer: L.Trainer, metrics: dict[str, float], step: int) -> None:
        for log in trainer.loggers:
            log.log_metrics(metrics, step=step)


def _encoder(pl_module: L.LightningModule) -> VisionTransformer:
    """The whole encoder; all ranks must ask for it, as weights that are spread over devices are gathered."""
    assert isinstance(pl_module, Pretraining)
    return pl_module.whole().encoder
