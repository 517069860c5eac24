"""`cxrbase evaluate`: scores frozen encoders on tasks, all on identical splits, with the test split opened once."""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError

from cxrbase.data.manifest import Manifest
from cxrbase.errors import ConfigError
from cxrbase.evaluation.protocols import Protocol
from cxrbase.evaluation.suite.compare import compare_results, comparison_warnings
from cxrbase.evaluation.suite.feature_store import FeatureStore
from cxrbase.evaluation.suite.figures import write_figures
from cxrbase.evaluation.suite.results import Result, read_results, write_result
from cxrbase.evaluation.suite.score_task import Settings, score_task, splits_of
from cxrbase.evaluation.suite.seen import seen_by
from cxrbase.evaluation.task import read_sections, read_task
from cxrbase.evaluation.task_data import TaskData, load_task_data
from cxrbase.evaluation.task_images import open_images
from cxrbase.sizes import longest
from cxrbase.suggestions import SuggestingParser
from cxrbase.weights import load_any_encoder
from cxrbase.weights_fit import Encoder

logger = logging.getLogger(__name__)


def evaluate(words: list[str]) -> int:
    """Runs `cxrbase evaluate` with the words after it and returns the exit code."""
    parser = SuggestingParser(
        prog="cxrbase evaluate",
        description="Scores frozen encoders on tasks: neighbours, linear probe and few labels, on identical splits.",
        epilog="A setting of the task file is changed by --task.<name>=<value>, such as --task.data.root=/data/nih.",
    )
    parser.add_argument("--encoder", action="append", type=str, required=True, help=(
        "a run folder, a .safetensors or .pth file, or timm:<name> for an untrained network; may be given again, and "
        "<name>=<encoder> names it in the results"))  # fmt: skip
    parser.add_argument("--config", action="append", type=str, required=True, help=(
        "a task file, such as experiments/task/phantom.yaml; may be given again"))  # fmt: skip
    parser.add_argument("--out", type=str, default="runs/evaluate", help="folder for results, figures and features")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_class_arguments(
        Settings, "evaluate", help="how tasks are scored; what is given here goes before the task file's section"
    )
    changes, rest = _task_changes(words)
    given = {word.partition("=")[0] for word in rest}
    options = parser.parse_args(rest)
    out = Path(options.out)
    chosen = {one.name: options.evaluate[one.name] for one in fields(Settings) if f"--evaluate.{one.name}" in given}
    device = device_of(options.device)
    # Mistakes in any of them are found before hours are spent on the first.
    tasks = [(settings_of(config, chosen), read_task(config, changes=changes)) for config in options.config]
    encoders = _encoders(options.encoder)
    results: list[Result] = []
    for settings, task in tasks:
        data = load_task_data(task)
        found: list[Result] = []
        for encoder in encoders:
            found += score_encoder(encoder, data, settings, out=out, device=device)
        for path in write_figures(found, out / "figures"):
            logger.info("wrote %s", path)
        results += found
    differences = compare_results(results)
    for warning in comparison_warnings(differences):
        logger.warning(warning)
    (out / "comparisons.json").write_text(json.dumps(differences, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join([*_table(results), *_pairs(differences), f"rows: {out / 'results'}", ""]))
    return 0


@dataclass(frozen=True, eq=False)
class NamedEncoder:
    """An encoder to score.

    Args:
        name: What it is called in the results.
        place: Where it is from, as `load_any_encoder` takes it.
        network: The network.
        card: Its description.
    """

    name: str
    place: str
    network: Encoder
    card: dict[str, Any]


def score_encoder(
    encoder: NamedEncoder, data: TaskData, settings: Settings, *, out: Path, device: str = "cpu"
) -> list[Result]:
    """Scores one encoder on one task and writes its results; what an earlier run finished is taken from there.

    Args:
        encoder: The encoder.
        data: The task.
        settings: What to run.
        out: Folder with `results`, `features`, `fingerprints.parquet` and `canvas`.
        device: Where the encoder runs.
    """
    name, card = encoder.name, encoder.card
    images = open_images(data, size=2 * longest(card["image_size"]), cache_dir=out / "canvas", option="--out")
    splits, rows = splits_of(data, images.rows)
    store = FeatureStore(
        encoder.network, card, manifest=data.manifest, images=images, folder=out / "features", device=device
    )
    features = {split: store.features(own, name=f"{name} {split}") for split, own in rows.items()}
    test = Manifest(data.manifest.table.take(rows["test"]), data.manifest.root)
    prints, root = out / "fingerprints.parquet", data.task.data.root
    seen = seen_by(encoder.place, test, look=settings.seen, cache=prints, root=root)
    said = {"name": name, "hash": store.encoder_hash} | {
        key: card[key] for key in ("timm_name", "image_size", "mean", "std", "format", "objective", "images_seen")
        if key in card
    }  # fmt: skip
    task = data.task
    about = {
        "name": task.name, "title": task.title, "kind": task.kind, "classes": list(data.classes),
        "labels": data.label_counts, "label_checksum": data.label_checksum, "data_hash": store.data_hash,
        "policy": {"uncertain": task.uncertain, "soft_value": task.soft_value, "blank": task.blank},
        "unreadable": len(data.manifest) - len(images.rows), "warnings": data.warnings,
    }  # fmt: skip
    folder = out / "results"
    done = {result.row["key"]: result for result in read_results(folder)}
    results = []
    for result in score_task(features, splits, encoder=said, task=about, settings=settings, seen=seen, done=done):
        write_result(result, folder)
        results.append(result)
    whole = [result for result in results if not Protocol.parse(result.row["protocol"]).drawn]
    for warning in dict.fromkeys(w for result in whole for w in result.row["warnings"]):
        logger.warning("%s on %s: %s", name, task.name, warning)
    return results


def _encoders(texts: Sequence[str]) -> list[NamedEncoder]:
    named = [_named(text) for text in texts]
    names = [name for name, _ in named]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two encoders are called {twice[0]}: name them, as in --encoder {twice[0]}2=<encoder>")
    return [NamedEncoder(name, place, *load_any_encoder(place)) for name, place in named]


def _named(text: str) -> tuple[str, str]:
    """Name and place of an encoder; a run folder's file is named by the folder."""
    name, separator, place = text.partition("=")
    if separator and not name.startswith("timm:") and "/" not in name:
        return name, place
    path = Path(text)
    return (path.parent.name if path.name == "encoder.safetensors" else path.name) or text, text


def _task_changes(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Splits off `--task.<name>=<value>` or `--task.<name> <value>`."""
    changes: dict[str, Any] = {}
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--task."):
            rest.append(word)
            continue
        name, separator, value = word.removeprefix("--task.").partition("=")
        if not separator and not left:
            raise ConfigError(f"{word} needs a value, such as {word}=...")
        changes[name] = yaml.safe_load(value if separator else left.pop(0))
    return changes, rest


def settings_of(config: str, chosen: Mapping[str, Any]) -> Settings:
    """Settings of a task file's section `evaluate`, and over them those of the command line."""
    parser = SuggestingParser(exit_on_error=False)
    parser.add_class_arguments(Settings, "evaluate")
    try:
        section = {**read_sections(config).get("evaluate", {}), **chosen}
        made = parser.instantiate(parser.parse_object({"evaluate": section})).evaluate
    except (ArgumentError, TypeError) as error:
        raise ConfigError(f"{config}, section evaluate: {parser.answer(str(error))}") from error
    assert isinstance(made, Settings)
    return made


def device_of(name: str) -> str:
    """The device that `--device` names; `auto` takes a GPU where there is one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device must be auto, cpu or a device that is there, got {name!r}: {error}") from error
    return name


def _table(results: Sequence[Result]) -> list[str]:
    lines = ["", f"{'task':22} {'encoder':22} {'protocol':14} seed  macro AUROC            macro AUPRC"]
    for result in results:
        row = result.row
        area, precision = (_score(row["metrics"][name]["macro"]) for name in ("auroc", "auprc"))
        lines.append(f"{row['task']['name'][:22]:22} {row['encoder']['name'][:22]:22} {row['protocol']:14} "
                     f"{row['seed']:4}  {area:22} {precision}")  # fmt: skip
    return lines


def _pairs(differences: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [""] if differences else []
    for one in differences:
        if one["protocol"] in ("linear", "knn") and one["value"] is not None:
            lines.append(f"{one['task']}, {one['protocol']}: {one['encoders'][0]} - {one['encoders'][1]} = "
                         f"{_score(one, '+.3f')}, p = {one['p_holm']:.3g} after Holm")  # fmt: skip
    return lines


def _score(entry: Mapping[str, Any], form: str = ".3f") -> str:
    if entry["value"] is None:
        return "undefined"
    return f"{entry['value']:{form}} [{entry['low']:{form}}, {entry['high']:{form}}]"
