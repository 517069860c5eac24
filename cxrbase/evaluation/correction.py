"""Corrects p-values of a family of tests for their number, and says if resamples or seeds are too few."""

from collections.abc import Mapping, Sequence
from typing import Any

from cxrbase.evaluation.significance import LEVEL, holm, least_counted


def correct(rows: Sequence[dict[str, Any]], *, p: str = "p") -> None:
    """Adds `p_holm` to the rows of one family of tests, and a `warning` where all resamples agree and it is not small.

    Args:
        rows: Each with a p-value, which is None where it is undefined, and `resamples`.
        p: Name of the p-value.
    """
    tests = {str(number): row for number, row in enumerate(rows) if row[p] is not None}
    for number, corrected in holm({number: row[p] for number, row in tests.items()}).items():
        row = tests[number]
        row["p_holm"] = corrected
        if _unresolved(row, p):
            agreed = f"all {row['resamples']:,} resamples lie on one side of 0"
            row["warning"] = f"{agreed}, but corrected for {len(tests)} tests p is not below {LEVEL}"


def family_warnings(families: Mapping[str, Sequence[Mapping[str, Any]]], *, p: str = "p") -> list[str]:
    """What must be known of families whose p-values, counted among resamples, cannot be below the level.

    Args:
        families: Rows by the name of the family, as `correct` leaves them.
        p: Name of the p-value.

    Returns:
        A sentence for all families that it is true of, with their names.
    """
    said: dict[str, list[str]] = {}
    for name, rows in families.items():
        if (limit := _limit([row for row in rows if row[p] is not None], p)) is not None:
            said.setdefault(limit, []).append(name)
    return [f"{', '.join(names)}: {limit}" for limit, names in said.items()]


def _limit(tests: Sequence[Mapping[str, Any]], p: str) -> str | None:
    resamples = max((row["resamples"] for row in tests), default=0)
    lowest = min(1.0, len(tests) * least_counted(resamples))
    if lowest <= LEVEL:
        return None
    asked = f"{len(tests)} test{'s' * (len(tests) > 1)}"
    said = (
        f"{asked}: counted among {resamples:,} resamples no corrected p can fall below {lowest:.2g}, so where all "
        "resamples lie on one side of 0, p is by the spread over seeds and patients"
    )
    left = sum(_unresolved(row, p) for row in tests)
    more = f"; {left} of these are still not below {LEVEL}: more seeds or fewer tests would tell"
    return said + more * (left > 0)


def _unresolved(row: Mapping[str, Any], p: str) -> bool:
    """Whether all resamples lie on one side of 0, and the corrected p-value is still not below the level."""
    least = least_counted(row["resamples"])
    return bool(row[p] <= least < 1 and row["p_holm"] >= LEVEL)
