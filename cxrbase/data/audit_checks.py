"""Findings of an audit: groups of copies, leaks between splits, confounded labels and odd images."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbase.data.audit_images import AuditSet
from cxrbase.data.manifest import LABEL_PREFIX

# Grey levels; the flattest radiograph of the reference set has 15.
BLANK_STD = 4.0
# Share of pixels; the reference set lies below 0.21 for 99.5 %, and its negatives above 0.28 for 95 %.
INVERTED_BORDER = 0.25
_ODD_ASPECT = 3.0
_ODD_EXTREME = 0.9
_FEWEST_KNOWN = 10
_MOST_CLASSES = 20


@dataclass(frozen=True)
class Rows:
    """All images under audit in one order, (N,) each.

    Args:
        sets: Name of the set.
        paths: Path as the manifest has it.
        sources: Source.
        splits: Split, "" where unknown.
        patients: Patient, "" where unknown.
        views: View position, "" where unknown.
    """

    sets: NDArray[Any]
    paths: NDArray[Any]
    sources: NDArray[Any]
    splits: NDArray[Any]
    patients: NDArray[Any]
    views: NDArray[Any]

    @property
    def persons(self) -> NDArray[Any]:
        """Patient of each image within its set; the path stands in where it is unknown."""
        return self.sets + "/" + np.where(self.patients == "", self.paths, self.patients)

    @classmethod
    def of(cls, sets: Sequence[AuditSet]) -> "Rows":
        """Puts sets one after the other."""
        columns = [
            (np.full(len(s.manifest), s.name, object), s.manifest.column("path"), s.sources, s.splits,
             s.manifest.column("patient_id"), s.manifest.column("view_position")) for s in sets
        ]  # fmt: skip
        return cls(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def groups_of(count: int, pairs: NDArray[np.int64]) -> list[list[int]]:
    """Joins pairs, (M, 2), of `count` rows to groups; each sorted, the largest first."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    rows = np.unique(pairs)
    _, group = connected_components(graph, directed=False)
    order = rows[np.argsort(group[rows], kind="stable")]
    ends = np.flatnonzero(np.diff(group[order])) + 1
    members = [part.tolist() for part in np.split(order, ends) if len(part)]
    return sorted(members, key=lambda one: (-len(one), one))


def exact_pairs(sha1: NDArray[Any]) -> NDArray[np.int64]:
    """Each row with the first that has the same pixels, (M, 2); rows without fingerprint are left out."""
    rows = np.flatnonzero(sha1 != "")
    _, first, inverse = np.unique(sha1[rows].astype(str), return_index=True, return_inverse=True)
    pairs = np.stack([rows[first[inverse]], rows], axis=1)
    return np.asarray(pairs[pairs[:, 0] != pairs[:, 1]], np.int64)


def split_leaks(groups: list[list[int]], rows: Rows) -> list[dict[str, Any]]:
    """Groups of copies that lie in two splits of a set, or in the test split of one and the pool of another."""
    leaks = []
    for number, group in enumerate(groups):
        places = sorted({(rows.sets[row], rows.splits[row]) for row in group})
        named = [(name, split) for name, split in places if split]
        within = any(a[0] == b[0] and a[1] != b[1] for a in named for b in named)
        tests = [name for name, split in places if split == "test"]
        across = any(name != test and split != "test" for name, split in places for test in tests)
        if within or across:
            kind = "within a set" if within else "across sets"
            leaks.append({"group": number, "kind": kind, "places": [f"{n}: {s or 'no split'}" for n, s in places]})
    return leaks


def patient_leaks(rows: Rows) -> list[dict[str, Any]]:
    """Patients whose images are in several splits, as the places and one path of each; without their ids."""
    named = np.flatnonzero((rows.patients != "") & (rows.splits != ""))
    homes: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
    for row in named.tolist():
        homes[rows.patients[row]].setdefault((rows.splits[row], rows.sets[row]), rows.paths[row])
    leaks = []
    for home in homes.values():
        if len({split for split, _ in home}) > 1:
            kind = "within a set" if len({name for _, name in home}) < len(home) else "across sets"
            places = [f"{name}: {split}: {path}" for (split, name), path in sorted(home.items())]
            leaks.append({"kind": kind, "places": places})
    return leaks


def exclusions(
    groups: list[list[int]], rows: Rows, pixels: NDArray[np.int64], sha1: NDArray[Any]
) -> list[dict[str, str]]:
    """Which images of each group to leave out of pretraining: all but one, and first those that copy a test image.

    Args:
        groups: Groups of copies.
        rows: Images.
        pixels: (N,) number of pixels; the largest of a split is kept.
        sha1: (N,) of str.

    Returns:
        For each its source, path, and reason, and how many sets were audited, as rows of an exclusion list.
    """
    order = {"test": 0, "val": 1, "train": 2}
    names, sets = _names_apart(rows), str(len(set(rows.sets.tolist())))
    result = []
    for group in groups:
        ranked = sorted(group, key=lambda row: (order.get(str(rows.splits[row]), 3), -int(pixels[row]), row))
        kept = ranked[0]
        for row in ranked[1:]:
            kind = "exact copy" if sha1[row] == sha1[kept] else "near copy"
            held = f" of a {rows.splits[kept]} image" if rows.splits[kept] in ("test", "val") else ""
            reason = f"{kind}{held}: {rows.sets[kept]}: {rows.paths[kept]}"
            result.append({"source": names[row], "path": str(rows.paths[row]), "reason": reason, "sets": sets})
    return result


