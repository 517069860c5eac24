"""Finds the test images that an encoder was pretrained on, by the fingerprints of both sets."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cxrbase.backbones import ENCODER_FILE, UNTRAINED, read_card
from cxrbase.config_files import read_config
from cxrbase.cores import available_cores
from cxrbase.data.audit_images import AuditSet, measure, open_set
from cxrbase.data.audit_pixels import SmallImages
from cxrbase.data.audit_verify import near_pairs
from cxrbase.data.images import default_cache, index_path, is_packed, names_of
from cxrbase.data.manifest import Manifest
from cxrbase.data.selection import Selection
from cxrbase.data.shard_index import ShardIndex
from cxrbase.errors import ConfigError, ManifestError, ShardError
from cxrbase.evaluation.suite.lineage import config_of, lineage

logger = logging.getLogger(__name__)

Look = Literal["near", "exact", "off"]


@dataclass(frozen=True, eq=False)
class Seen:
    """Test images that were in the pretraining set.

    Args:
        exact: (N,) bool, the same pixels.
        near: (N,) bool, the same exposure cropped, windowed, scaled, flipped or compressed; not those of `exact`.
        training_images: Number of images that are known of those that the encoder was pretrained on, in its own run or
            in one that it started from; None where none is known.
        note: What was not looked for, or "".
        unknown: Why some of those images, or all, are not known, or "".
        left_out: (N,) bool, which of the test images are not scored; None where all are.
    """

    exact: NDArray[np.bool_]
    near: NDArray[np.bool_]
    training_images: int | None
    note: str
    unknown: str = ""
    left_out: NDArray[np.bool_] | None = None

    @property
    def any(self) -> NDArray[np.bool_]:
        """(N,) bool, exactly or nearly."""
        return self.exact | self.near

    def to_dict(self) -> dict[str, Any]:
        """For a result row: counts, None where the pretraining set is not known."""
        known = self.training_images is not None
        return {
            "exact": int(self.exact.sum()) if known else None,
            "near": int(self.near.sum()) if known else None,
            "training_images": self.training_images,
            "note": "; ".join(filter(None, (self.unknown, self.note))),
            "left_out": 0 if self.left_out is None else int(self.left_out.sum()),
        }


def training_set(encoder: str | Path) -> AuditSet | str:
    """The images that an encoder of ours was pretrained on, by its run folder; otherwise why they are not known.

    Args:
        encoder: A run folder or a file in it; its config.yaml names the images.
    """
    config = config_of(Path(encoder))
    if not config.is_file():
        return "there is no config.yaml beside it that says what it was pretrained on"
    try:
        data = read_config(config)["data"]
        root, splits = data["root"], tuple(data.get("pretrain_on") or ("train",))
        if not isinstance(root, str):
            raise TypeError(f"data.root is {root!r}")
        select = Selection(**(data.get("select") or {}))
        found = open_set(root if is_packed(root) else Path(data.get("manifest") or root))
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        return f"{config} does not say what the encoder was pretrained on ({' '.join(str(error).split())})"
    except (ManifestError, ShardError) as error:
        return f"the images that the encoder was pretrained on are not there: {error}"
    table = found.manifest if found.packed else Manifest(found.manifest.table, Path(root))
    rows = np.flatnonzero(np.isin(found.splits.astype(str), splits))
    try:
        rows = _drawn(found, table, rows, select, names=(root, data.get("manifest")))
    except (ConfigError, ManifestError) as error:
        return f"which images data.select of {config} took cannot be told any more: {error}"
    return AuditSet("pretraining", Manifest(table.table.take(rows), table.root), found.splits[rows], found.packed)


def _drawn(
    images: AuditSet, table: Manifest, rows: NDArray[np.int64], select: Selection, *, names: tuple[str, str | None]
) -> NDArray[np.int64]:
    """Which rows of the splits a run took, as its data module does; `names` are its folder and manifest."""
    # The index of packed images knows by what names their sources went before.
    index = ShardIndex(index_path(images.packed, default_cache(images.packed))) if images.packed else table
    parts = select.parts(table, rows, called=names_of(*names, index))
    return np.sort(np.concatenate([part.rows for part in parts]))


def training_sets(encoder: str | Path) -> tuple[list[AuditSet], str]:
    """The images that the weights of an encoder come from: of its own run, and of every run that it started from.

    Args:
        encoder: As `load_any_encoder` takes it.

    Returns:
        The images that are known, none of them twice; and why others are not, "" where all are.
    """
    found: list[AuditSet] = []
    unknown: list[str] = []
    held: set[str] = set()
    for number, weights in enumerate(lineage(encoder)):
        if _never_trained(weights):
            continue
        own = training_set(weights)
        if isinstance(own, AuditSet):
            found += _new_of(own, held)
        else:
            unknown.append(f"it started from {weights}, whose images are not known ({own})" if number else own)
    return found, "; ".join(unknown)


def _new_of(images: AuditSet, held: set[str]) -> list[AuditSet]:
    """Those images, if any, that are not held yet; from now on they are."""
    paths = [os.path.abspath(path) for path in images.manifest.paths]
    rows = np.array([row for row, path in enumerate(paths) if path not in held], np.int64)
    held.update(paths)
    if not len(rows):
        return []
    left = Manifest(images.manifest.table.take(rows), images.manifest.root)
    return [replace(images, manifest=left, splits=images.splits[rows])]


def seen_by(place: str, test: Manifest, *, look: Look, cache: Path, root: str = "") -> Seen | None:
    """Which test images an encoder has seen, given where it is from; None where that is not looked for and not clear.

    Args:
        place: As `load_any_encoder` takes it.
        test: The test images.
        look: For `near` copies and exact ones, for `exact` ones alone, or `off`.
        cache: Parquet file that keeps fingerprints of images between runs.
        root: Folder or URL of the test images; needed where they are packed.
    """
    none = np.zeros(len(test), bool)
    if all(_never_trained(weights) for weights in lineage(place)):
        return Seen(none, none, 0, "untrained")
    if look == "off":
        return None
    sets, unknown = training_sets(place)
    if not sets:
        return Seen(none, none, None, "", unknown)
    packed, threads = root if root and is_packed(root) else "", available_cores()
    seen = seen_before(sets, test, cache=cache, near=look == "near", threads=threads, packed=packed)
    return replace(seen, unknown=unknown)


def _never_trained(place: Path) -> bool:
    """Whether an encoder's own description says that it has seen no image."""
    folder = place if place.is_dir() else place.parent
    return (folder / ENCODER_FILE).is_file() and read_card(folder).get("objective") == UNTRAINED


