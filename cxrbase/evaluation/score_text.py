"""Scores and differences of scores as text, the same on the screen, in reports and in figures."""

import math
from collections.abc import Mapping
from typing import Any


def score_text(score: Mapping[str, Any], form: str = ".3f") -> str:
    """A value with its interval, such as 0.812 [0.774, 0.846]; "undefined" where there is none.

    Args:
        score: `value`, `low` and `high`; the latter two are not looked at where the value is None. An end is NaN or
            None where a class is so rare that most resamples lack it.
        form: Of each number; "+.3f" for differences.
    """
    if score["value"] is None:
        return "undefined"
    if score["low"] is None or math.isnan(score["low"]):
        return f"{score['value']:{form}} (no interval: too few resamples hold every class)"
    return f"{score['value']:{form}} [{score['low']:{form}}, {score['high']:{form}}]"


def gap_text(row: Mapping[str, Any]) -> str:
    """The `difference` of two scores with its interval `low` to `high`, all with their signs."""
    return score_text({**row, "value": row["difference"]}, "+.3f")
