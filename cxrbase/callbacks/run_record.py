"""Writes the results of a run: the encoder, how to prepare its input, and a summary."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

import cxrbase
from cxrbase.backbones import save_encoder
from cxrbase.callbacks.figures import Figures
from cxrbase.callbacks.probe import FrozenProbe
from cxrbase.callbacks.throughput import Throughput
from cxrbase.data.datamodule import CXRDataModule
from cxrbase.evaluation.image_groups import count_images
from cxrbase.pretraining import Pretraining
from cxrbase.sharding import is_sharded
from cxrbase.sizes import plain
from cxrbase.whole_files import written_whole

logger = logging.getLogger(__name__)


class RunRecord(Callback):
    """Writes encoder.safetensors, encoder.json and summary.json into the run folder when training ends.

    Args:
        throughput: Where images and seconds are counted.
        probe: Where frozen features are scored.
    """

    def __init__(self, throughput: Throughput, probe: FrozenProbe) -> None:
        self.throughput, self.probe = throughput, probe
        self._earlier_s, self._began = 0.0, time.monotonic()
        self._trained = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the wall clock."""
        self._began = time.monotonic()

    @property
    def wall_s(self) -> float:
        """Seconds of fitting, over all starts of the run."""
        return self._earlier_s + time.monotonic() - self._began

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves the last step, which periodic checkpoints may miss, and the encoder, before anything else can fail."""
        folder = Path(trainer.default_root_dir)
        # On all ranks, as some strategies gather here.
        trainer.save_checkpoint(folder / "last.ckpt", weights_only=False)
        assert isinstance(pl_module, Pretraining)
        encoder = pl_module.whole().encoder
        if trainer.is_global_zero:
            data: CXRDataModule = trainer.datamodule  # type: ignore[attr-defined]
            card = encoder_card(pl_module, data, images_seen=self.throughput.images, steps=trainer.global_step)
            save_encoder(encoder, folder, card)
        self._trained = True

    @rank_zero_only
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Says how to go on after an interrupt."""
        folder = Path(trainer.default_root_dir)
        if isinstance(exception, KeyboardInterrupt):
            kept = "" if (folder / "last.ckpt").is_file() else ", before the first checkpoint"
            logger.warning("stopped at step %d%s; resume with --ckpt_path=%s", trainer.global_step, kept, folder)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the summary; runs after every other callback has finished its own."""
        summary = Path(trainer.default_root_dir) / "summary.json"
        if not self._trained and trainer.strategy.broadcast(summary.is_file()):
            if trainer.is_global_zero:
                logger.warning(
                    "the run was finished already, at step %d: raise --trainer.max_epochs", trainer.global_step
                )
            return
        if not self._trained:
            self._finish(trainer, pl_module)
        assert isinstance(pl_module, Pretraining)
        if trainer.is_global_zero:
            content = json.dumps(self.summary(trainer, pl_module), indent=2, allow_nan=False)
            with written_whole(summary) as part:
                part.write_text(content + "\n")

    def _finish(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Does what follows the last step, which Lightning leaves out where a resumed run has no step left."""
        if trainer.is_global_zero:
            logger.info("all %d steps were done when the run was stopped: it is scored now", trainer.global_step)
        if not is_sharded(pl_module):
            # Lightning has moved it to the CPU by now, and what follows puts images on the device.
            pl_module.to(trainer.strategy.root_device)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RunRecord | FrozenProbe | Figures):
                callback.on_train_end(trainer, pl_module)

    def summary(self, trainer: L.Trainer, pl_module: Pretraining) -> dict[str, Any]:
        """Everything about the run in plain numbers and words."""
        folder, count = Path(trainer.default_root_dir), self.throughput
        data: CXRDataModule = trainer.datamodule  # type: ignore[attr-defined]
        return {
            "objective": pl_module.objective_name,
            "backbone": pl_module.backbone_name,
            "backbone_options": pl_module.backbone_options,
            "parameters": sum(p.numel() for p in pl_module.encoder.parameters()),
            "image_size": plain(pl_module.image_size),
            "images_seen": count.images,
            "steps": trainer.global_step,
            "epochs": trainer.fit_loop.epoch_progress.current.ready,
            "wall_s": round(self.wall_s, 2),
            "images_per_s": round(count.images_per_s, 2),
            "data_wait_fraction": round(count.data_wait_fraction, 5),
            "loss_first": count.loss_first,
            "loss_last": count.loss_last,
            "precision": trainer.precision,
            "device": str(trainer.strategy.root_device),
            "devices": trainer.world_size,
            "data": count_images(data.manifest, data.stream.sampler.source.rows),
            "probe": self.probe.summary(),
            "encoder": str(folder / "encoder.safetensors"),
            "config": str(folder / "config.yaml"),
            "version": cxrbase.__version__,
        }

    def state_dict(self) -> dict[str, Any]:
        """Seconds so far."""
        return {"wall_s": self.wall_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the clock up again."""
        self._earlier_s = state_dict["wall_s"]


def encoder_card(module: Pretraining, data: CXRDataModule, *, images_seen: int, steps: int) -> dict[str, Any]:
    """What encoder.json says of an encoder.

    Args:
        module: Whose encoder it is.
        data: How its images were prepared.
        images_seen: Images that it was trained on, repetitions counted.
        steps: Optimizer steps.
    """
    arguments = {"in_chans": 1, "num_classes": 0, "img_size": plain(module.image_size), **module.backbone_options}
    return {
        "timm_name": module.backbone_name,
        "timm_args": arguments,
        "image_size": plain(module.image_size),
        "mean": data.mean,
        "std": data.std,
        "intensity": data.intensity,
        **data.store.reading.values(),
        "view": "largest central part of the input's shape, antialiased bilinear, then (x / 255 - mean) / std",
        "features": "class token and mean of the patch tokens of forward_features",
        "objective": module.objective_name,
        "images_seen": images_seen,
        "steps": steps,
        "version": cxrbase.__version__,
    }
