"""The size of an image: one number if it is square, otherwise height and width."""

from collections.abc import Sequence

Size = int | tuple[int, int]


def height_width(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width in pixels."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def longest(size: int | Sequence[int]) -> int:
    """The longer side in pixels."""
    return max(height_width(size))


def plain(size: int | Sequence[int]) -> int | list[int]:
    """A side where height and width agree, otherwise the two as a list, as JSON has it."""
    height, width = height_width(size)
    return height if height == width else [height, width]


def aspect(size: int | Sequence[int]) -> float:
    """Width / height."""
    height, width = height_width(size)
    return width / height
