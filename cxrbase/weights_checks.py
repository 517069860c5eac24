"""Refuses weights, and what files say of them, that would give features without a meaning."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cxrbase.errors import EncoderError

Stats = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation per channel, in [0, 1]


def not_finite(state: Mapping[str, Tensor]) -> str:
    """What is wrong where weights are infinite or no numbers, as after a training that diverged; "" where none are."""
    bad = [key for key, value in state.items() if not value.float().isfinite().all()]
    if not bad:
        return ""
    return (
        f"{len(bad)} of {len(state)} tensors are not finite, first {bad[0]}; their training diverged or the file is "
        "damaged, so take another one"
    )


def checked_heads(heads: Any, *, width: int, where: Path) -> int | None:
    """The number of attention heads as a file says it, None where it does not; EncoderError where it cannot be."""
    if heads is None or (type(heads) is int and heads > 0 and width % heads == 0):
        return heads
    raise EncoderError(f"the attention heads of {where} must divide its width {width}, got {str(heads)[:40]!r}")


def checked_stats(mean: Any, std: Any, *, channels: int, where: Path) -> Stats:
    """Mean and standard deviation as a file says them.

    Args:
        mean: To be a list of one number, or of one per channel.
        std: The same, above 0.
        channels: Of the stem.
        where: The file.

    Raises:
        EncoderError: They are something else.
    """
    for name, values, above in (("mean", mean, -math.inf), ("std", std, 0.0)):
        numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
        if not numbers or len(values) not in (1, channels) or not all(above < value < math.inf for value in values):
            wanted = "1 number" if channels == 1 else f"1 or {channels} numbers"
            raise EncoderError(
                f"the {name} in {where} must be a list of {wanted}{' above 0' if name == 'std' else ''}, got "
                f"{str(values)[:80]}"
            )
    return tuple(map(float, mean)), tuple(map(float, std))
