"""`cxrbase fit --config experiments/task/<task>.yaml`: fits an encoder to a task, all in one run folder."""

import dataclasses
import importlib.util
import json
import logging
import os
import sys
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from cxrbase.answers import TrainingParser
from cxrbase.config_files import read_config
from cxrbase.data.images import Phantom
from cxrbase.errors import ConfigError
from cxrbase.evaluation.finetune import finetune
from cxrbase.evaluation.finetune_fit import CHECKPOINT
from cxrbase.evaluation.finetune_settings import FineTune
from cxrbase.evaluation.lateral_check import in_words
from cxrbase.evaluation.score_text import score_text
from cxrbase.evaluation.suite.figures import write_curves
from cxrbase.evaluation.suite.results import Result
from cxrbase.evaluation.task import Task
from cxrbase.evaluation.task_data import load_task_data
from cxrbase.fit_cli import configs
from cxrbase.models import load_model
from cxrbase.release.model_page import model_page
from cxrbase.release.package import read_licence
from cxrbase.release.run_facts import read_run
from cxrbase.training_cli import fit, found_precision, new_run_dir, quiet, refuse_used
from cxrbase.weights import load_any_encoder, short_name

logger = logging.getLogger(__name__)

_SHORT_EPOCHS = 30  # of the pretraining that stands in where there is no encoder: a minute or two on two cores


def fit_task(words: list[str]) -> int:
    """Runs `cxrbase fit` on a task file and prints a summary; returns the exit code.

    Args:
        words: Words after `fit`.
    """
    quiet()
    warnings.filterwarnings("ignore", message=".*`val_dataloader`.*")
    parser = _parser()
    config = parser.parse_args(words)
    made = parser.instantiate(config)
    task, settings = made.task, made.finetune
    licence = read_licence(made.licence) if made.licence else None
    run_dir, checkpoint = _place(made.run_dir, made.ckpt_path, f"{task.name}_{settings.protocol}")
    if (run_dir / "model").exists():
        raise ConfigError(f"{run_dir} holds a model already: set --run_dir to a new folder")
    data = load_task_data(task)
    data.check()
    if made.encoder is None and "RANK" in os.environ:
        raise ConfigError("name the encoder with --encoder when several processes start together")
    name = made.encoder or str(_own_encoder(task, configs(words), accelerator=settings.accelerator))
    logger.info("encoder %s", name)
    encoder, card = load_any_encoder(
        name, image_size=settings.image_size, patch_size=made.patch_size, mean=made.mean, std=made.std,
        seed=settings.seed,
    )  # fmt: skip
    if settings.precision is None:
        settings = dataclasses.replace(settings, precision=found_precision(settings.accelerator))
    run_dir.mkdir(parents=True, exist_ok=True)
    if _is_first_process():
        parser.save(config, run_dir / "config.yaml", overwrite=True)
    result = finetune(data, encoder, card, settings, run_dir, name=short_name(name), place=name, checkpoint=checkpoint)
    if result is None:
        return 0
    _describe(run_dir / "model", licence, name if card["format"] == "cxrbase" else None)
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning("no figures: matplotlib is not installed")
    else:
        write_curves([result], run_dir / "figures")
    print_result(result, run_dir, sys.stdout)
    return 0


def _describe(folder: Path, licence: tuple[str, str] | None, encoder: str | None) -> None:
    """Writes the card of a model, and the licence that was chosen for it, by name and text.

    Args:
        folder: The model's.
        licence: Name and text.
        encoder: The run that the encoder is of, or a file of it; None where it is of others.
    """
    if licence is not None:
        (folder / "LICENSE").write_text(licence[1], encoding="utf-8")
    place = Path(encoder or "")
    facts = read_run(place if place.is_dir() else place.parent) if encoder else None
    text = model_page(load_model(folder).card, licence=licence and licence[0], encoder=facts)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _place(run_dir: str | None, ckpt_path: str | None, name: str) -> tuple[Path, Path | None]:
    """The folder of the run, and the checkpoint to go on with; `--ckpt_path` is taken as pretraining takes it."""
    if ckpt_path == "last" and run_dir:
        ckpt_path = run_dir if (Path(run_dir) / CHECKPOINT).is_file() else None
    if not ckpt_path:
        refuse_used(run_dir)
        return Path(run_dir or new_run_dir(name)), None
    checkpoint = Path(ckpt_path) / CHECKPOINT if Path(ckpt_path).is_dir() else Path(ckpt_path)
    if not checkpoint.is_file():
        raise ConfigError(f"no checkpoint at {checkpoint}: give the folder of a stopped run with --ckpt_path")
    refuse_used(run_dir, resumed=checkpoint)
    return Path(run_dir or checkpoint.parent), checkpoint


