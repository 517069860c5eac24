"""The outcome of a comparison in words, and what must be known of its seeds before it is believed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxrbase.compare.plan import CONTROL
from cxrbase.compare.verdict import Results, arms_of, difference_of, means, ranked_tasks, ranking
from cxrbase.evaluation.score_text import gap_text
from cxrbase.evaluation.significance import LEVEL

Gap = Mapping[str, Any]

_PATIENTS_ONLY = "over patients only, and nothing is known of the spread between trainings"


def answer(results: Results, differences: Sequence[Mapping[str, Any]], *, protocol: str, planned: int) -> str:
    """The outcome in a few words, with its uncertainty and its price.

    Args:
        results: Of the cells that are done.
        differences: Of every pair, as `verdict.differences` gives them.
        protocol: Whose scores are ranked.
        planned: Number of seeds of the plan.
    """
    ranked = {row["arm"]: row for row in ranking(results, protocol=protocol)}
    trained = [arm for arm in ranked if arm != CONTROL]
    if not trained:
        return "No trained encoder has been scored yet."
    best, mean = trained[0], means(results, protocol=protocol)
    gaps = {arm: difference_of(mean[best], mean[arm]) for arm in trained[1:]}
    tasks = ranked_tasks(results, protocol=protocol)
    rows = [row for row in differences if row["protocol"] == protocol and row["task"] in tasks]
    said = _lead(ranked[best], gaps, rows, protocol)
    if CONTROL in ranked:
        told = _told(difference_of(mean[best], mean[CONTROL]))
        started = any(one.get("start") for one in results if one["cell"]["arm"] == CONTROL)
        control = "network before pretraining" if started else "untrained network"
        said += f"; the {control} scores {ranked[CONTROL]['value']:.3f}{told}"
    # What is said of a pair rests on the seeds that both have.
    shown = _tied(gaps) or list(gaps)[:1]
    seeds = [gap["seeds"] for arm in shown if (gap := gaps[arm]) is not None]
    return said + _price(results, best) + _caution(min([ranked[best]["seeds"], *seeds]), planned)


def _lead(best: Mapping[str, Any], gaps: Mapping[str, Gap | None], rows: Sequence[Gap], protocol: str) -> str:
    """The best trained arm, with those that it is not told from or else with its lead over the next."""
    scores = f"{best['value']:.3f} by {protocol}"
    if tied := _tied(gaps):
        # They may be told from each other.
        named = f"{best['arm']} and {_listed(tied, 'or')}"
        return f"No difference is established between {named}: {best['arm']} scores macro AUROC {scores}"
    second, gap = next(iter(gaps.items()), (None, None))
    if gap is None or second is None:
        return f"{best['arm']} scores macro AUROC {scores}"
    tested = [row for row in rows if {row["first"], row["second"]} == {best["arm"], second} and "p_holm" in row]
    ahead = [row for row in tested if row["difference"] * (1 if row["first"] == best["arm"] else -1) > 0]
    found = sorted(row["p_holm"] for row in ahead)
    lead = f"macro AUROC {scores}, {gap_text(gap)} against {second}"
    established = bool(found) and found[0] < LEVEL
    lead += _corrected(found) + _elsewhere([row for row in tested if row not in ahead], second)
    return f"{best['arm']} {'is best' if established else 'scores highest'}: {lead}"


def _tied(gaps: Mapping[str, Gap | None]) -> list[str]:
    """Arms that the best is not told from."""
    return [arm for arm, gap in gaps.items() if gap is None or not gap["low"] > 0]


def _elsewhere(behind: Sequence[Gap], second: str) -> str:
    """Tasks where the next arm is the one that is better, by a corrected p."""
    tasks = [f"{row['task']} (corrected p {_p(row['p_holm'])})" for row in behind if row["p_holm"] < LEVEL]
    return f", though {second} is better on {_listed(tasks)}" if tasks else ""


def _p(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def _corrected(found: Sequence[float]) -> str:
    """Range of the corrected p-values of two arms, sorted, over the tasks where the first is ahead."""
    if not found:
        return ""
    ends = [_p(p) for p in (found[0], found[-1])]
    if len(found) == 1:
        return f", corrected p {ends[0]}" + (f", which is not below {LEVEL}" if found[0] >= LEVEL else "")
    return f", corrected p {ends[0]} to {ends[1]} by task" + (f", none below {LEVEL}" if found[0] >= LEVEL else "")


def _told(gap: Gap | None) -> str:
    """Whether the best trained arm is told from the untrained network."""
    if gap is not None and gap["low"] > 0:
        return ""
    return ", which is better" if gap is not None and gap["high"] < 0 else ", from which it is not told apart"


def _price(results: Results, arm: str) -> str:
    spent = [result["spent"] for result in results if result["cell"]["arm"] == arm]
    mean = {name: float(np.mean([one[name] for one in spent])) for name in ("images", "flops", "seconds")}
    return f". Its price per seed: {mean['images']:,.0f} images, {mean['flops']:.3g} FLOPs, {mean['seconds']:.0f} s."


def seed_warnings(results: Results, *, planned: int) -> list[str]:
    """What is said of arms with fewer seeds than planned, or than tell the spread between trainings.

    Args:
        results: Of the cells that are done.
        planned: Number of seeds of the plan.
    """
    arms = arms_of(results)
    done = {arm: len({result["cell"]["seed"] for result in results if result["cell"]["arm"] == arm}) for arm in arms}
    said = []
    for count in sorted(set(done.values())):
        who = [arm for arm in arms if done[arm] == count]
        parts = [f"{count} of {planned} seeds {'is' if count == 1 else 'are'} done"] if count < planned else []
        if count == 1:
            parts.append(f"with 1 seed intervals and p-values are {_PATIENTS_ONLY}")
        elif count == 2:
            parts.append(
                "2 seeds say little about the spread between trainings, so intervals are wide; papers use 3 to 5"
            )
        if parts:
            said.append(("" if len(who) == len(arms) else f"{_listed(who)}: ") + "; ".join(parts))
    return said


def _caution(seeds: int, planned: int) -> str:
    """The same in the sentence, of the seeds that it rests on."""
    parts = [f"this rests on {seeds} of {planned} seeds"] if seeds < planned else []
    if seeds == 1:
        parts.append(f"with 1 seed the interval is {_PATIENTS_ONLY}")
    elif seeds == 2:
        parts.append("with 2 seeds the spread between trainings is hardly known: take this as a hint")
    text = "; ".join(parts)
    return f" {text[0].upper()}{text[1:]}." if text else ""


def _listed(names: Sequence[str], word: str = "and") -> str:
    return f" {word} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
