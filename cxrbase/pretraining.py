"""Pretraining as one Lightning module for all objectives: a backbone, an objective and an optimiser."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cxrbase.accelerate import accelerate
from cxrbase.backbones import create_backbone
from cxrbase.batch_norm import share_batch_norm
from cxrbase.checkpoint_data import put_down, take_up
from cxrbase.clock import StepClock
from cxrbase.data.datamodule import CXRDataModule
from cxrbase.divergence import StepReport, all_finite, diverged
from cxrbase.errors import ConfigError, CXRBaseError
from cxrbase.joint_batch import count_next_epoch, deal_whole_steps, share_in_step
from cxrbase.objectives import MAE, Loss, Objective
from cxrbase.optim import cosine, param_groups, rest, scaled_lr, warmup_cosine
from cxrbase.ranges import check_range
from cxrbase.sharding import full_state, is_sharded, refuse_unfit, shard
from cxrbase.sizes import Size
from cxrbase.view_checks import check_sizes, check_views
from cxrbase.views import Views
from cxrbase.weights import initialise


class Pretraining(L.LightningModule):
    """Self-supervised pretraining of one Vision Transformer.

    Args:
        objective: The objective, made from the backbone.
        backbone: A timm ViT name.
        backbone_options: Further arguments of the timm model, such as {depth: 6}.
        image_size: Side, or [height, width], of a large view in pixels.
        drop_path: Stochastic depth rate of the last block.
        lr: Peak learning rate per 256 images; scaled once by batch x devices x accumulation.
        min_lr: Learning rate at the end, as a share of the peak.
        warmup: Share of the steps over which the learning rate rises from 0.
        weight_decay: AdamW's weight decay; biases, norms, embeddings and tokens have none.
        weight_decay_end: Weight decay at the end, reached along a cosine; None keeps it constant.
        betas: AdamW's moments; (0.9, 0.95) is MAE's.
        seed: Seed of masks and stochastic depth.
        init_from: Encoder to start from, in any form that `cxrbase.weights.load_any_encoder` takes except EVA-X and
            EVA-02; None starts anew.
        compile: Whether transformer blocks are compiled: True by inductor, or the name of a backend of torch.compile
            other than cudagraphs.
        recompute: Whether activations of blocks are computed again in the backward pass instead of kept.
    """

    def __init__(
        self,
        objective: Callable[[VisionTransformer], Objective] = MAE,
        backbone: str = "vit_small_patch16_224",
        backbone_options: dict[str, Any] | None = None,
        image_size: Size = 224,
        drop_path: float = 0.0,
        lr: float = 1.5e-4,
        min_lr: float = 0.0,
        warmup: float = 0.05,
        weight_decay: float = 0.05,
        weight_decay_end: float | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        seed: int = 0,
        init_from: str | None = None,
        compile: bool | str = False,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_range("(0, inf)", lr=lr)
        check_range("[0, 1]", min_lr=min_lr)
        check_range("[0, 1)", warmup=warmup, drop_path=drop_path)
        check_range("[0, inf)", weight_decay=weight_decay, weight_decay_end=weight_decay_end)
        self.lr, self.min_lr, self.warmup, self.betas, self.seed = lr, min_lr, warmup, betas, seed
        self.weight_decay, self.weight_decay_end = weight_decay, weight_decay_end
        self.backbone_name, self.image_size = backbone, image_size
        self.backbone_options = backbone_options or {}
        # Set by the command line, because the trainer does not tell before it restores.
        self.resumed = False
        self.drop_path, self.init_from = drop_path, init_from
        self.compiled, self.recompute, self.clock = compile, recompute, StepClock()
        self._make_objective = objective
        self.objective = self._made(self._backbone())
        self.report = StepReport()

    def setup(self, stage: str) -> None:
        """Starts from another encoder where one is given; a resumed run has its own weights instead."""
        if self.resumed:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.take_start(mean=data.mean, std=data.std)

    def take_start(self, *, mean: float, std: float) -> None:
        """Takes the weights of `init_from`, for images that are normalised with these; without them, stays as it is."""
        if self.init_from is None:
            return
        vit = self._backbone()
        initialise(vit, self.init_from, mean=mean, std=std)
        # Made again, because a teacher is a copy of the backbone that it was made with.
        self.objective = self._made(vit)

    def configure_model(self) -> None:
        """Spreads the weights over the devices where the strategy asks for it."""
        if self._trainer is None:  # `load_from_checkpoint` asks too
            return
        strategy = self.trainer.strategy
        if isinstance(strategy, ModelParallelStrategy) and not is_sharded(self.objective):
            mesh = strategy.device_mesh["data_parallel"]
            refuse_unfit(mesh.size(), self.trainer.world_size, several_files=strategy._save_distributed_checkpoint)
            shard(self.objective, mesh)

    def whole(self) -> Objective:
        """The objective with all its weights in this process.

        Where they are spread over devices, it is a copy, and all processes must ask for it together.
        """
        if not is_sharded(self.objective):
            return self.objective
        state = full_state(self.objective)
        with torch.random.fork_rng(devices=[]):
            copied = self._made(self._backbone())
        copied.load_state_dict(state)
        return copied.to(self.device).train(self.objective.training)

    @property
    def encoder(self) -> VisionTransformer:
        """The network to evaluate and to export."""
        return self.objective.encoder

    @property
    def progress(self) -> float:
        """Share of optimizer steps done, in [0, 1]."""
        return min(self.global_step / max(self.trainer.estimated_stepping_batches, 1), 1.0)

    def check(self, data: CXRDataModule) -> None:
        """Refuses views and batches that the objective cannot use; needs no image.

        Raises:
            ConfigError: If they do not fit.
        """
        check_views(self.objective, data, name=self.objective_name)
        check_sizes(self.encoder, data)

    def on_fit_start(self) -> None:
        """Refuses views and batches that the objective cannot use, before any step is spent."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, CXRDataModule):
            self.check(data)
        self._warn_of_coupling()
        accelerate(self.objective, compiled=self.compiled, recompute=self.recompute)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves a batch, and times it."""
        self.clock.mark("between")
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        self.clock.mark("copy")
        return moved

    def on_train_start(self) -> None:
        """Takes the learning rate of this run's schedule: a checkpoint holds that of its own, maybe shorter, one."""
        schedule = self.lr_schedulers()
        assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
        rates = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        for group, (base, multiplier) in zip(schedule.optimizer.param_groups, rates, strict=True):
            group["lr"] = base * multiplier(schedule.last_epoch)
        count_next_epoch(self.trainer)

    def training_step(self, batch: Views, batch_idx: int) -> dict[str, Tensor]:
        """Runs the objective and logs its loss."""
        # What is random in the step depends on the position alone, so that a resumed run draws the same.
        torch.manual_seed(hash((self.seed, self.current_epoch, batch_idx, self.global_rank)) & (2**63 - 1))
        loss, logs = self._loss(batch)
        share = share_in_step(self.trainer, batch_idx)
        self.report.add(loss * share / self.trainer.accumulate_grad_batches)
        # Not for the progress bar, for which Lightning would read it from the device after every batch.
        self.log("train/loss", loss.detach())
        self.log_dict({f"train/{name}": value for name, value in logs.items()})
        return {"loss": loss * share, "objective": loss.detach()}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Looks at the loss of the step before, as the device has all of this one to do now; lets weights rest."""
        self.refuse_infinite_loss()
        # Not before the gradients of all processes are reduced, which needs one of every weight.
        rest(optimizer, self.objective.resting(self.progress))

    def refuse_infinite_loss(self) -> None:
        """Stops the run, in all processes, where the loss of the last step was not finite.

        Raises:
            CXRBaseError: With the step, the learning rate and what to do.
        """
        seen = self.report.read()
        if seen is not None and not math.isfinite(seen.loss):
            raise self._diverged(f"the loss is {seen.loss}", seen.step, seen.lr)

    def refuse_infinite_weights(self) -> None:
        """Stops the run, in all processes, where what a checkpoint would hold is not finite in one of them.

        Raises:
            CXRBaseError: With the step, the learning rate and what to do.
        """
        states = [state for optimizer in self.trainer.optimizers for state in optimizer.state.values()]
        moments = [value for state in states for value in state.values()]
        finite = all_finite([*self.objective.state_dict().values(), *moments])
        if not self.trainer.strategy.reduce_boolean_decision(finite, all=True):
            lr = self.report.last.lr if self.report.last else self._current_lr()
            raise self._diverged("weights or their moments are not finite", self.global_step, lr)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps a bad step out of the last good checkpoint, and what others of its weights must share in this one."""
        self.refuse_infinite_loss()
        self.refuse_infinite_weights()
        put_down(checkpoint, self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on where the checkpoint was saved, with its images and its batch, however that is split now."""
        take_up(checkpoint, self._trainer, name=self.objective_name, coupled=self.objective.batch_coupled)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Steps the optimiser, then lets the objective update its teacher: once per optimizer step, not per batch."""
        if self.weight_decay_end is not None:
            decay = cosine(self.progress, start=self.weight_decay, end=self.weight_decay_end)
            self.optimizers().param_groups[0]["weight_decay"] = decay  # type: ignore[union-attr]
        super().optimizer_step(*args, **kwargs)
        self.clock.mark("optimiser")
        self.objective.after_step(self.progress)
        self.report.send(self.global_step, self._current_lr())
        self.clock.mark("teacher")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with warm-up and a cosine per step; the effective learning rate is printed."""
        deal_whole_steps(self.trainer)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        batch, devices = data.batch_size, self.trainer.world_size
        lr = scaled_lr(self.lr, batch_size=batch, devices=devices, accumulate=self.trainer.accumulate_grad_batches)
        rank_zero_info(
            f"learning rate {lr:.3g} = {self.lr:.3g} x {batch} images x {devices} devices x "
            f"{self.trainer.accumulate_grad_batches} accumulated / 256"
        )
        # A fused optimiser unscales gradients itself, so Lightning refuses to clip them, though bf16 has no scale.
        # Otherwise None and not False, as only then does torch update a GPU's weights together and not one by one.
        precision = self.trainer.precision
        fused = precision != "16-mixed" and not (precision == "bf16-mixed" and self.trainer.gradient_clip_val)
        groups = param_groups(self.objective, weight_decay=self.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=lr, betas=self.betas, fused=fused or None)
        total = self._steps()

        def multiplier(step: int) -> float:
            return warmup_cosine(min(step / total, 1.0), warmup=self.warmup, end=self.min_lr)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _steps(self) -> int:
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ConfigError(
                "the learning rate follows a cosine over the whole run, and nothing says how long that is: set "
                "--trainer.max_epochs or --trainer.max_steps; --trainer.max_time may end it sooner"
            )
        return int(steps)

    def _backbone(self) -> VisionTransformer:
        return create_backbone(
            self.backbone_name, image_size=self.image_size, drop_path=self.drop_path, options=self.backbone_options
        )

    def _made(self, vit: VisionTransformer) -> Objective:
        objective = self._make_objective(vit)
        share_batch_norm(objective)
        # Sharding puts a class of its own in place.
        self.objective_name = type(objective).__name__
        return objective

    def _loss(self, views: Views) -> Loss:
        result: Loss = self.objective(views, self.progress)
        return result

    def _current_lr(self) -> float:
        return float(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]

    def _diverged(self, seen: str, step: int, lr: float) -> CXRBaseError:
        folder = Path(self.trainer.default_root_dir)
        return diverged(seen, step=step, lr=lr, folder=folder, clip=self.trainer.gradient_clip_val)

    def _warn_of_coupling(self) -> None:
        if self.objective.batch_coupled and self.trainer.accumulate_grad_batches > 1:
            rank_zero_warn(
                f"{self.objective_name} compares the images of a batch with each other, so accumulated "
                "batches are not the same as one large batch: raise data.batch_size instead where memory allows"
            )
