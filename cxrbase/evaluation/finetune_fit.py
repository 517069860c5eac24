"""The fitting within fine-tuning: on one or several devices, a checkpoint after every epoch, the best epoch kept."""

import logging
import signal
import time
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
import timm
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from numpy.typing import NDArray

from cxrbase.batch_norm import share_batch_norm
from cxrbase.checkpoints import AtomicCheckpointIO
from cxrbase.curves import curves
from cxrbase.data.labelled import LabelledImages
from cxrbase.errors import ConfigError
from cxrbase.evaluation.classifier import Classifier, predict, validation_score
from cxrbase.evaluation.finetune_settings import FineTune
from cxrbase.progress_lines import ProgressLines, can_redraw
from cxrbase.run_lock import RunLock
from cxrbase.weights_fit import Encoder

logger = logging.getLogger(__name__)

CHECKPOINT = "last.ckpt"
# What may differ from the run that is gone on with: it does not touch the weights, only where they are fitted and how
# they are scored afterwards.
_FREE = ("num_workers", "cache_dir", "cache_gb", "accelerator", "resamples", "seen", "threshold")


class BestEpoch(Callback):
    """Scores validation after every epoch and keeps the weights of the best, the first on a tie.

    Args:
        truth: (V, K) labels of the validation images, NaN for classes that are not learnt.
        identity: What makes a run this one and no other; kept in checkpoints.
    """

    def __init__(self, truth: NDArray[Any], identity: dict[str, Any]) -> None:
        self.truth, self.identity = truth, identity
        self.score, self.epoch = float("-inf"), -1
        self.state: dict[str, torch.Tensor] = {}
        self._earlier_s, self._began = 0.0, time.monotonic()

    @property
    def wall_s(self) -> float:
        """Seconds of fitting so far, those of a run that was gone on with among them."""
        return self._earlier_s + time.monotonic() - self._began

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self._began = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Scores and logs; the first process does, as all have the same weights."""
        if not trainer.is_global_zero:
            return
        data: LabelledImages = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(pl_module, Classifier)
        logits = predict(pl_module, data.centre_batches(data.val_rows, device=pl_module.device)).logits
        score = validation_score(logits, self.truth)
        pl_module.log("val/score", score, prog_bar=True, rank_zero_only=True)
        if score > self.score or self.epoch < 0:
            self.score, self.epoch = score, trainer.current_epoch
            self.state = {name: value.detach().cpu().clone() for name, value in pl_module.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to choose as an undisturbed one does."""
        kept = {"score": self.score, "epoch": self.epoch, "weights": self.state, "identity": self.identity}
        return kept | {"wall_s": self.wall_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it up again."""
        self.score, self.epoch, self.state = state_dict["score"], state_dict["epoch"], state_dict["weights"]
        self._earlier_s = state_dict.get("wall_s", 0.0)  # checkpoints of earlier versions have none


def identity(settings: FineTune, encoder: dict[str, Any], splits: str, labels: str) -> dict[str, Any]:
    """What a run must share with the one it goes on with.

    Args:
        settings: How to fit.
        encoder: Description with its name and hash.
        splits: Checksum of who is in which split.
        labels: Checksum of the labels.
    """
    plain = {name: value for name, value in asdict(settings).items() if name not in _FREE}
    said = {f"--finetune.{name}": str(value) for name, value in plain.items()}
    return {"--encoder": encoder["hash"], "the splits": splits, "the labels": labels} | said


def fit_classifier(
    classifier: Classifier,
    data: LabelledImages,
    settings: FineTune,
    run_dir: Path,
    best: BestEpoch,
    *,
    checkpoint: Path | None = None,
) -> bool:
    """Fits and leaves the weights of the best epoch in the classifier.

    Args:
        classifier: Fresh.
        data: What to learn from and to choose by.
        settings: How.
        run_dir: Where `last.ckpt` and the log go.
        best: Chooses the epoch.
        checkpoint: Of a stopped run, to go on with.

    Returns:
        Whether this is the first process, which goes on alone.

    Raises:
        ConfigError: The checkpoint is none of fine-tuning, or of a run that differs.
    """
    if checkpoint is not None:
        refuse_other_run(checkpoint, best.identity)
    share_batch_norm(classifier.head)
    trainer = _trainer(settings, run_dir, best)
    try:
        trainer.fit(classifier, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as end:
        if not trainer.interrupted:
            raise
        # Lightning leaves by 0 after SIGTERM, which a scheduler takes for done, and by 1 after Ctrl-C.
        logger.warning("stopped in epoch %d; resume with --ckpt_path=%s", trainer.current_epoch + 1, run_dir)
        raise SystemExit(128 + (signal.SIGTERM if trainer.received_sigterm else signal.SIGINT)) from end
    if trainer.is_global_zero:
        classifier.load_state_dict(best.state)
    return bool(trainer.is_global_zero)


def refuse_other_run(checkpoint: Path, wanted: dict[str, Any]) -> None:
    """Raises a ConfigError where a checkpoint is of a run with another identity."""
    try:
        held = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)["callbacks"]["BestEpoch"]
        was = dict(held["identity"])
    except (RuntimeError, KeyError, TypeError, EOFError, OSError, ValueError, UnpicklingError) as error:
        raise ConfigError(f"{checkpoint} is not a checkpoint of fine-tuning, or is damaged: {error}") from error
    for name, value in wanted.items():
        if was.get(name) != value:
            raise ConfigError(
                f"{checkpoint} is of a run where {name} was {was.get(name)}, now it is {value}: use the same settings "
                "to go on, or leave --ckpt_path out to start a new run"
            )


def with_drop_path(encoder: Encoder, card: dict[str, Any], rate: float) -> Encoder:
    """The same network with stochastic depth, which has no weights."""
    network: Any = timm.create_model(card["timm_name"], pretrained=False, drop_path_rate=rate, **card["timm_args"])
    network.load_state_dict(encoder.state_dict())
    made: Encoder = network
    return made


def _trainer(settings: FineTune, run_dir: Path, best: BestEpoch) -> L.Trainer:
    # Under Lightning's own `save_last` nothing is written where no best is kept as well.
    last = ModelCheckpoint(
        run_dir, filename=Path(CHECKPOINT).stem, save_on_train_epoch_end=True, enable_version_counter=False
    )
    bar = can_redraw()
    return L.Trainer(
        max_epochs=settings.epochs,
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy="ddp" if settings.devices > 1 else "auto",
        use_distributed_sampler=False,
        precision=settings.precision or "32-true",  # type: ignore[arg-type]
        logger=curves(run_dir),
        callbacks=[RunLock(), best, *([] if bar else [ProgressLines()]), last],
        enable_progress_bar=bar,
        plugins=[AtomicCheckpointIO()],
        enable_model_summary=False,
        log_every_n_steps=10,
        default_root_dir=run_dir,
    )
