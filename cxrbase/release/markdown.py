"""Numbers and tables of a model card as Markdown."""

from collections.abc import Sequence
from typing import Any


def interval(score: Any) -> str:
    """A score with its interval, of a mapping with value, low and high."""
    if not isinstance(score, dict) or score.get("value") is None:
        return "undefined"
    return f"{score['value']:.3f} [{number(score.get('low'))}, {number(score.get('high'))}]"


def number(value: Any) -> str:
    """Three decimals."""
    return f"{value:.3f}" if isinstance(value, int | float) else "undefined"


def count(value: Any) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,}" if isinstance(value, int) else "not recorded"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; what would tear it is escaped."""
    lines = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
