"""Refuses numbers outside the interval that a setting is defined for."""

import math


def check_range(interval: str, **values: float | None) -> None:
    """Raises a ValueError for the first value that is outside; None is left to mean what it means.

    Args:
        interval: Such as "[0, 1)", "[1, inf)" or "(0, inf)".
        values: Numbers by the name of their setting.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    for name, value in values.items():
        if value is None:
            continue
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):
            raise ValueError(f"{name} must be {_in_words(interval, low, high)}, got {value}")


def _in_words(interval: str, low: float, high: float) -> str:
    if math.isinf(high):
        return f"{'at least' if interval[0] == '[' else 'above'} {low:g}"
    return f"in {interval}"
