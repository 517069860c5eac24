"""Findings that a model did not tell from chance on its own test patients."""

from collections.abc import Sequence
from typing import Any

from cxrbase.evaluation.score_text import score_text
from cxrbase.release.run_facts import part_of


def unproven(card: dict[str, Any]) -> list[str]:
    """Findings whose AUROC on test patients is undefined or has 0.5 in its interval, each with that figure.

    Args:
        card: Of `Model`; where it has no metrics, as in folders made by hand, nothing is known and nothing is said.
    """
    scores = part_of(part_of(card.get("metrics"), "auroc"), "per_class")
    found = {name: part_of(scores, name) for name in scores}
    return [f"{name} ({_figure(score)})" for name, score in found.items() if _at_chance(score)]


def in_words(doubtful: Sequence[str]) -> str:
    """A warning of findings as of `unproven`, "" without any."""
    if not doubtful:
        return ""
    return f"not shown to be better than chance on the model's own test patients: {', '.join(doubtful)}"


def _at_chance(score: dict[str, Any]) -> bool:
    return score.get("value") is None or score.get("low") is None or score["low"] <= 0.5


def _figure(score: dict[str, Any]) -> str:
    if score.get("value") is not None and score.get("low") is None:
        return f"AUROC {score['value']:.3f}, no interval"
    return f"AUROC {score_text({'value': None, **score})}"
