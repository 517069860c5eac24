"""Which differences between arms are real: over seeds, draws and patients, corrected over all of a protocol."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxrbase.compare.plan import CONTROL
from cxrbase.evaluation.correction import correct, family_warnings
from cxrbase.evaluation.significance import Difference, hierarchical_difference, hierarchical_mean

METRIC = "auroc"
Results = Sequence[Mapping[str, Any]]
Run = np.ndarray[Any, Any]  # (D, R + 1): by draw of labels, a metric on all test patients, then on each resample


def arms_of(results: Results) -> list[str]:
    """Names of the arms, the control last."""
    names = list(dict.fromkeys(result["cell"]["arm"] for result in results))
    return sorted(names, key=lambda name: name == CONTROL)


def samples(results: Results, arm: str, task: str, protocol: str) -> dict[int, Run]:
    """By seed of an arm, (D, R + 1): for each draw of labels, macro AUROC on all test patients, then on each resample.

    A seed whose AUROC is undefined, with one draw or more, is left out.
    """
    found = {}
    for result in results:
        row = result["tasks"].get(task, {}).get("protocols", {}).get(protocol)
        if result["cell"]["arm"] != arm or row is None:
            continue
        run = np.atleast_2d(np.array(row["samples"], np.float64))
        if not np.isnan(run[:, 0]).any():
            found[int(result["cell"]["seed"])] = run
    return dict(sorted(found.items()))


def values(results: Results) -> list[dict[str, Any]]:
    """Score of every arm on every task by every protocol, with the interval over seeds, draws and patients."""
    rows = []
    for task, protocol in _questions(results):
        for arm in arms_of(results):
            runs = samples(results, arm, task, protocol)
            if not runs:
                continue
            row: dict[str, Any] = {"arm": arm, "task": task, "protocol": protocol, "metric": METRIC}
            row["classes"] = _classes(results, arm, task, protocol)
            rows.append(row | score_of(list(runs.values())))
    return rows


def _classes(results: Results, arm: str, task: str, protocol: str) -> list[str]:
    """Classes that the macro mean of an arm is over with every seed and draw."""
    rows = [r["tasks"].get(task, {}).get("protocols", {}).get(protocol) for r in results if r["cell"]["arm"] == arm]
    found = [row["metrics"][METRIC]["classes"] for row in rows if row and METRIC in row.get("metrics", {})]
    return [name for name in found[0] if all(name in one for one in found)] if found else []


def score_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Mean over seeds and draws with the 95 % interval over them and patients.

    Args:
        runs: For each seed, (R + 1,) or (D, R + 1): the metric on all test patients, then on each resample of them.
    """
    found = hierarchical_mean(runs)
    # The interval is symmetric on a scale that ends at 0 and 1.
    return {"seeds": len(runs), "value": found.value, "low": max(found.low, 0.0), "high": min(found.high, 1.0),
            "by_seed": [float(run[..., 0].mean()) for run in runs]}  # fmt: skip


def differences(results: Results) -> list[dict[str, Any]]:
    """Every pair of arms with a seed in common on every task, with p-values corrected (Holm) over all of a protocol."""
    rows = []
    for task, protocol in _questions(results):
        for first, second in itertools.combinations(arms_of(results), 2):
            one, two = (samples(results, arm, task, protocol) for arm in (first, second))
            if (found := difference_of(one, two)) is not None:
                rows.append({"task": task, "protocol": protocol, "first": first, "second": second} | found)
    for protocol in {row["protocol"] for row in rows}:
        correct([row for row in rows if row["protocol"] == protocol])
    return rows


