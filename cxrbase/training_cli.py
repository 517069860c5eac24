"""`cxrbase fit`: Lightning's command line around `Pretraining` and `CXRDataModule`, all in one run folder."""

import logging
import os
import shutil
import sys
import warnings
from datetime import datetime
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from cxrbase.answers import TrainingParser, refuse_no_objective
from cxrbase.callbacks.collapse import Collapse
from cxrbase.callbacks.figures import Figures
from cxrbase.callbacks.probe import FrozenProbe
from cxrbase.callbacks.requeue import Requeue
from cxrbase.callbacks.run_record import RunRecord
from cxrbase.callbacks.step_bar import progress
from cxrbase.callbacks.step_checkpoint import StepCheckpoint
from cxrbase.callbacks.step_times import StepTimes
from cxrbase.callbacks.summary import print_summary
from cxrbase.callbacks.throughput import Throughput
from cxrbase.checkpoints import AtomicCheckpointIO
from cxrbase.curves import curves
from cxrbase.data.datamodule import CXRDataModule
from cxrbase.errors import ConfigError, CXRBaseError
from cxrbase.pretraining import Pretraining
from cxrbase.run_lock import LOCK, RunLock
from cxrbase.trainer_checks import (
    refuse_devices,
    refuse_no_place,
    refuse_no_steps,
    refuse_overwritten,
    refuse_precision,
    refuse_strategy,
)

logger = logging.getLogger(__name__)

_RUN_DIR = "CXRBASE_RUN_DIR"  # from the first process to those that Lightning starts
_DESCRIPTION = (
    "Pretrains a Vision Transformer on chest radiographs. With a task file in --config it fits an encoder to the task "
    "instead, which has options of its own: cxrbase fit --config experiments/task/<task>.yaml --help."
)
_NAMED_BY_PATH = {"last", "best", "hpc", "registry"}


