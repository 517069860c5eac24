"""What tells encoders and objectives apart in a chart: a colour and a mark each."""

from collections.abc import Sequence
from typing import Any

# Okabe and Ito's palette, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color/), and shapes.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
_MARKS = "os^Dvp*"


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and mark of every name as matplotlib takes them, the same in all charts; no two of 49 share both."""
    style = {}
    for number, name in enumerate(names):
        turn, colour = divmod(number, len(_COLOURS))
        # Marks move on by one with every turn through the colours, so that a colour that comes again has another mark.
        style[name] = {"color": _COLOURS[colour], "marker": _MARKS[(colour + turn) % len(_MARKS)]}
    return style
