"""Scores the features of one encoder on one task: a result for each protocol and seed."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import cxrbase
from cxrbase.errors import ConfigError
from cxrbase.evaluation.cohort import TEXT_GROUPS, Cohort, Splits, age_bands, text_group
from cxrbase.evaluation.decisions import Criterion
from cxrbase.evaluation.measure import SPECIFICITY, measure, shared, top1
from cxrbase.evaluation.metrics import cluster_weights
from cxrbase.evaluation.protocols import Features, Protocol, Scored, check_features, score, standard_protocols
from cxrbase.evaluation.subgroups import subgroup_report
from cxrbase.evaluation.suite.results import Result, git_commit, row_key
from cxrbase.evaluation.suite.scoring_code import features_code, scores_code
from cxrbase.evaluation.suite.seen import Look, Seen, seen_warnings
from cxrbase.evaluation.suite.shortcut import label_by_origin, origin_from_features, shortcut_warnings
from cxrbase.evaluation.task_data import TaskData
from cxrbase.evaluation.unscored import Unscored

_FREE = ("protocols", "seeds", "max_bad", "cache_gb")


@dataclass(frozen=True)
class Settings:
    """How a task is scored.

    Args:
        protocols: Names as `Protocol.parse` takes them; empty for the standard ones.
        seeds: Of the draws of few images; protocols that use all images run with the first alone.
        resamples: Of the bootstrap over patients.
        threshold: What the threshold makes largest on validation: youden, f1 or accuracy.
        leave_out_seen: Whether test images that an encoder was pretrained on are left out, for all encoders alike.
        seen: What is looked for among the pretraining images: `near` copies and exact ones, `exact` alone, or `off`.
        max_bad: Largest share of unreadable images of a task that is tolerated; they are left out and named.
        cache_gb: Above this size images are decoded on access.
    """

    protocols: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    resamples: int = 2000
    threshold: Criterion = "youden"
    leave_out_seen: bool = False
    seen: Look = "near"
    max_bad: float = 0.01
    cache_gb: float = 8.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.resamples < 1 or not self.seeds or min(self.seeds) < 0:
            raise ConfigError(f"resamples must be at least 1 and seeds at least 0, got {self.resamples}, {self.seeds}")
        if self.leave_out_seen and self.seen == "off":
            raise ConfigError("leave_out_seen needs the look for seen images, got seen=off")
        if not 0 <= self.max_bad <= 1 or self.cache_gb < 0:
            raise ConfigError(
                f"max_bad must be in [0, 1] and cache_gb at least 0, got {self.max_bad:g} and {self.cache_gb:g}"
            )
        for name in self.protocols:
            Protocol.parse(name)

    def shared(self) -> dict[str, Any]:
        """What every row depends on; which rows there are, and where images come from, is left out."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}

    def chosen(self) -> list[Protocol]:
        """The protocols to run."""
        return [Protocol.parse(name) for name in self.protocols] or standard_protocols()


def splits_of(data: TaskData, readable: NDArray[np.int64]) -> tuple[Splits, dict[str, NDArray[np.int64]]]:
    """The splits of a task without images that cannot be read, and their rows in its manifest.

    Args:
        data: The task.
        readable: Rows of its manifest whose image can be read, sorted.
    """
    data.check()
    groups = {name: text_group(name, *data.manifest.coded(name)).astype(str) for name in TEXT_GROUPS}
    groups["age"] = age_bands(data.column("age"))
    rows, parts = {}, {}
    for split in ("train", "val", "test"):
        own = rows[split] = np.intersect1d(data.rows(split), readable)
        labels = data.targets if split == "train" else data.truth
        parts[split] = Cohort(labels[own], data.patients[own], {name: group[own] for name, group in groups.items()})
    return Splits(data.classes, parts["train"], parts["val"], parts["test"], data.split_checksum), rows