def _names_apart(rows: Rows) -> list[str]:
    """Source of each image; its set instead where several sets have that source, because paths may be equal there."""
    homes = Counter(source for source, _ in set(zip(rows.sources, rows.sets, strict=True)))
    named = zip(rows.sources, rows.sets, strict=True)
    return [str(name if homes[source] > 1 else source) for source, name in named]


def odd_images(measured: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.int64]]:
    """Rows by what is odd about them: blank, inverted, long, binary."""
    std, height, width = measured["std"], measured["height"], measured["width"]
    seen = width > 0
    blank = seen & (std < BLANK_STD)
    longer = np.maximum(height, width) / np.maximum(np.minimum(height, width), 1)
    odd = {
        "blank": blank,
        "inverted": seen & ~blank & (measured["border"] > INVERTED_BORDER),
        "long": seen & (longer > _ODD_ASPECT),
        "binary": seen & ~blank & (measured["extreme"] > _ODD_EXTREME),
    }
    return {name: np.flatnonzero(mask) for name, mask in odd.items()}


def confounding(sets: Sequence[AuditSet]) -> list[dict[str, Any]]:
    """How well the source alone tells each label; in a set that was put together, the origin within it.

    Returns:
        For each label with both values: `label`, `auroc` of the source (0.5 to 1), `information`, the share of the
        label's entropy that the source explains, `flagged`, and `sources` with how many are positive and negative.
        Flagged where one source holds only positives and another only negatives, or one source is all of a value.
    """
    sources = np.concatenate([entry.origins for entry in sets])
    return [row for name, values in _labels(sets).items() if (row := confounded(name, values, sources)) is not None]


def _labels(sets: Sequence[AuditSet]) -> dict[str, NDArray[np.float32]]:
    names = dict.fromkeys(name for entry in sets for name in entry.manifest.labels)
    result = {}
    for name in names:
        parts = [
            s.manifest.column(LABEL_PREFIX + name) if name in s.manifest.labels else np.full(len(s.manifest), np.nan)
            for s in sets
        ]
        result[name] = np.concatenate(parts).astype(np.float32)
    # A column `label` of text, one class per image, is as usual as one column per finding.
    blank = [np.full(len(s.manifest), "", object) for s in sets]
    has = ["label" in s.manifest.table.column_names for s in sets]
    text = np.concatenate([s.manifest.column("label") if h else b for s, h, b in zip(sets, has, blank, strict=True)])
    classes = sorted(set(text.tolist()) - {""})
    if 2 <= len(classes) <= _MOST_CLASSES:
        for name in classes:
            result[f"label = {name}"] = np.where(text == "", np.nan, text == name).astype(np.float32)
    return result


def confounded(name: str, values: NDArray[np.floating[Any]], sources: NDArray[Any]) -> dict[str, Any] | None:
    """One label of `confounding`, from its values (N,), NaN unknown; None without two sources and both values."""
    known = ~np.isnan(values)
    kinds, index = np.unique(sources[known].astype(str), return_inverse=True)
    positive = np.bincount(index, values[known] == 1, minlength=len(kinds)).astype(float)
    total = np.bincount(index, minlength=len(kinds)).astype(float)
    negative = total - positive
    if len(kinds) < 2 or not positive.sum() or not negative.sum():
        return None
    large = total >= _FEWEST_KNOWN
    one_sided = (large & (negative == 0)).any() and (large & (positive == 0)).any()
    # Every positive in one source that has no negatives is the COVID-19 set beside healthy ones of elsewhere.
    apart = any((large & (one == 0)).any() and (other[large & (one == 0)].sum() == other.sum())
                for one, other in ((negative, positive), (positive, negative)))  # fmt: skip
    auroc = _auroc(positive, negative)
    information = _information(positive, negative)
    counts = {k: [int(p), int(n)] for k, p, n in zip(kinds.tolist(), positive, negative, strict=True)}
    flagged = bool(one_sided or apart or auroc >= 0.9)
    return {"label": name, "auroc": auroc, "information": information, "flagged": flagged, "sources": counts}


def _auroc(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """Of the share of positives in the source as a score."""
    _, place = np.unique(positive / (positive + negative), return_inverse=True)
    high, low = np.bincount(place, positive), np.bincount(place, negative)
    return float(high @ (np.cumsum(low) - low / 2) / (positive.sum() * negative.sum()))


def _information(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    def entropy(p: NDArray[np.float64], n: NDArray[np.float64]) -> NDArray[np.float64]:
        shares = np.stack([p, n]) / (p + n)
        return np.asarray(-(shares * np.log2(np.where(shares > 0, shares, 1))).sum(0))

    whole = entropy(positive.sum(keepdims=True), negative.sum(keepdims=True))[0]
    weights = (positive + negative) / (positive + negative).sum()
    return float(1 - weights @ entropy(positive, negative) / whole)
