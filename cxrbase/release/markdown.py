"""Numbers and tables of a model card as Markdown."""

from collections.abc import Sequence
from typing import Any

from cxrbase.evaluation.score_text import score_text
from cxrbase.report_parts import markdown_table


def interval(score: Any) -> str:
    """A score with its interval as `score_text` writes it; of a mapping with value, low and high, as a run records."""
    if not isinstance(score, dict) or not isinstance(score.get("value"), int | float):
        return "undefined"
    ends = (score.get("low"), score.get("high"))
    low, high = ends if all(isinstance(end, int | float) for end in ends) else (None, None)
    return score_text({"value": score["value"], "low": low, "high": high})


def number(value: Any) -> str:
    """Three decimals."""
    return f"{value:.3f}" if isinstance(value, int | float) else "undefined"


def count(value: Any) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,}" if isinstance(value, int) else "not recorded"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; what would tear it is escaped."""
    escaped = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    return markdown_table(escaped[0], escaped[1:])
