"""Compares encoders on the same test images: paired differences, DeLong's test, and Holm's correction."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from cxrbase.errors import ConfigError
from cxrbase.evaluation.correction import correct, family_warnings
from cxrbase.evaluation.delong import delong_test
from cxrbase.evaluation.measure import plain
from cxrbase.evaluation.significance import hierarchical_difference
from cxrbase.evaluation.suite.results import Result


def compare_results(results: Sequence[Result], *, metric: str = "auroc") -> list[dict[str, Any]]:
    """Differences of every two encoders on every task and protocol that both have.

    Patients are resampled together for both encoders. Where images to learn from were drawn, all encoders learn from
    the same draws, whose spread of the difference is part of its error.

    Args:
        results: Of any encoders, tasks, protocols and seeds.
        metric: Whose macro mean is compared.

    Returns:
        For each pair: task, protocol, encoders, metric, value (first minus second), low, high, p_value, p_holm
        (corrected over all pairs and tasks of the protocol), seeds (of the draws), resamples, counted (whether p is,
        among resamples), warning (where all resamples agree and
        p_holm is not below 0.05), and delong where there is one class and one seed.

    Raises:
        ConfigError: If two encoders were scored on other test images, in other ways or for other classes, or a metric
            is not there.
    """
    cells: dict[tuple[str, str], dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in sorted(results, key=lambda one: one.row["seed"]):
        cells[result.row["task"]["name"], result.row["protocol"]][result.row["encoder"]["name"]].append(result)
    rows = [
        _pair(task, protocol, runs[a], runs[b], metric)
        for (task, protocol), runs in cells.items()
        for a, b in combinations(runs, 2)
    ]
    for family in _families(rows).values():
        correct(family, p="p_value")
    return rows


def comparison_warnings(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the corrected p-values of each protocol cannot show, given the rows of `compare_results`."""
    return family_warnings(_families(rows), p="p_value")


def _families(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What is asked by one protocol is one family of tests."""
    return {
        name: [row for row in rows if row["protocol"] == name] for name in dict.fromkeys(r["protocol"] for r in rows)
    }


def _pair(task: str, protocol: str, first: list[Result], second: list[Result], metric: str) -> dict[str, Any]:
    names = [runs[0].row["encoder"]["name"] for runs in (first, second)]
    seeds = sorted({run.row["seed"] for run in first} & {run.row["seed"] for run in second})
    one, two = ([run for run in runs if run.row["seed"] in seeds] for runs in (first, second))
    if not seeds:
        raise ConfigError(f"{names[0]} and {names[1]} have no seed of {protocol} on {task} in common")
    differ = [_differs(one[0], other, metric) for other in (*one[1:], *two)]
    # The draws of one encoder may differ in their classes, but not two encoders on one draw.
    differ += [_differs_in_classes(*pair, metric) for pair in zip(one, two, strict=True)]
    if reason := next(filter(None, differ), ""):
        raise ConfigError(
            f"{names[0]} and {names[1]} cannot be compared on {task}: their {reason} differ; score both in one run "
            "or with the same settings"
        )
    first_draws, second_draws = (np.stack([run.macro[metric] for run in runs]) for runs in (one, two))
    found = hierarchical_difference([first_draws], [second_draws])
    return {
        "task": task, "protocol": protocol, "encoders": names, "metric": metric,
        "value": plain(found.value), "low": plain(found.low), "high": plain(found.high),
        "p_value": found.p_value, "p_holm": None, "seeds": found.draws,
        "resamples": found.resamples, "counted": found.counted, "warning": None,
        "delong": _delong(one[0], two[0]) if len(seeds) == 1 and metric == "auroc" else None,
    }  # fmt: skip


def _differs(first: Result, second: Result, metric: str) -> str:
    """What two results would have to share to be compared and do not; "" where there is nothing."""
    if first.row["split_checksum"] != second.row["split_checksum"]:
        return "splits"
    if not np.array_equal(first.labels, second.labels, equal_nan=True) or not np.array_equal(
        first.patients, second.patients
    ):
        return "test images"
    if metric not in first.macro or metric not in second.macro:
        return "metrics"
    if len(first.macro[metric]) != len(second.macro[metric]):
        return "numbers of resamples"
    return "" if first.row["protocol_text"] == second.row["protocol_text"] else "ways of scoring (protocol_text)"


def _differs_in_classes(first: Result, second: Result, metric: str) -> str:
    """Means over other classes are no difference; top-1 accuracy has no classes, as it needs all."""
    mine, its = (one.row["metrics"][metric].get("classes") for one in (first, second))
    return "" if mine == its else f"classes that {metric} is defined for"


def _delong(first: Result, second: Result) -> dict[str, Any] | None:
    """DeLong's test of a single class; it takes images for independent, so it is beside the bootstrap, not instead."""
    if first.labels.shape[1] != 1:
        return None
    known = ~np.isnan(first.labels[:, 0])
    labels = first.labels[known, 0]
    logits = [one.logits[known, 0] for one in (first, second)]
    if min((labels == 1).sum(), (labels == 0).sum()) < 2 or any(np.isnan(one).any() for one in logits):
        return None
    test = delong_test(logits[0], logits[1], labels)
    repeated = len(np.unique(first.patients[known])) < int(known.sum())
    return {"z": test.z, "p_value": test.p_value, "images_of_one_patient": repeated}
