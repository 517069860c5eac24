"""Which differences between arms are real: seeds and patients resampled together, corrected over all of a protocol."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxrbase.compare.plan import CONTROL
from cxrbase.evaluation.significance import Difference, hierarchical_difference, holm

METRIC = "auroc"
LEVEL = 0.05
Results = Sequence[Mapping[str, Any]]


def arms_of(results: Results) -> list[str]:
    """Names of the arms, the control last."""
    names = list(dict.fromkeys(result["cell"]["arm"] for result in results))
    return sorted(names, key=lambda name: name == CONTROL)


def samples(results: Results, arm: str, task: str, protocol: str) -> list[np.ndarray[Any, Any]]:
    """For each seed of an arm, (R + 1,): macro AUROC on all test patients, then on each resample of them."""
    found = []
    for result in results:
        row = result["tasks"].get(task, {}).get("protocols", {}).get(protocol)
        if result["cell"]["arm"] == arm and row is not None and row["samples"][0] is not None:
            found.append(np.array([np.nan if x is None else x for x in row["samples"]], np.float64))
    return found


def values(results: Results) -> list[dict[str, Any]]:
    """Score of every arm on every task by every protocol, with the interval over seeds and patients."""
    rows = []
    for task, protocol in _questions(results):
        for arm in arms_of(results):
            runs = samples(results, arm, task, protocol)
            if not runs:
                continue
            rows.append({"arm": arm, "task": task, "protocol": protocol, "metric": METRIC} | score_of(runs))
    return rows


def score_of(runs: Sequence[np.ndarray[Any, Any]]) -> dict[str, Any]:
    """Mean over seeds with the 95 % interval over seeds and patients.

    Args:
        runs: For each seed, (R + 1,): the metric on all test patients, then on each resample of them.
    """
    found = hierarchical_difference(runs, [np.zeros_like(runs[0])])
    # The interval is symmetric on a scale that ends at 0 and 1.
    return {"seeds": len(runs), "value": found.value, "low": max(found.low, 0.0), "high": min(found.high, 1.0),
            "by_seed": [float(run[0]) for run in runs]}  # fmt: skip


def differences(results: Results) -> list[dict[str, Any]]:
    """Every pair of arms on every task, with p-values corrected (Holm) over all pairs and tasks of the protocol.

    Seeds of two trained arms are drawn together: seed i of both started from the same weights and order.
    """
    rows = []
    for task, protocol in _questions(results):
        for first, second in itertools.combinations(arms_of(results), 2):
            one, two = (samples(results, arm, task, protocol) for arm in (first, second))
            if one and two:
                row = {"task": task, "protocol": protocol, "first": first, "second": second}
                rows.append(row | difference_of(one, two))
    for protocol in {row["protocol"] for row in rows}:
        correct([row for row in rows if row["protocol"] == protocol])
    return rows


def difference_of(first: Sequence[np.ndarray[Any, Any]], second: Sequence[np.ndarray[Any, Any]]) -> dict[str, Any]:
    """First minus second with its interval and p-value; seeds are drawn together where there are as many of both.

    Args:
        first: For each seed, (R + 1,), as for `score_of`.
        second: The same, on the same resamples of the same patients.
    """
    return _plain(hierarchical_difference(first, second, paired_seeds=len(first) == len(second)))


def correct(family: Sequence[dict[str, Any]]) -> None:
    """Adds `p_holm` to the rows of one family of tests, those that have a `p`."""
    tests = {str(n): row for n, row in enumerate(family) if row["p"] is not None}
    for number, corrected in holm({n: row["p"] for n, row in tests.items()}).items():
        tests[number]["p_holm"] = corrected


def ranked_tasks(results: Results, *, protocol: str) -> list[str]:
    """Tasks of the ranking: without those whose label source, site or origin tell, unless all are of these."""
    tasks = sorted({task for task, found in _questions(results) if found == protocol})
    told = {task for result in results for task, found in result["tasks"].items() if found.get("confounded")}
    return [task for task in tasks if task not in told] or tasks


def ranking(results: Results, *, protocol: str) -> list[dict[str, Any]]:
    """Arms by their mean over tasks; an arm shares the rank of the one above where their interval includes 0."""
    tasks = ranked_tasks(results, protocol=protocol)
    mean = {arm: _over_tasks(results, arm, tasks, protocol) for arm in arms_of(results)}
    order = sorted((arm for arm in mean if mean[arm]), key=lambda arm: -np.mean([run[0] for run in mean[arm]]))
    ranked: list[dict[str, Any]] = []
    for place, arm in enumerate(order):
        rank, against = place + 1, None
        if ranked:
            above = mean[order[place - 1]]
            against = difference_of(above, mean[arm])
            rank = ranked[-1]["rank"] if against["low"] <= 0 else place + 1
        score = {name: value for name, value in score_of(mean[arm]).items() if name in ("value", "low", "high")}
        ranked.append({"arm": arm, "rank": rank, **score, "behind_next_above": against})
    return ranked


def answer(results: Results, *, protocol: str, seeds: int) -> str:
    """The outcome in a few words, with its uncertainty and its price."""
    ranked = ranking(results, protocol=protocol)
    trained = [row for row in ranked if row["arm"] != CONTROL]
    if not trained:
        return "No trained encoder has been scored yet."
    best = trained[0]
    tied = [row["arm"] for row in trained if row["rank"] == best["rank"]]
    said = f"{best['arm']} is best: macro AUROC {best['value']:.3f} by {protocol}"
    if len(tied) > 1:
        said = f"No difference is established between {_listed(tied)}: "
        said += f"{best['arm']} scores {best['value']:.3f} by {protocol}"
    elif len(trained) > 1:
        gap = trained[1]["behind_next_above"]
        said += f", {gap['difference']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}] against {trained[1]['arm']}"
        said += _corrected(results, protocol, {best["arm"], trained[1]["arm"]})
    control = [row for row in ranked if row["arm"] == CONTROL]
    if control:
        said += f"; the untrained network scores {control[0]['value']:.3f}"
    price = [r["spent"] for r in results if r["cell"]["arm"] == best["arm"]]
    mean = {name: float(np.mean([spent[name] for spent in price])) for name in ("images", "flops", "seconds")}
    said += f". Its price per seed: {mean['images']:,.0f} images, {mean['flops']:.3g} FLOPs, {mean['seconds']:.0f} s."
    if seeds < 3:
        said += (
            f" With {seeds} seed{'s' * (seeds > 1)} the spread between trainings is hardly known: take this as a hint."
        )
    return said


def _corrected(results: Results, protocol: str, pair: set[str]) -> str:
    """Range over tasks of the corrected p-values of two arms."""
    rows = [
        row for row in differences(results) if row["protocol"] == protocol and {row["first"], row["second"]} == pair
    ]
    found = sorted(row["p_holm"] for row in rows if "p_holm" in row)
    if not found:
        return ""
    return f", corrected p {found[0]:.3g}" + (f" to {found[-1]:.3g} by task" if len(found) > 1 else "")


def protocols_of(results: Results) -> list[str]:
    """Protocols in the order they were scored."""
    return list(dict.fromkeys(protocol for _, protocol in _questions(results)))


def _questions(results: Results) -> list[tuple[str, str]]:
    asked = ((task, name) for r in results for task, found in r["tasks"].items() for name in found["protocols"])
    return list(dict.fromkeys(asked))


def _over_tasks(results: Results, arm: str, tasks: Sequence[str], protocol: str) -> list[np.ndarray[Any, Any]]:
    """For each seed the mean over tasks; resamples of different test sets are independent, and may be paired."""
    by_task = [samples(results, arm, task, protocol) for task in tasks]
    seeds = min((len(runs) for runs in by_task), default=0)
    return [np.mean([runs[number] for runs in by_task], axis=0) for number in range(seeds)]


def _plain(found: Difference) -> dict[str, Any]:
    return {
        "difference": found.value, "low": found.low, "high": found.high, "p": found.p_value, "seeds": found.seeds,
    }  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
