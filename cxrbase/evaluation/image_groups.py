"""Groups of the images of a run by sex, age, view, site, source and origin, and the number of images in each."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.manifest import SPLITS
from cxrbase.data.selection import ImageTable
from cxrbase.errors import ManifestError
from cxrbase.evaluation.cohort import TEXT_GROUPS, age_bands, text_group

Rows = NDArray[np.int64]

FEWEST = 5  # patients; a smaller group could point at somebody, so it is counted with the other small ones
OTHER, UNKNOWN = "other", "unknown"


def groups_of(table: ImageTable, rows: Rows) -> dict[str, NDArray[Any]]:
    """Group of some images by what is known of all, each (N,) of str, "" unknown; age in bands.

    Args:
        table: What is known about all images.
        rows: Which images, (N,).
    """
    found = {}
    for name in TEXT_GROUPS:
        codes, names = table.coded(name)
        found[name] = text_group(name, codes[rows], names)
    try:
        found["age"] = age_bands(table.column("age")[rows])
    except ManifestError:  # an index of packed images need not have the column
        found["age"] = np.full(len(rows), "", object)
    return {name: group for name, group in found.items() if (group != "").any()}


def count_images(table: ImageTable, trained: Rows, *, splits: NDArray[Any] | None = None) -> dict[str, Any]:
    """Numbers for a record that is read without the images; no name of a patient, study or file is in it.

    Args:
        table: What is known about all images.
        trained: Rows that were trained on, (N,).
        splits: Split of all images, (M,) of str; images without one, "", are left out. None takes the table's own and
            counts all images.

    Returns:
        `sources`: images by split and patients of each source, of all images. `trained_on`: images, patients, and in
        `groups` both by variable and group; images of unknown group are `unknown`, groups of fewer than 5 patients
        together `other`.
    """
    patients = table.patient_codes()
    groups = {name: _counts(group, patients[trained]) for name, group in groups_of(table, trained).items()}
    return {
        "sources": _sources(table, patients, table.splits() if splits is None else splits, all_images=splits is None),
        "trained_on": {"images": len(trained), "patients": len(np.unique(patients[trained])), "groups": groups},
    }


def _sources(
    table: ImageTable, patients: NDArray[np.int32], splits: NDArray[Any], *, all_images: bool
) -> list[dict[str, Any]]:
    codes, names = table.coded("source")
    counted = np.full(len(codes), True) if all_images else splits != ""
    found = []
    for code in np.unique(codes[counted]):
        inside = counted & (codes == code)
        images = {split: int((inside & (splits == split)).sum()) for split in (*SPLITS, "")}
        kept = {split or "no split": count for split, count in images.items() if count}
        found.append({"name": names[code], "images": kept, "patients": len(np.unique(patients[inside]))})
    return sorted(found, key=lambda source: source["name"])


def _counts(group: NDArray[Any], patients: NDArray[np.int32]) -> dict[str, dict[str, int]]:
    values, codes = np.unique(group.astype(str), return_inverse=True)
    sizes = [len(np.unique(patients[codes == code])) for code in range(len(values))]
    named = [UNKNOWN if value == "" else str(value) if size >= FEWEST else OTHER
             for value, size in zip(values, sizes, strict=True)]  # fmt: skip
    shown = np.array(named, object)[codes]
    return {
        name: {"images": int((shown == name).sum()), "patients": len(np.unique(patients[shown == name]))}
        for name in sorted(set(named), key=lambda name: (name in (OTHER, UNKNOWN), name))
    }
