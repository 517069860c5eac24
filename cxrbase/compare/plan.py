"""What is compared: the grid, its cells, the words of each cell's `cxrbase fit`, and the key that tells cells apart."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cxrbase
from cxrbase.code_hash import code_hash
from cxrbase.config_files import read_config, read_value
from cxrbase.errors import ConfigError

BudgetKind = Literal["images", "flops", "seconds"]
CONTROL = "untrained"
_OF_A_CLASS = ("class_path", "init_args", "dict_kwargs")
# Their code has no part in an encoder or its scores, so a change of theirs repeats nothing.
_OF_COMPARISONS = "charts collect compare engines headline live machine paper* report slurm stop_signals verdict"
_WITHOUT_EFFECT = (
    "release/*",
    "evaluation/chart_styles.py",
    "evaluation/score_text.py",
    "report_parts.py",
    *(f"compare/{name}.py" for name in _OF_COMPARISONS.split()),
)


@dataclass(frozen=True)
class Axis:
    """A further axis of the grid.

    Args:
        values: Words of `cxrbase fit` by the name of the value, such as {"0.9": ["--model.objective.mask_ratio=0.9"]}.
        only: Objectives that have this axis; empty for all.
    """

    values: dict[str, list[str]]
    only: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Args:
        name: Name of the comparison and of its folder.
        objectives: Files of experiments/objective/, without suffix.
        size: File of experiments/size/.
        data: File of experiments/data/.
        precisions: Values of `--trainer.precision`.
        seeds: Values of `--seed_everything`.
        axes: Further axes by name.
        words: Words of `cxrbase fit` for every cell.
        budget: What is equal between cells: images seen, training FLOPs, or seconds on the device.
        amounts: How much of each, by kind of budget.
        control: Whether the same network without training is scored too, once per seed.
        points: How many times a cell is scored on validation patients on its way, for the curves.
        tasks: Task files that every encoder is scored on.
        shots: Patients with and as many without each finding, for each point of the label-efficiency curve.
        resamples: Resampled patient sets of the intervals.
        max_bad: Largest share of unreadable images of a task that is tolerated.
        cache_gb: Above this size images of a task are decoded on access.
        experiments: Folder of the YAML files.
    """

    name: str
    objectives: list[str]
    size: str
    data: str
    tasks: list[str]
    amounts: dict[str, float]
    budget: BudgetKind = "flops"
    precisions: list[str] = field(default_factory=lambda: ["32-true"])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    axes: dict[str, Axis] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    control: bool = True
    points: int = 4
    shots: list[int] = field(default_factory=lambda: [1, 4, 16, 64])
    resamples: int = 1000
    max_bad: float = 0.01
    cache_gb: float = 8.0
    experiments: str = "experiments"

    def __post_init__(self) -> None:
        if self.budget not in self.amounts or self.amounts[self.budget] <= 0:
            raise ConfigError(f"amounts must hold a number above 0 for the budget {self.budget}, got {self.amounts}")
        if not self.objectives or not self.precisions or not self.seeds:
            raise ConfigError("objectives, precisions and seeds must each hold at least one value")
        if self.points < 1 or self.resamples < 1:
            raise ConfigError(f"points and resamples must be at least 1, got {self.points} and {self.resamples}")
        if not Path(self.experiments).is_dir():
            raise ConfigError(
                f"no folder {self.experiments}: the YAML files are in the repository and not in an installed package, "
                "so run cxrbase compare in a clone of it, or name its folder with --experiments"
            )
        for name in [f"objective/{o}" for o in self.objectives] + [f"size/{self.size}", f"data/{self.data}"]:
            if not (Path(self.experiments) / f"{name}.yaml").is_file():
                there = sorted(path.stem for path in (Path(self.experiments) / name).parent.glob("*.yaml"))
                raise ConfigError(f"no {self.experiments}/{name}.yaml; there are {', '.join(there) or 'none'}")

    def cells(self) -> list["Cell"]:
        """Every cell, seeds outermost, so that a comparison cut short still holds whole seeds."""
        made = []
        for seed in self.seeds:
            if self.control:
                made.append(self._cell(CONTROL, "32-true", seed, {}))
            for objective in self.objectives:
                axes = {
                    name: axis.values for name, axis in self.axes.items() if objective in (axis.only or [objective])
                }
                for precision, *chosen in itertools.product(self.precisions, *axes.values()):
                    made.append(self._cell(objective, precision, seed, dict(zip(axes, chosen, strict=True))))
        return made

    def _cell(self, objective: str, precision: str, seed: int, chosen: dict[str, str]) -> "Cell":
        # The untrained network is that of any objective: all start from the same one for a seed.
        real = self.objectives[0] if objective == CONTROL else objective
        layers = ["base", f"objective/{real}", f"size/{self.size}", f"data/{self.data}", f"recipe/{real}_{self.size}"]
        paths = [Path(self.experiments) / f"{layer}.yaml" for layer in layers]
        words = [*self.words, *(word for name, value in chosen.items() for word in self.axes[name].values[value])]
        words += [f"--trainer.precision={precision}", f"--seed_everything={seed}"]
        cell = Cell(objective, precision, seed, chosen, [str(p) for p in paths if p.is_file()], words)
        if (nodes := cell.settings.get("trainer", {}).get("num_nodes") or 1) != 1:
            raise ConfigError(
                f"each cell of a comparison runs on one machine, got trainer.num_nodes={nodes}: leave it out, or "
                "pretrain with cxrbase fit and compare the encoders with cxrbase evaluate"
            )
        return cell