def leave_out(found: Sequence[tuple[Seen | None, NDArray[np.int64]]]) -> list[Seen | None]:
    """Leaves out for every encoder the test images that any of them has seen, so that all are scored on the same.

    Args:
        found: For each encoder what it has seen, and the rows of its test images in the manifest of the task, (N,).

    Raises:
        ConfigError: No test image would be left.
    """
    gone = np.unique(np.concatenate([rows[seen.any] if seen else rows[:0] for seen, rows in found]))
    if any(np.isin(rows, gone).all() for _, rows in found):
        raise ConfigError(
            f"all {len(gone)} test images were seen in pretraining, so none is left to score: leave out the encoder "
            "that has seen them, or set --evaluate.leave_out_seen=false"
        )
    return [seen and replace(seen, left_out=np.isin(rows, gone)) for seen, rows in found]


def seen_warnings(seen: Seen | None) -> list[str]:
    """What a reader of a score must know about images that were seen before, in sentences."""
    if seen is None:
        return ["whether the encoder was pretrained on test images was not looked at (seen=off)"]
    count, said = int(seen.any.sum()), []
    if seen.unknown:
        which = "more of the test images" if count else "test images"
        said.append(f"it is not known whether the encoder has seen {which}: {seen.unknown}")
    if count:
        kept = "" if seen.left_out is None else ", which are left out"
        said.append(f"the encoder was pretrained on {count} of the test images{kept}")
    if seen.left_out is not None and (others := int((seen.left_out & ~seen.any).sum())):
        said.append(f"{others} test images that another encoder was pretrained on are left out too")
    return said


def seen_before(
    training: Sequence[AuditSet],
    test: Manifest,
    *,
    cache: Path,
    near: bool = True,
    threads: int = 2,
    packed: str = "",
) -> Seen:
    """Looks for the test images among the pretraining images.

    Args:
        training: Of `training_sets`, at least one.
        test: The test images.
        cache: Parquet file that keeps fingerprints of images between runs.
        near: Whether changed copies are looked for too; exact ones always are.
        threads: Threads that decode and compare.
        packed: Folder or URL of the test images where they are packed.
    """
    none = np.zeros(len(test), bool)
    cache.parent.mkdir(parents=True, exist_ok=True)
    blank = Manifest(test.table.drop_columns(["split"]), test.root)
    sets = [*training, AuditSet("test", blank, none.astype(str), packed)]
    found = measure(sets, cache, threads=threads)
    known = found["sha1"] != ""
    trained = len(known) - len(test)
    of_test = np.arange(len(known)) >= trained
    exact = np.isin(found["sha1"][of_test].astype(str), found["sha1"][~of_test & known].astype(str))
    exact &= known[of_test]
    similar = none
    if near:
        # Equal images once, because they crowd the index; those of the test split that are new, and all of training.
        kept = known.copy()
        kept[np.flatnonzero(of_test)[exact]] = False
        rows = np.flatnonzero(kept)[np.unique(found["sha1"][kept].astype(str), return_index=True)[1]]
        rows.sort()  # neighbours lie in the same shard
        similar = _near(rows, found["phash"], SmallImages(sets), of_test, threads)[of_test]
        # A copy within the test split is not among `rows` but was seen as its twin was.
        twins = np.unique(found["sha1"][of_test][similar].astype(str))
        similar = np.isin(found["sha1"][of_test].astype(str), twins) & known[of_test] & ~exact
    return Seen(exact, similar, trained, "" if near else "changed copies were not looked for")


def _near(
    rows: NDArray[np.int64], hashes: NDArray[Any], images: SmallImages, of_test: NDArray[np.bool_], threads: int
) -> NDArray[np.bool_]:
    marked = np.zeros(len(of_test), bool)
    pairs, _, unverified = near_pairs(
        lambda number: images(int(rows[number])), hashes[rows].tolist(), marked=of_test[rows], threads=threads
    )
    if unverified:
        logger.warning("%d possible copies could not be compared, because a file cannot be read", unverified)
    found = rows[pairs].ravel()
    marked[found[of_test[found]]] = True
    return marked
