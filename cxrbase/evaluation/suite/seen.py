"""Which test images an encoder was pretrained on, by the fingerprints of both."""

import logging
from dataclasses import dataclass
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
from cxrbase.data.images import default_cache, index_path, is_packed
from cxrbase.data.manifest import Manifest
from cxrbase.data.shard_index import ShardIndex
from cxrbase.errors import ConfigError, ManifestError, ShardError

logger = logging.getLogger(__name__)

Look = Literal["near", "exact", "off"]


@dataclass(frozen=True, eq=False)
class Seen:
    """Test images that were in the pretraining set.

    Args:
        exact: (N,) bool, the same pixels.
        near: (N,) bool, the same exposure cropped, windowed, scaled, flipped or compressed; not those of `exact`.
        training_images: Number of images that the encoder was pretrained on; None where that is not known.
        note: Why it is not known, or "".
    """

    exact: NDArray[np.bool_]
    near: NDArray[np.bool_]
    training_images: int | None
    note: str

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
            "note": self.note,
        }


def training_set(encoder: str | Path) -> AuditSet | str:
    """The images that an encoder of ours was pretrained on, by its run folder; otherwise why they are not known.

    Args:
        encoder: A run folder or a file in it; its config.yaml names the images.
    """
    path = Path(encoder)
    config = (path if path.is_dir() else path.parent) / "config.yaml"
    if not config.is_file():
        return "the encoder has no config.yaml beside it that says what it was pretrained on"
    try:
        data = read_config(config)["data"]
        root, splits = data["root"], tuple(data.get("pretrain_on") or ("train",))
        if not isinstance(root, str):
            raise TypeError(f"data.root is {root!r}")
        found = open_set(root if is_packed(root) else Path(root, data.get("manifest") or ""))
    except (ConfigError, KeyError, TypeError) as error:
        return f"{config} does not say what the encoder was pretrained on ({' '.join(str(error).split())})"
    except (ManifestError, ShardError) as error:
        return f"the images that the encoder was pretrained on are not there: {error}"
    table = found.manifest if found.packed else Manifest(found.manifest.table, Path(root))
    of_split = found.splits
    if not any(of_split):
        # As the data module deals them.
        index = ShardIndex(index_path(root, default_cache(root))) if found.packed else None
        of_split = index.splits() if index is not None else table.with_splits().column("split")
    rows = np.flatnonzero(np.isin(of_split.astype(str), splits))
    return AuditSet("pretraining", Manifest(table.table.take(rows), table.root), of_split[rows], found.packed)


def seen_by(place: str, test: Manifest, *, look: Look, cache: Path, root: str = "") -> Seen | None:
    """Which test images an encoder has seen, given where it is from; None where that is not looked for.

    Args:
        place: As `load_any_encoder` takes it.
        test: The test images.
        look: For `near` copies and exact ones, for `exact` ones alone, or `off`.
        cache: Parquet file that keeps fingerprints of images between runs.
        root: Folder or URL of the test images; needed where they are packed.
    """
    if look == "off":
        return None
    if (place.startswith("timm:") and "=" not in place) or _never_trained(Path(place)):
        none = np.zeros(len(test), bool)
        return Seen(none, none, 0, "untrained")
    packed, threads = root if root and is_packed(root) else "", available_cores()
    return seen_before(training_set(place), test, cache=cache, near=look == "near", threads=threads, packed=packed)


def _never_trained(place: Path) -> bool:
    """Whether an encoder's own description says that it has seen no image."""
    folder = place if place.is_dir() else place.parent
    return (folder / ENCODER_FILE).is_file() and read_card(folder).get("objective") == UNTRAINED


def seen_warnings(seen: Seen | None, left_out: int = 0) -> list[str]:
    """What a reader of a score must know about images that were seen before, in sentences."""
    if seen is None:
        return []
    if seen.training_images is None:
        return [f"it is not known whether the encoder has seen test images: {seen.note}"]
    count = int(seen.any.sum())
    if not count:
        return []
    return [f"the encoder was pretrained on {count} of the test images" + (", which are left out" if left_out else "")]


def seen_before(
    training: AuditSet | str, test: Manifest, *, cache: Path, near: bool = True, threads: int = 2, packed: str = ""
) -> Seen:
    """Looks for the test images among the pretraining images.

    Args:
        training: Of `training_set`.
        test: The test images.
        cache: Parquet file that keeps fingerprints of images between runs.
        near: Whether changed copies are looked for too; exact ones always are.
        threads: Threads that decode and compare.
        packed: Folder or URL of the test images where they are packed.
    """
    none = np.zeros(len(test), bool)
    if isinstance(training, str):
        return Seen(none, none, None, training)
    cache.parent.mkdir(parents=True, exist_ok=True)
    blank = Manifest(test.table.drop_columns(["split"]), test.root)
    sets = [training, AuditSet("test", blank, none.astype(str), packed)]
    found = measure(sets, cache, threads=threads)
    known = found["sha1"] != ""
    of_test = np.arange(len(known)) >= len(training.manifest)
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
    return Seen(exact, similar, len(training.manifest), "" if near else "changed copies were not looked for")


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
