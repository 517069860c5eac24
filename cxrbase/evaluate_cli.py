"""`cxrbase evaluate`: scores frozen encoders on tasks with identical splits, or compares fine-tuning runs in pairs."""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError

from cxrbase.config_files import read_value
from cxrbase.devices import DEVICE_HELP, device_of
from cxrbase.errors import ConfigError
from cxrbase.evaluation.suite.compare import compare_results, comparison_warnings
from cxrbase.evaluation.suite.figures import write_curves, write_figures
from cxrbase.evaluation.suite.finished_runs import FINE_TUNED, read_runs
from cxrbase.evaluation.suite.lines import difference_lines, result_lines
from cxrbase.evaluation.suite.results import Result, file_part
from cxrbase.evaluation.suite.score_encoder import NamedEncoder, prepare, score_trial
from cxrbase.evaluation.suite.score_task import Settings
from cxrbase.evaluation.task import Task, read_sections, read_tasks
from cxrbase.evaluation.task_data import TaskData, load_task_data, some_without_images
from cxrbase.release.outputs import local_place
from cxrbase.suggestions import SuggestingParser
from cxrbase.weights import load_any_encoder, short_name

logger = logging.getLogger(__name__)


def evaluate(words: list[str]) -> int:
    """Runs `cxrbase evaluate` with the words after it and returns the exit code."""
    changes, rest = _task_changes(words)
    options = _parser().parse_args(rest)
    out = local_place(options.out)
    if options.results:
        _refuse_beside_runs(rest, changes)
        return _compare_runs(options.results, out)
    if not options.encoder or not options.config:
        raise ConfigError("give at least one --encoder and one --config, or finished runs with --results")
    chosen = chosen_settings(rest)
    device = str(device_of(options.device))
    # Mistakes in any of them are found before hours are spent on the first.
    tasks = read_tasks(options.config, changes=changes)
    asked = {path: settings_of(path, chosen) for path in tasks}
    encoders = _encoders(options.encoder)
    ready = [prepare(encoders, data, asked[path], out=out) for path, data in _there(tasks).items()]
    results: list[Result] = []
    for trials in ready:
        found = [result for trial in trials for result in score_trial(trial, out=out, device=device)]
        for figure in write_figures(found, out / "figures"):
            logger.info("wrote %s", figure)
        results += found
    lines = _compared(results, out, protocols=("linear", "knn"))
    sys.stdout.write("\n".join([*lines, f"rows: {out / 'results'}", ""]))
    return 0


def _parser() -> SuggestingParser:
    parser = SuggestingParser(
        prog="cxrbase evaluate",
        description="Scores frozen encoders on tasks: neighbours, linear probe and few labels, on identical splits.",
        epilog="A setting of the task file is changed by --task.<name>=<value>, such as --task.data.root=/data/nih.",
    )
    parser.add_argument("--encoder", action="append", type=str, help=(
        "a run folder, a .safetensors or .pth file, or timm:<name> for an untrained network; may be given again, and "
        "<name>=<encoder> names it in the results"))  # fmt: skip
    parser.add_argument("--config", action="append", type=str, help=(
        "a task file, such as experiments/task/phantom.yaml; may be given again"))  # fmt: skip
    parser.add_argument("--results", nargs="+", type=str, help=(
        "instead of the two: folders of finished runs of `cxrbase fit` on a task, whose models are compared on their "
        "test images; <name>=<run> names one, and runs of one name are its seeds"))  # fmt: skip
    parser.add_argument("--out", type=str, default="runs/evaluate", help="folder for results, figures and features")
    parser.add_argument("--device", type=str, default="auto", help=DEVICE_HELP)
    parser.add_class_arguments(
        Settings, "evaluate", help="how tasks are scored; what is given here goes before the task file's section"
    )
    return parser


def chosen_settings(words: Sequence[str]) -> dict[str, Any]:
    """What the words say of how tasks are scored: by --evaluate.<name>, by +=, or by a file or mapping of --evaluate.

    What is said counts where it is the default too, as the task file may say otherwise.
    """
    parser = _parser()
    said = parser.parse_args(words, defaults=False).get("evaluate") or {}
    whole = parser.parse_args(words).evaluate
    return {one.name: whole[one.name] for one in fields(Settings) if one.name in said}


def _refuse_beside_runs(words: Sequence[str], changes: Mapping[str, Any]) -> None:
    given = sorted(set(_parser().parse_args(words, defaults=False).keys()) - {"results", "out"})
    given += [f"task.{name}" for name in changes]
    if given:
        named = ", ".join(f"--{name}" for name in given)
        raise ConfigError(f"--results compares finished runs as they are: leave out {named}")


def _compare_runs(texts: Sequence[str], out: Path) -> int:
    """Compares finished runs of fine-tuning in pairs, task by task."""
    results = read_runs(texts)
    lines = _compared(results, out, protocols=(FINE_TUNED,))
    for task in dict.fromkeys(result.row["task"]["name"] for result in results):
        # One run of each name, as curves have no mean.
        shown = {one.row["encoder"]["name"]: one for one in reversed(results) if one.row["task"]["name"] == task}
        for figure in write_curves(list(shown.values())[::-1], out / "figures"):
            logger.info("wrote %s", figure)
    sys.stdout.write("\n".join([*lines, f"pairs: {out / 'comparisons.json'}", ""]))
    return 0


def _compared(results: Sequence[Result], out: Path, *, protocols: Sequence[str]) -> list[str]:
    """Writes down the differences of all pairs, and returns lines on the results and on the pairs in some protocols."""
    differences = compare_results(results)
    for warning in comparison_warnings(differences):
        logger.warning(warning)
    out.mkdir(parents=True, exist_ok=True)
    (out / "comparisons.json").write_text(json.dumps(differences, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return [*result_lines(results), *difference_lines(differences, protocols)]


def _there(tasks: Mapping[str, Task]) -> dict[str, TaskData]:
    """The tasks whose images are there, by their file; the others are named.

    Raises:
        ConfigError: There are no images of any of several tasks.
        ManifestError: The images of a task are there and malformed, or those of the only one are not there.
    """
    absent = some_without_images(tasks) if len(tasks) > 1 else {}
    for path, reason in absent.items():
        logger.warning("%s is not scored: %s", tasks[path].name, reason)
    return {path: load_task_data(task) for path, task in tasks.items() if path not in absent}


def _encoders(texts: Sequence[str]) -> list[NamedEncoder]:
    named = [_named(text) for text in texts]
    names = [file_part(name) for name, _ in named]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two encoders are called {twice[0]}: name them, as in --encoder {twice[0]}2=<encoder>")
    return [NamedEncoder(name, place, *load_any_encoder(place)) for name, place in named]


def _named(text: str) -> tuple[str, str]:
    """Name and place of an encoder, as of `short_name` where no name is given."""
    name, separator, place = text.partition("=")
    if separator and not name.startswith("timm:") and "/" not in name:
        return name, place
    return short_name(text), text


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
        changes[name] = read_value(f"--task.{name}", value if separator else left.pop(0))
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
