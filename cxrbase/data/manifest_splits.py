"""Who is in train, val and test: one division by patient for a folder, for packed images and for a task on either."""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxrbase.data.manifest_excluded import Columns

logger = logging.getLogger(__name__)

Names = NDArray[np.object_]
Codes = NDArray[np.int32]
Mask = NDArray[np.bool_]


def deal_splits(patients: Iterable[str], *, val: float = 0.15, test: float = 0.15, seed: int = 0) -> list[str]:
    """Split of each patient by a hash of its id, test first, so that a change of `val` moves nobody out of test."""
    splits = []
    for patient in patients:
        share = int.from_bytes(hashlib.sha256(f"{seed}:{patient}".encode()).digest()[:8]) / 2**64
        splits.append("test" if share < test else "val" if share < test + val else "train")
    return splits


def fill_splits(
    table: Columns, splits: Names, *, packed: bool, val: float = 0.15, test: float = 0.15, seed: int = 0, name: str = ""
) -> Names:
    """Splits of all images; what is missing is dealt by patient, the same for a set in a folder and in a pack.

    A data set without any split is dealt as a whole. Where one has train and lacks val or test, these are dealt out of
    its train: to those whom a set without any split would have there too, so that both agree on a shared patient. Other
    blank splits stay blank. Where two sets have a patient in different splits, the dealt ones become blank: in the sets
    without any split of their own, and if the others differ as well, in these.

    Args:
        table: The images.
        splits: Their splits as given, (N,) of str, "" for none.
        packed: Whether they are of a pack, in which each source is a data set. A manifest is one as a whole, as an
            external source may be its test split, but for sources without any split.
        val: Share of the patients that become val, in [0, 1).
        test: The same for test.
        seed: Of the hash.
        name: What the images are called in the log.
    """
    sources, titles = table.coded("source")
    sets = sources if packed else _with_any(sources, splits != "").astype(np.int32)
    filled, dealt = splits.astype(object), np.zeros(len(splits), bool)
    shares = {"val": val, "test": test}
    for code in np.unique(sets):
        inside = sets == code
        rows, lacking = _missing(splits, inside)
        lacking = [split for split in lacking if shares[split]]
        if not lacking or not rows.any():
            continue
        new = _deal(_patients(table, rows, packed), val, test, seed)
        filled[rows] = np.where(np.isin(new, lacking), new, "train")
        dealt |= rows
        title = name or ", ".join(filter(None, np.array(titles, object)[np.unique(sources[inside])])) or "the images"
        named = (table.column("patient_id")[rows] != "").any()
        lack = " and ".join(lacking) + ("" if named else " and no patient_id")
        told = _told(shares, lacking, "patients" if named else "images")
        logger.info("%s: no official %s, so %s, seed %d", title, lack, told, seed)
    if dealt.any() and sets.min() != sets.max():
        for yielding in (dealt & (splits == ""), dealt):
            filled[yielding & _in_two(table, sets, filled)] = ""
    return filled


def _told(shares: Mapping[str, float], lacking: Sequence[str], what: str) -> str:
    """How they are assigned, such as `15 % of the patients are assigned to val and 15 % to test`."""
    first, *others = (f"{100 * shares[split]:g} %" for split in lacking)
    parts = [f"{first} of the {what} are assigned to {lacking[0]}"]
    return " and ".join(parts + [f"{share} to {split}" for share, split in zip(others, lacking[1:], strict=True)])


def _with_any(sources: Codes, given: Mask) -> Mask:
    """Whether the source of each image has any split."""
    return np.isin(sources, np.unique(sources[given]))


def _missing(splits: Names, inside: Mask) -> tuple[Mask, list[str]]:
    """Images of a set whose patients are dealt, and the splits that it lacks."""
    there = set(splits[inside].tolist()) - {""}
    rows = inside & (splits == ("train" if there else ""))
    return rows, [split for split in ("val", "test") if split not in there]


def _patients(table: Columns, rows: Mask, packed: bool) -> Names:
    """Patient of some images as the folder of the set has it; the path there stands in for a blank patient_id."""
    patients, paths = table.column("patient_id")[rows], table.column("path")[rows]
    if packed and (blank := patients == "").any():
        pairs = zip(paths[blank], table.column("source")[rows][blank], strict=True)
        paths[blank] = [path.removeprefix(f"{source}/") for path, source in pairs]
    return np.where(patients == "", paths, patients)


def _deal(patients: Names, val: float, test: float, seed: int) -> Names:
    each = pa.array(patients, pa.string()).dictionary_encode()
    dealt = np.array(deal_splits(each.dictionary.to_pylist(), val=val, test=test, seed=seed), object)
    return np.asarray(dealt[each.indices.to_numpy()])


def _in_two(table: Columns, sets: Codes, splits: Names) -> Mask:
    """Images of patients who are in one split in one set and in another one in another set."""
    patient, names = table.coded("patient_id")
    known = np.array([name != "" for name in names])[patient] & (splits != "")
    places = np.unique(splits.astype(str), return_inverse=True)[1]
    return np.asarray(known & _varies(patient, places, known) & _varies(patient, sets, known))


def _varies(patient: Codes, values: NDArray[np.integer], known: Mask) -> Mask:
    """Whether the images of a patient differ in a value; those that are not known do not count."""
    least = np.full(int(patient.max()) + 1, np.iinfo(np.int64).max)
    most = np.full(len(least), -1)
    np.minimum.at(least, patient[known], values[known])
    np.maximum.at(most, patient[known], values[known])
    return np.asarray((least < most)[patient])
