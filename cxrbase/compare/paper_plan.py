"""The plan of the paper's figures: encoders by role, tasks by figure, labels and seeds."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from cxrbase.errors import ConfigError
from cxrbase.evaluation.decisions import Criterion
from cxrbase.evaluation.protocols import Protocol
from cxrbase.evaluation.suite.score_task import Settings
from cxrbase.evaluation.suite.seen import Look

Role = Literal["supervised_imagenet", "ssl_imagenet", "ssl_cxr", "ssl_cxr_from_imagenet", "untrained"]

# As RETFound lines them up (https://doi.org/10.1038/s41586-023-06555-x, Extended Data Fig. 1), and no training at all.
ROLES: dict[Role, str] = {
    "supervised_imagenet": "supervised on ImageNet",
    "ssl_imagenet": "SSL on ImageNet",
    "ssl_cxr": "SSL on chest X-rays from scratch",
    "ssl_cxr_from_imagenet": "SSL on chest X-rays from ImageNet weights",
    "untrained": "untrained",
}
_OURS: tuple[Role, ...] = ("ssl_cxr_from_imagenet", "ssl_cxr")
FIGURES = ("figure2", "figure3", "figure4")
UNTRAINED = "untrained"


@dataclass(frozen=True)
class Slot:
    """A place for an encoder.

    Args:
        name: What it is called in figures.
        role: What its weights are.
        path: As `cxrbase evaluate --encoder` takes it, or a list with one of each training seed; null where the weights
            are not given. `untrained` makes the network of our encoder with random weights, once for each seed.
    """

    name: str
    role: Role
    path: str | list[str] | None = None

    @property
    def paths(self) -> list[str]:
        """Its files; empty where it is missing."""
        return [self.path] if isinstance(self.path, str) else list(self.path or [])

    @property
    def random(self) -> bool:
        """Whether it is a network with random weights and not a file."""
        return any(path == UNTRAINED or (path.startswith("timm:") and "=" not in path) for path in self.paths)

    def __post_init__(self) -> None:
        if self.random and (self.role != UNTRAINED or len(self.paths) > 1):
            raise ConfigError(
                f"encoder {self.name} must be one or more weight files, got {self.paths}: random weights can stand for "
                "the role untrained alone, once"
            )


@dataclass(frozen=True)
class Paper:
    """Figures 2, 3 and 4.

    Args:
        name: Name of the folder of the figures.
        encoders: Encoders in the order of the figures.
        figure2: Task files of image quality.
        figure3: Task files of single diseases.
        figure4: Task files of label efficiency.
        shots: Labelled patients per class and label that our encoder learns from in figure 4.
        few: That of `shots` which figures 2 and 3 set beside all labels.
        seeds: Of the draws of few labels, and of the weights of an untrained network.
        resamples: Resampled patient sets of the intervals.
        threshold: What the threshold behind the accuracy makes largest on validation: accuracy, youden or f1.
        seen: What is looked for among the images that an encoder was pretrained on: `near` copies and exact ones,
            `exact` alone, or `off`.
        max_bad: Largest share of unreadable images of a task that is tolerated.
        cache_gb: Above this size images are decoded on access.
    """

    name: str
    encoders: list[Slot]
    figure2: list[str]
    figure3: list[str]
    figure4: list[str]
    shots: list[int] = field(default_factory=lambda: [1, 4, 16, 64])
    few: int = 16
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    resamples: int = 2000
    threshold: Criterion = "accuracy"
    seen: Look = "exact"
    max_bad: float = 0.01
    cache_gb: float = 8.0

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ConfigError(f"name must be the name of a folder, got {self.name!r}")
        names = [slot.name for slot in self.encoders]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"two encoders are called {twice[0]}")
        if empty := [figure for figure in FIGURES if not getattr(self, figure)]:
            raise ConfigError(f"{empty[0]} must name at least one task file")
        if self.few not in self.shots or min(self.shots) < 1:
            raise ConfigError(f"few must be one of shots, and those at least 1, got {self.few} and {self.shots}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds must differ, got {self.seeds}")
        self.settings(few=True)  # refuses the rest that is out of range

    @property
    def given(self) -> list[Slot]:
        """The encoders whose weights are there."""
        return [slot for slot in self.encoders if slot.paths]

    @property
    def ours(self) -> Slot | None:
        """The encoder that learns from few labels: SSL on chest X-rays from ImageNet weights, or else from scratch."""
        return next((slot for role in _OURS for slot in self.given if slot.role == role), None)

    @property
    def tasks(self) -> list[str]:
        """The task files of all figures, each once."""
        return list(dict.fromkeys(path for figure in FIGURES for path in getattr(self, figure)))

    def settings(self, *, few: bool, seeds: Sequence[int] | None = None) -> Settings:
        """How the suite scores an encoder.

        Args:
            few: Whether it learns from few labels too, and not from all alone.
            seeds: Of the draws; None takes all.
        """
        names = [Protocol().name, *(Protocol(shots=shots).name for shots in self.shots if few)]
        return Settings(
            names, list(self.seeds if seeds is None else seeds), self.resamples, self.threshold, seen=self.seen,
            max_bad=self.max_bad, cache_gb=self.cache_gb,
        )  # fmt: skip

    def with_encoders(self, words: Sequence[str]) -> "Paper":
        """The same with files of the command line in place of those of the slots that they name.

        Args:
            words: `<name>=<path>`; several of one name are its training seeds.

        Raises:
            ConfigError: There is no such slot, or no path.
        """
        known = [slot.name for slot in self.encoders]
        paths: dict[str, list[str]] = {}
        for word in words:
            name, _, path = word.partition("=")
            if name not in known or not path:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near and near[0] != name else f"names are {', '.join(known)}"
                raise ConfigError(f"--encoder takes <name>=<path>, got {word!r}; {hint}")
            paths.setdefault(name, []).append(path)
        slots = [replace(slot, path=paths.get(slot.name, slot.path)) for slot in self.encoders]
        return replace(self, encoders=slots)