def difference_warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the corrected p-values of each protocol cannot show, given the rows of `differences`."""
    return family_warnings(
        {row["protocol"]: [one for one in rows if one["protocol"] == row["protocol"]] for row in rows}
    )


def difference_of(first: Mapping[int, Run], second: Mapping[int, Run]) -> dict[str, Any] | None:
    """First minus second with its interval and p-value, over the seeds that both have; None where there is none.

    Seeds are paired: a seed of both started from the same weights and order, so that what it does to all arms alike is
    no difference, and a seed that one side lacks says nothing of the pair. So are draws of labels.

    Args:
        first: By seed, (D, R + 1), as `samples` gives them.
        second: The same, on the same draws and the same resamples of the same patients.
    """
    common = [seed for seed in first if seed in second]
    if not common:
        return None
    one, two = ([runs[seed] for seed in common] for runs in (first, second))
    return row_of(hierarchical_difference(one, two, paired_seeds=True))


def row_of(found: Difference) -> dict[str, Any]:
    """A difference as rows of results hold it."""
    return {
        "difference": found.value, "low": found.low, "high": found.high, "p": found.p_value, "seeds": found.seeds,
        "draws": found.draws, "resamples": found.resamples, "counted": found.counted,
    }  # fmt: skip


def ranked_tasks(results: Results, *, protocol: str) -> list[str]:
    """Tasks of the ranking: without those whose label source, site or origin tell, unless all are of these."""
    tasks = sorted({task for task, found in _questions(results) if found == protocol})
    told = {task for result in results for task, found in result["tasks"].items() if found.get("confounded")}
    return [task for task in tasks if task not in told] or tasks


def ranking(results: Results, *, protocol: str) -> list[dict[str, Any]]:
    """Arms by their mean over tasks.

    An arm shares a rank only where the interval of its difference to the first arm of that rank includes 0: neighbours
    may each be close to the next while the ends are told apart. `behind` is that difference.
    """
    mean = means(results, protocol=protocol)
    ranked: list[dict[str, Any]] = []
    first = ""
    for place, arm in enumerate(_ordered(mean)):
        behind = difference_of(mean[first], mean[arm]) if ranked else None
        own = not ranked or (behind is not None and behind["low"] > 0)
        score = {name: value for name, value in score_of(list(mean[arm].values())).items() if name != "by_seed"}
        row = {"arm": arm, "rank": place + 1 if own else ranked[-1]["rank"], **score}
        ranked.append(row | {"behind": behind and {"arm": first} | behind})
        first = arm if own else first
    return ranked


def means(results: Results, *, protocol: str) -> dict[str, dict[int, Run]]:
    """Of each arm that has them all, by seed, the mean over the tasks of the ranking."""
    tasks = ranked_tasks(results, protocol=protocol)
    return {arm: runs for arm in arms_of(results) if (runs := _over_tasks(results, arm, tasks, protocol))}


def _ordered(mean: Mapping[str, Mapping[int, Run]]) -> list[str]:
    """Best first, by the mean; one that is better on the seeds that both have goes before, whatever the others did."""
    order: list[str] = []
    for arm in sorted(mean, key=lambda arm: -np.mean([run[:, 0].mean() for run in mean[arm].values()])):
        gaps = [difference_of(mean[above], mean[arm]) for above in order]
        beaten = [place for place, gap in enumerate(gaps) if gap is not None and gap["high"] < 0]
        order.insert(min(beaten, default=len(order)), arm)
    return order


def protocols_of(results: Results) -> list[str]:
    """Protocols in the order they were scored."""
    return list(dict.fromkeys(protocol for _, protocol in _questions(results)))


def _questions(results: Results) -> list[tuple[str, str]]:
    asked = ((task, name) for r in results for task, found in r["tasks"].items() for name in found["protocols"])
    return list(dict.fromkeys(asked))


def _over_tasks(results: Results, arm: str, tasks: Sequence[str], protocol: str) -> dict[int, Run]:
    """By seed that has all tasks, the mean over them; resamples of different test sets are independent."""
    by_task = [samples(results, arm, task, protocol) for task in tasks]
    whole = [seed for seed in by_task[0] if all(seed in runs for runs in by_task)] if by_task else []
    return {seed: np.mean([runs[seed] for runs in by_task], axis=0) for seed in whole}