def score_task(
    features: Features,
    splits: Splits,
    *,
    encoder: dict[str, Any],
    task: dict[str, Any],
    settings: Settings,
    seen: Seen | None = None,
    done: dict[str, Result] | None = None,
) -> Iterator[Result]:
    """Runs the protocols on the features of one encoder.

    Args:
        features: `train`, `val` and `test`, (N, D) each, in the order of the splits.
        splits: The task's images.
        encoder: What is said of the encoder in each row; needs `name` and `hash`.
        task: What is said of the task; needs `name`, `kind` and `warnings`.
        settings: What to run.
        seen: Which test images the encoder was pretrained on, which are left out; None where that was not looked for.
        done: Finished results by key, which are not computed again.

    Yields:
        A result for each protocol and seed, in order.
    """
    check_features(features, splits)
    if seen is not None and seen.left_out is not None:
        kept = ~seen.left_out
        splits = Splits(splits.classes, splits.train, splits.val, splits.test.take(kept), splits.checksum)
        features = {**features, "test": features["test"][kept]}
    weights = cluster_weights(splits.test.codes().astype(str), resamples=settings.resamples, seed=0)
    origin = label_by_origin(splits)
    shortcut = {
        "label_from_origin": origin,
        "origin_from_features": origin_from_features(features, dict(splits.parts()), weights),
    }
    common = {
        "encoder": encoder,
        "task": task,
        "split_checksum": splits.checksum,
        "counts": splits.counts(),
        "seen_before": None if seen is None else seen.to_dict(),
        "shortcut": shortcut,
        "version": cxrbase.__version__,
        "git_commit": git_commit(),
    }
    said = [*task["warnings"], *shortcut_warnings(origin), *seen_warnings(seen)]
    runs = [(p, seed) for p in settings.chosen() for seed in (settings.seeds if p.drawn else settings.seeds[:1])]
    code = [scores_code(), features_code()]
    for protocol, seed in tqdm(runs, desc=f"{encoder['name']} on {task['name']}", unit="run", mininterval=1.0):
        key = row_key(
            encoder=[encoder["name"], encoder["hash"]], task=task, splits=splits.checksum, counts=common["counts"],
            seen=common["seen_before"], seed=seed,
            protocol=[protocol.name, _protocol_text(protocol, settings)], settings=settings.shared(), code=code,
        )  # fmt: skip
        if done and key in done:
            yield done[key]
            continue
        scored = score(features, splits, protocol, seed=seed)
        yield _result(scored, splits, weights, common | {"key": key}, said, settings)


def _result(
    scored: Scored, splits: Splits, weights: NDArray[np.generic], common: dict[str, Any], said: Sequence[str],
    settings: Settings,
) -> Result:  # fmt: skip
    test = splits.test
    found = measure(scored.val, splits.val.labels, scored.test, test.labels, weights, classes=splits.classes,
                    kind=common["task"]["kind"], criterion=settings.threshold)  # fmt: skip
    together = top1(found, test.labels, weights, kind=common["task"]["kind"])
    unscored = Unscored.of(splits, found)
    row = {
        **common,
        "protocol": scored.protocol.name,
        "protocol_text": _protocol_text(scored.protocol, settings),
        "seed": scored.seed,
        "train_images": scored.images,
        "regularisation": list(scored.regularisation),
        "test_opened": 1,
        "undefined": unscored.undefined,
        "uncalibrated": unscored.uncalibrated,
        "metrics": found.to_dict() | shared(together),
        "subgroups": {} if scored.protocol.drawn else subgroup_report(
            found.scores, test, weights, classes=splits.classes),
        "warnings": [*said, *unscored.warnings()],
    }  # fmt: skip
    macro = {name: found.macro(name) for name in found.values} | together
    labels = np.asarray(test.labels, np.float64)
    return Result(row, found.scores, found.probabilities, labels, test.codes(), macro)


def _protocol_text(protocol: Protocol, settings: Settings) -> str:
    return (
        f"{protocol.describe()}; temperature by log loss and threshold by {settings.threshold} on validation; test "
        f"scored once; sensitivity at specificity {SPECIFICITY:g} is read off the test curve; 95 % intervals of "
        f"{settings.resamples} resamples of patients"
    )