@dataclass(frozen=True)
class Cell:
    """One pretraining and its scores.

    Args:
        objective: Name of the objective, or `untrained`.
        precision: Lightning's name of the precision.
        seed: Seed of weights, order and views.
        axes: Value of each further axis.
        layers: YAML files.
        words: Words after them.
    """

    objective: str
    precision: str
    seed: int
    axes: dict[str, str]
    layers: list[str]
    words: list[str]

    @property
    def arm(self) -> str:
        """What is compared: everything but the seed."""
        return " ".join([self.objective, *([] if self.objective == CONTROL else [self.precision]), *self.axes.values()])

    @property
    def title(self) -> str:
        """Name for people."""
        return f"{self.arm} seed {self.seed}"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the layers and words add up to; later ones win."""
        merged: dict[str, Any] = {}
        for layer in self.layers:
            _merge(merged, read_config(layer))
        for word in self.words:
            name, _, value = word.removeprefix("--").partition("=")
            nested: Any = read_value(f"--{name}", value)
            for part in reversed(_whole_name(merged, name.split("."))):
                nested = {part: nested}
            _merge(merged, nested)
        return merged

    @property
    def devices(self) -> int:
        """Devices that it trains on, by `--trainer.devices`; one where that says to take whatever there is."""
        asked = 1 if self.objective == CONTROL else self.settings.get("trainer", {}).get("devices", 1)
        if isinstance(asked, list):
            return len(asked)
        if "," in str(asked):
            return len([part for part in str(asked).split(",") if part.strip()])
        return max(1, int(asked)) if str(asked).isdigit() else 1

    @property
    def gpus(self) -> int:
        """GPUs that it is given where there are any: one to score with where it trains on the CPU."""
        return 1 if self.settings.get("trainer", {}).get("accelerator") == "cpu" else self.devices

    def key(self, plan: Plan, *, data: str, tasks: str = "") -> str:
        """Hash of everything that the result depends on: configuration, budget, scoring, images, labels and code.

        Args:
            plan: The comparison.
            data: Fingerprint of what its pretraining reads.
            tasks: Fingerprint of what its scores are made of.
        """
        scoring = {path: Path(path).read_text() for path in plan.tasks}
        return _short_hash([self.pretraining_key(plan, data=data), scoring, plan.shots, tasks])

    def pretraining_key(self, plan: Plan, *, data: str) -> str:
        """Hash of everything that the encoder and what is noted while it is trained depend on."""
        parts = [self.objective, self.settings, plan.budget, plan.amounts[plan.budget], plan.points, plan.resamples]
        return _short_hash([*parts, data, code_version()])


def code_version() -> str:
    """The version, and a hash of the package's files, so that changed code is not taken for the same."""
    return f"{cxrbase.__version__}+{code_hash(without=_WITHOUT_EFFECT)[:10]}"


def folder_name(cell: Cell, key: str) -> str:
    """Name of a cell's folder: readable, and another one where anything differs."""
    parts: Sequence[str] = [cell.arm, f"s{cell.seed}", key]
    return "_".join(parts).replace(" ", "_").replace("/", "-")


def _short_hash(parts: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _whole_name(settings: Mapping[str, Any], parts: Sequence[str]) -> list[str]:
    """Parts of an option's name with `init_args`, which the name may leave out below a class as for `cxrbase fit`."""
    whole: list[str] = []
    here: Any = settings
    for part in parts:
        if isinstance(here, Mapping) and "class_path" in here and part not in _OF_A_CLASS:
            whole.append("init_args")
            here = here.get("init_args")
        whole.append(part)
        here = here.get(part) if isinstance(here, Mapping) else None
    return whole


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value