class CXRBaseCLI(LightningCLI):
    """Lightning's command line with a run folder, found precision, and checkpoints that must agree with settings."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run folder and the callbacks of every run, and writes shared values once."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder of everything a run leaves; by default a new one in runs/.",
        )
        parser.add_lightning_class_args(StepCheckpoint, "checkpoint")
        parser.add_lightning_class_args(Throughput, "throughput")
        parser.add_lightning_class_args(StepTimes, "step_times")
        parser.add_lightning_class_args(FrozenProbe, "probe")
        parser.add_lightning_class_args(Collapse, "collapse")
        parser.add_lightning_class_args(Figures, "figures")
        parser.link_arguments("data.image_size", "model.image_size")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=_seed)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=_seed)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only fitting: pretraining has no validation or test loop, frozen features are scored by a callback."""
        return {"fit": LightningCLI.subcommands()["fit"]}

    def _parse_ckpt_path(self) -> None:
        # Lightning would let the checkpoint's settings win over the ones given, in silence (its issue 21455).
        config = self.config[self.config.subcommand]
        path = config.get("ckpt_path")
        if path == "last" and config.get("run_dir"):
            # The one command that a scheduler can start again and again: it begins where there is no checkpoint.
            begun = (Path(config["run_dir"]) / "last.ckpt").is_file()
            path = config["ckpt_path"] = config["run_dir"] if begun else None
        elif path == "last":
            raise ConfigError("--ckpt_path=last needs --run_dir, the folder whose last checkpoint is meant")
        if not path:
            refuse_used(config.get("run_dir"))
        if not path or path in _NAMED_BY_PATH:
            return
        checkpoint = Path(path) / "last.ckpt" if Path(path).is_dir() else Path(path)
        # Only where the run was to be taken up in its own folder: elsewhere its weights are what is asked for.
        own = config.get("run_dir") is None or Path(config["run_dir"]).resolve() == Path(path).resolve()
        if own and (Path(path) / "config.yaml").is_file() and holds_settings_alone(Path(path)):
            logger.warning("%s was stopped before its first checkpoint: it begins anew", path)
            config["ckpt_path"], config["run_dir"] = None, path
            return
        if not checkpoint.is_file():
            raise ConfigError(f"no checkpoint at {checkpoint}: give a run folder or its last.ckpt with --ckpt_path")
        config["ckpt_path"] = str(checkpoint)
        if config.get("run_dir") is None:
            config["run_dir"] = str(checkpoint.parent)
        refuse_used(config["run_dir"], resumed=checkpoint)
        refuse_mismatch(checkpoint, config["model"].as_dict())

    def before_instantiate_classes(self) -> None:
        """Refuses what no run can be made with, and fills in what depends on the machine and the moment."""
        config = self.config[self.config.subcommand]
        refuse_no_objective(config.model.objective)
        refuse_no_place(run_dir=config.run_dir, root=config.data.root)
        refuse_no_steps(config.trainer)
        refuse_devices(config.trainer.devices, accelerator=str(config.trainer.accelerator))
        refuse_precision(config.trainer.precision, option="--trainer.precision")
        refuse_strategy(config.trainer.strategy)
        if config.run_dir is None:
            objective = str(config.model.objective.class_path).rsplit(".", 1)[-1].lower()
            config.run_dir = new_run_dir(f"{objective}_{config.model.backbone}")
        if config.trainer.precision is None:
            config.trainer.precision = found_precision(str(config.trainer.accelerator))
        # Unpickling can run code, and a checkpoint may come from anywhere.
        config.weights_only = True
        config.trainer.default_root_dir = config.run_dir
        config.checkpoint.dirpath = config.run_dir

    def before_fit(self) -> None:
        """Refuses views that do not fit, and tells the model whether its weights come from a checkpoint."""
        if isinstance(self.model, Pretraining):
            # Before the untrained network is scored, which would fail on such images without a word of advice.
            self.model.check(self.datamodule)
            self.model.resumed = bool(self.config_init[self.config_init.subcommand].ckpt_path)

    def _run_subcommand(self, subcommand: str) -> None:
        folder = Path(self.trainer.default_root_dir)
        fresh = not folder.exists()
        try:
            super()._run_subcommand(subcommand)
        except SystemExit as end:
            # Lightning leaves by exit(1) after Ctrl-C, which reads like a failure; after SIGTERM `Requeue` has its own.
            if self.trainer.interrupted and end.code == 1:
                raise SystemExit(130) from end
            raise
        except (CXRBaseError, MisconfigurationException, ValueError, OSError):
            if fresh and self.trainer.is_global_zero and self.trainer.global_step == 0:
                drop_refused(folder)
            raise

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Gives the trainer its log folder and the callbacks that belong to each other."""
        config = self.config_init[self.config_init.subcommand]
        if config.trainer.logger is None:
            kwargs["logger"] = curves(config.run_dir)
        kwargs["plugins"] = [*(config.trainer.plugins or []), AtomicCheckpointIO()]
        trainer = super().instantiate_trainer(**kwargs)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        found = {type(callback): callback for callback in callbacks}
        if RichProgressBar in found:
            callbacks[callbacks.index(found[RichProgressBar])] = progress(found[Throughput], found[StepTimes])
        found[Collapse].probe = found[FrozenProbe]
        # Checkpoints stay last, as Lightning has it; the record is written when all others are done.
        callbacks.insert(len(callbacks) - 1, Requeue())
        callbacks.insert(0, RunRecord(found[Throughput], found[FrozenProbe]))
        if trainer.loggers:
            callbacks.insert(0, LearningRateMonitor("step"))
        callbacks.insert(0, RunLock())  # before the settings of the run are written
        return trainer


def fit(words: list[str]) -> int:
    """Runs `cxrbase fit` and prints a summary.

    Args:
        words: Words after `fit`.

    Returns:
        The exit code.
    """
    quiet()
    refuse_overwritten(words)
    try:
        cli = CXRBaseCLI(
            Pretraining,
            CXRDataModule,
            args=["fit", *words],
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"prog": "cxrbase", "fit": {"description": _DESCRIPTION}},
            parser_class=TrainingParser,
        )
    except MisconfigurationException as error:
        raise ConfigError(str(error)) from error
    if cli.trainer.is_global_zero:
        print_summary(Path(cli.trainer.default_root_dir), sys.stdout)
    return 0


def found_precision(accelerator: str) -> str:
    """bf16-mixed where the GPU computes in it, 16-mixed on older ones, 32-true on a CPU."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def refuse_used(run_dir: str | None, *, resumed: Path | None = None) -> None:
    """Raises a ConfigError where a run would overwrite another one.

    Args:
        run_dir: Folder of the run; None for a new one.
        resumed: Checkpoint to go on from, whose own folder may be used.
    """
    if resumed is not None and run_dir and Path(run_dir).resolve() == resumed.parent.resolve():
        return
    if run_dir and (Path(run_dir) / "last.ckpt").is_file():
        raise ConfigError(
            f"{run_dir} holds a run already: go on with it by --ckpt_path={run_dir}, or set --run_dir to a new folder"
        )


