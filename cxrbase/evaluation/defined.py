"""Macro means over different classes are different quantities: tells which have the classes that most have."""

from collections import Counter
from collections.abc import Iterable, Sequence

Classes = tuple[str, ...]


def usual_classes(found: Iterable[Sequence[str]]) -> Classes:
    """The classes that most of them have; of those that are equally many, the more classes."""
    counted = Counter(tuple(classes) for classes in found)
    return max(counted, key=lambda classes: (counted[classes], len(classes)), default=())


def unlike(classes: Sequence[str], usual: Sequence[str]) -> str:
    """How some classes differ from the usual ones, such as `without nodule`; "" where they do not."""
    words = {"without": [name for name in usual if name not in classes],
             "with": [name for name in classes if name not in usual]}  # fmt: skip
    return " and ".join(f"{word} {', '.join(names)}" for word, names in words.items() if names)


def left_out_note(points: Iterable[tuple[str, str]]) -> str:
    """A sentence for below a chart on the points that it leaves out, by name and `unlike`; "" where there is none."""
    said = list(dict.fromkeys(f"{name} ({how})" for name, how in points))
    return f"Left out, as the mean is over other classes there: {'; '.join(said)}." if said else ""
