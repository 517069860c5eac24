"""The definition of a task: where its images are, which findings are asked for, how labels and splits are read."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from cxrbase.config_files import read_config
from cxrbase.data.images import Phantom
from cxrbase.data.manifest import Target
from cxrbase.errors import ConfigError

Kind = Literal["binary", "multilabel", "multiclass"]
Uncertain = Literal["ignore", "ones", "zeros", "soft"]
Blank = Literal["missing", "negative"]

SECTIONS = ("task", "finetune", "evaluate")  # of a task file: what is asked, and settings of the two commands


@dataclass(frozen=True)
class TaskSource:
    """Where the images of a task are.

    Args:
        root: Folder of the images.
        source: Name of a public data set, as `cxrbase sources` lists them; "" for a folder with a manifest.
        manifest: Manifest file in `root`; None takes manifest.parquet or manifest.csv. Not with `source` or a pack.
        phantom: Parameters of the embedded data set, made in `root` where it is missing.
        partial: Go on with the images that are there where some of a public data set are missing.
    """

    root: str
    source: str = ""
    manifest: str | None = None
    phantom: Phantom | None = None
    partial: bool = False

    def __post_init__(self) -> None:
        if self.source and (self.manifest or self.phantom):
            raise ConfigError(f"task.data names the source {self.source}, so it takes no manifest and no phantom")


@dataclass(frozen=True)
class TaskSplits:
    """How images are dealt to train, val and test; patients always stay together.

    Args:
        rename: Split to use an official one as, such as {val: test} where the labels of test are withheld. Where there
            are labelled test images, no other split becomes test.
        lists: Files in the folder of the images that name the images of a split, one per line, by path or file name;
            they go before the official split.
        val: Share of the patients that become val where there is none: of train, or of all where nothing is split.
        test: The same for test, in [0, 1).
        seed: Seed of the deal.
    """

    rename: dict[str, str] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=dict)
    val: float = 0.15
    test: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.val, self.test) < 0 or self.val + self.test >= 1:
            raise ConfigError(
                f"task.splits.val and test must be at least 0 and together below 1, got {self.val} and {self.test}"
            )
        for name in {*self.rename, *self.rename.values(), *self.lists}:
            if name not in ("train", "val", "test"):
                raise ConfigError(f"task.splits knows train, val and test, got {name!r}")


@dataclass(frozen=True)
class Task:
    """A question that is asked of radiographs.

    Args:
        name: Short name, as of its file.
        title: What it is, in words.
        data: Where the images are.
        findings: Labels in the order of the scores; empty takes every label of the manifest.
        targets: Labels to read off other columns of the manifest, by name.
        kind: `binary` one finding, `multilabel` any number, each present or not, `multiclass` exactly one of several.
        uncertain: What an uncertain label (-1 in code_<finding>) becomes in training, for all findings or by finding:
            `ignore` unknown, `ones`, `zeros`, or `soft`, the probability `soft_value`. In val and test it is unknown,
            for there it could not be judged.
        soft_value: Probability that `soft` stands for, in (0, 1); 0.7 is the mean of U(0.55, 0.85) in
            https://arxiv.org/abs/1911.06475.
        blank: What a blank label becomes, for all findings or by finding: `missing` or `negative`.
        views: View positions that are kept, such as [PA, AP]; empty keeps all.
        exclude: Text file of what to leave out, one path or patient id per line; relative to the folder of the images.
        splits: How images are dealt to train, val and test.
        warnings: What a reader of a score must know; it stands in every result.
    """

    name: str
    title: str
    data: TaskSource
    findings: list[str] = field(default_factory=list)
    targets: dict[str, Target] = field(default_factory=dict)
    kind: Kind = "multilabel"
    uncertain: Uncertain | dict[str, Uncertain] = "ignore"
    soft_value: float = 0.7
    blank: Blank | dict[str, Blank] = "missing"
    views: list[str] = field(default_factory=list)
    exclude: str | None = None
    splits: TaskSplits = field(default_factory=TaskSplits)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        wanted = {"binary": len(self.findings) == 1, "multiclass": len(self.findings) > 1, "multilabel": True}
        if not wanted[self.kind]:
            number = "exactly one finding" if self.kind == "binary" else "at least two findings"
            raise ConfigError(f"a {self.kind} task needs {number}, {self.name} has {len(self.findings)}")
        if not 0 < self.soft_value < 1:
            raise ConfigError(f"task.soft_value must be in (0, 1), got {self.soft_value}")
        for option, given in {"uncertain": self.uncertain, "blank": self.blank}.items():
            unknown = sorted(set(given) - set(self.findings)) if isinstance(given, dict) and self.findings else []
            if unknown:
                raise ConfigError(f"task.{option} names {_suggested(unknown[0], self.findings)}")

    def uncertain_of(self, finding: str) -> Uncertain:
        """Policy for uncertain labels of one finding."""
        return self.uncertain.get(finding, "ignore") if isinstance(self.uncertain, dict) else self.uncertain

    def blank_of(self, finding: str) -> Blank:
        """Policy for blank labels of one finding."""
        return self.blank.get(finding, "missing") if isinstance(self.blank, dict) else self.blank


def read_task(path: str | Path, *, changes: Mapping[str, Any] | None = None) -> Task:
    """Reads the section `task` of a task file.

    Args:
        path: YAML file such as those in experiments/task/.
        changes: Settings that replace those of the file, by dotted name, such as {"data.root": "/data/nih"}.

    Raises:
        ConfigError: The file is missing, no YAML, or a setting is unknown or wrong.
    """
    task = dict(read_sections(path)["task"])
    for name, value in (changes or {}).items():
        _put(task, name.split("."), value)
    _refuse_unknown(task, path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Task, "task")
    try:
        made = parser.instantiate(parser.parse_object({"task": task})).task
    except (ArgumentError, TypeError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    assert isinstance(made, Task)
    return made


def read_tasks(paths: Iterable[str], *, changes: Mapping[str, Any] | None = None) -> dict[str, Task]:
    """Several tasks by their file, each file once; ConfigError where two have one name, by which results are known."""
    tasks = {path: read_task(path, changes=changes) for path in paths}
    homes: dict[str, str] = {}
    for path, task in tasks.items():
        if (first := homes.setdefault(task.name, path)) != path:
            raise ConfigError(f"{first} and {path} are both called {task.name}: give one another task.name")
    return tasks


def read_sections(path: str | Path) -> dict[str, dict[str, Any]]:
    """The sections of a task file as they stand in it; ConfigError where it is none."""
    if not Path(path).is_file():
        raise ConfigError(f"no task file {path}: give one of experiments/task/, such as phantom.yaml")
    content = read_config(path)
    if not isinstance(content.get("task"), dict):
        raise ConfigError(f"{path} is not a task file: it needs a section `task:`, as those in experiments/task/ have")
    for name, section in content.items():
        if name not in SECTIONS:
            raise ConfigError(f"{path} has the section {_suggested(str(name), SECTIONS)}")
        if not isinstance(section, dict):
            raise ConfigError(f"section {name} of {path} must hold settings, got {section!r}")
    return content


def _put(settings: dict[str, Any], names: list[str], value: Any) -> None:
    for name in names[:-1]:
        inner = settings.get(name)
        settings[name] = dict(inner) if isinstance(inner, dict) else {}
        settings = settings[name]
    settings[names[-1]] = value


def _refuse_unknown(task: Mapping[str, Any], path: str | Path) -> None:
    parts: dict[str, tuple[Any, type]] = {
        "task": (task, Task),
        "task.data": (task.get("data"), TaskSource),
        "task.splits": (task.get("splits"), TaskSplits),
    }
    for place, (settings, kind) in parts.items():
        known = [one.name for one in fields(kind)]
        for name in settings if isinstance(settings, dict) else ():
            if name not in known:
                raise ConfigError(f"{path}: {place} has {_suggested(str(name), known)}")


def _suggested(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"{name!r}, did you mean {near[0]!r}?" if near else f"{name!r}, there are {', '.join(known)}"