def drop_refused(folder: Path) -> None:
    """Removes the folder of a run that was refused before its first step, where it holds nothing but settings."""
    if holds_settings_alone(folder):
        shutil.rmtree(folder, ignore_errors=True)


def holds_settings_alone(folder: Path) -> bool:
    """Whether a run left nothing in its folder that took work to make."""
    held = list(folder.iterdir()) if folder.is_dir() else []
    return all(path.name in ("config.yaml", "hparams.yaml", LOCK) or path.name.startswith("events.") for path in held)


def new_run_dir(name: str) -> str:
    """A folder in runs/ by name and moment, the same in all processes that Lightning starts for a run."""
    inherited = os.environ.get(_RUN_DIR) if "LOCAL_RANK" in os.environ else None
    if inherited is None and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError("the processes of a run must agree on its folder: set --run_dir")
    os.environ[_RUN_DIR] = inherited or f"runs/{name}_{datetime.now():%Y%m%d-%H%M%S}"
    return os.environ[_RUN_DIR]


def refuse_mismatch(checkpoint: Path, model: dict[str, Any]) -> None:
    """Compares what a checkpoint was trained with to what is asked for now.

    Args:
        checkpoint: A Lightning checkpoint of `Pretraining`.
        model: The model's settings as parsed.

    Raises:
        ConfigError: If the file is not a checkpoint, or a setting of the model differs.
    """
    try:
        held = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)["hyper_parameters"]
    except (RuntimeError, KeyError, TypeError, EOFError, OSError, ValueError, UnpicklingError) as error:
        raise ConfigError(f"{checkpoint} is not a checkpoint of cxrbase fit, or is damaged: {error}") from error
    # The seed is the stream's to compare, and how blocks are run changes no result.
    for key in sorted(
        set(held) & set(model) - {"seed", "compile", "recompute"},
        key=["objective", "backbone"].__contains__,
        reverse=True,
    ):
        was, now = _plain(held[key]), _plain(model[key])
        if was != now:
            option = "--data.image_size" if key == "image_size" else f"--model.{key}"  # the model is told by the data
            raise ConfigError(
                f"{checkpoint} was trained with {key} {was}, {option} says {now}: use the same settings to go "
                "on, or leave --ckpt_path out to start a new run"
            )


def _plain(setting: Any) -> Any:
    """A setting in the form that can be compared."""
    if isinstance(setting, dict) and "class_path" in setting:
        return {"class": setting["class_path"], **dict(setting.get("init_args") or {})}
    return list(setting) if isinstance(setting, tuple) else setting or None


def _seed(value: int | bool) -> int:
    return int(value)


def _useful(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning tells somebody who starts a run something."""
    text = record.getMessage()
    return not any(part in text for part in ("Tip:", "TPU available", "estimate number of stepping"))


def quiet() -> None:
    """Keeps known and harmless messages of Lightning off the screen."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_useful)
    # Each of these is known and harmless here, and would bury the progress bar.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*logging interval.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*overridden `transfer_batch_to_device`.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
    warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within Python.*")