def _is_first_process() -> bool:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def print_result(result: Result, run_dir: Path, stream: TextIO) -> None:
    """Writes a few lines about a result."""
    row = result.row
    counts = row["counts"]
    lines = [
        "",
        f"{row['task']['title']}: {row['protocol']} of {row['encoder']['name']}",
        f"  learnt from   {row['train_images']:,} images; epoch {row['best_epoch']} of "
        f"{row['settings']['epochs']} was best on {counts['val']['images']:,} validation images",
        f"  tested once   on {counts['test']['images']:,} images of {counts['test']['patients']:,} patients, "
        "95 % intervals over patients",
    ]
    for metric, title in (("auroc", "AUROC"), ("auprc", "AUPRC"), ("balanced_accuracy", "balanced acc."),
                          ("top1_accuracy", "top-1 acc."), ("ece", "calib. error")):  # fmt: skip
        if metric in row["metrics"]:
            lines.append(f"    {title:14}{score_text(row['metrics'][metric]['macro'])}")
    per_class = row["metrics"]["auroc"]["per_class"]
    if len(per_class) > 1:
        lines += [f"      {name:20} AUROC {score_text(value)}" for name, value in per_class.items()]
    lines.append(f"  laterals      {in_words(row['lateral_check'])}")
    lines += [f"  warning       {text}" for text in row["warnings"]]
    lines += [f"  {name:14}{run_dir / name}" for name in ("model", "results", "figures") if (run_dir / name).is_dir()]
    lines.append("")
    stream.write("\n".join(lines) + "\n")


def _parser() -> TrainingParser:
    parser = TrainingParser(
        prog="cxrbase fit", description="Fits an encoder to a task, given by a task file.", allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="Task file; several are layered.")
    parser.add_argument(
        "--encoder",
        type=str | None,
        default=None,
        help="Run folder, weight file or timm:<name>; by default, on the phantom, the newest in runs/ or a short one.",
    )
    parser.add_argument("--patch_size", type=int | None, default=None, help="Side of a patch; default the encoder's.")
    parser.add_argument("--mean", type=float | None, default=None, help="Mean the encoder expects, in [0, 1].")
    parser.add_argument("--std", type=float | None, default=None, help="Standard deviation the encoder expects.")
    parser.add_argument(
        "--run_dir", type=str | None, default=None, help="Folder of the run; by default a new one in runs/."
    )
    parser.add_argument(
        "--ckpt_path",
        type=str | None,
        default=None,
        help="Folder of a stopped run to go on with from its last whole epoch; `last` begins where there is none.",
    )
    parser.add_argument(
        "--licence",
        type=str | None,
        default=None,
        help="Of the model's weights, for its card: an SPDX name, or a file with the text.",
    )
    parser.add_class_arguments(Task, "task")
    parser.add_class_arguments(FineTune, "finetune")
    parser.add_argument(
        "--evaluate",
        type=dict[str, Any] | None,
        default=None,
        help="Section of the task file for `cxrbase evaluate`; not used here.",
    )
    return parser


def _own_encoder(task: Task, configs: list[Path], *, accelerator: str) -> Path:
    """The newest run on the phantom, or a short one made now; only for tasks of the phantom."""
    if task.data.phantom is None:
        raise ConfigError(f"task {task.name} is not of the phantom, so it needs an encoder: --encoder=runs/<run>")
    cards = sorted(Path("runs").glob("*/encoder.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for card in cards:
        if _is_of_phantom(card.with_name("config.yaml")):
            return card.parent
    return _pretrained(task.data.root, task.data.phantom, configs[0].parent.parent, accelerator=accelerator)


def _is_of_phantom(config: Path) -> bool:
    """Whether the settings of a run say that it made a phantom to learn from."""
    try:
        data = read_config(config).get("data")
    except ConfigError:
        return False
    return isinstance(data, dict) and data.get("phantom") is not None


def _pretrained(root: str, phantom: Phantom, experiments: Path, *, accelerator: str) -> Path:
    layers = ["base", "objective/mae", "size/tiny", "data/phantom", "recipe/mae_tiny"]
    if lacking := [layer for layer in layers if not (experiments / f"{layer}.yaml").is_file()]:
        raise ConfigError(f"no encoder: give one with --encoder, as {experiments} has no {lacking[0]}.yaml to make one")
    run_dir = Path(f"runs/short_mae_tiny_{datetime.now():%Y%m%d-%H%M%S}")
    logger.info("no encoder was given and runs/ has none: pretraining a short one in %s", run_dir)
    words = [f"--config={experiments / layer}.yaml" for layer in layers]
    words += [f"--data.root={root}", f"--data.phantom={json.dumps(dataclasses.asdict(phantom))}"]
    words += [f"--trainer.max_epochs={_SHORT_EPOCHS}", "--probe.enabled=false", "--figures.enabled=false"]
    # Further devices would each start this whole command and make an encoder of their own.
    words += [f"--trainer.accelerator={accelerator}", "--trainer.devices=1"]
    fit([*words, f"--run_dir={run_dir}"])
    return run_dir
