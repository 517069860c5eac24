"""Keeps every patient in one split if an official division does not."""

import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)

_RANK = {"": 0, "train": 1, "val": 2, "test": 3}


def one_split(patients: Sequence[str], splits: Sequence[str], *, name: str) -> list[str]:
    """Splits in which a patient's images are all in one: test before val before train; a warning counts the moves.

    Args:
        patients: Id of each image; blank ones are left where they are.
        splits: Official split of each image.
        name: Name of the source, for the warning.
    """
    home: dict[str, str] = {}
    for patient, split in zip(patients, splits, strict=True):
        home[patient] = max(home.get(patient, ""), split, key=_RANK.__getitem__)
    kept = [home[patient] if patient else split for patient, split in zip(patients, splits, strict=True)]
    moved = [patient for patient, before, after in zip(patients, splits, kept, strict=True) if before != after]
    if moved:
        logger.warning(
            "%s: %d patient ids are in two official splits; %d of their images move, so that test goes before val and "
            "val before train",
            name,
            len(set(moved)),
            len(moved),
        )
    return kept
