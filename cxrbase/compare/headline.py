"""The outcome of a comparison in words, and what must be known of its seeds before it is believed."""

from collections.abc import Sequence

import numpy as np

from cxrbase.compare.plan import CONTROL
from cxrbase.compare.verdict import Results, arms_of, differences, ranking

_PATIENTS_ONLY = "over patients only, and nothing is known of the spread between trainings"


def answer(results: Results, *, protocol: str, planned: int) -> str:
    """The outcome in a few words, with its uncertainty and its price.

    Args:
        results: Of the cells that are done.
        protocol: Whose scores are ranked.
        planned: Number of seeds of the plan.
    """
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
    return said + _caution(best["seeds"], planned)


def _corrected(results: Results, protocol: str, pair: set[str]) -> str:
    """Range over tasks of the corrected p-values of two arms."""
    rows = [
        row for row in differences(results) if row["protocol"] == protocol and {row["first"], row["second"]} == pair
    ]
    found = sorted(row["p_holm"] for row in rows if "p_holm" in row)
    if not found:
        return ""
    return f", corrected p {found[0]:.3g}" + (f" to {found[-1]:.3g} by task" if len(found) > 1 else "")


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
        parts = [f"{_done(count, planned)} done"] if count < planned else []
        if count == 1:
            parts.append(f"with 1 seed intervals and p-values are {_PATIENTS_ONLY}")
        elif count == 2:
            parts.append("2 seeds say little about the spread between trainings; papers use 3 to 5")
        if parts:
            said.append(("" if len(who) == len(arms) else f"{_listed(who)}: ") + "; ".join(parts))
    return said


def _caution(seeds: int, planned: int) -> str:
    """The same in the sentence, of the seeds that it rests on."""
    parts = [f"{_done(seeds, planned)} done"] if seeds < planned else []
    if seeds == 1:
        parts.append(f"with 1 seed the interval is {_PATIENTS_ONLY}")
    elif seeds == 2:
        parts.append("with 2 seeds the spread between trainings is hardly known: take this as a hint")
    text = "; ".join(parts)
    return f" {text[0].upper()}{text[1:]}." if text else ""


def _done(seeds: int, planned: int) -> str:
    return f"{seeds} of {planned} seeds {'is' if seeds == 1 else 'are'}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
