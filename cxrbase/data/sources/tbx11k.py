"""TBX11K: tuberculosis with boxes, as COCO tables for train and val; the labels of test are withheld."""

import json
from pathlib import Path
from typing import Any

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import UNKNOWN
from cxrbase.data.sources.tables import files_below, find_table, read_lines
from cxrbase.errors import ManifestError

_ACTIVE, _LATENT = 1, 2
_LABELS = ("healthy", "sick_non_tuberculosis", "tuberculosis", "active_tuberculosis", "latent_tuberculosis")
_FOLDERS = {"health": (1.0, 0.0, 0.0, 0.0, 0.0), "sick": (0.0, 1.0, 0.0, 0.0, 0.0)}


def _read(root: Path) -> Columns:
    boxes: dict[str, list[Any]] = {}
    splits: dict[str, str] = {}
    for split in ("train", "val"):
        table = _coco(find_table(root, f"annotations/json/TBX11K_{split}.json"))
        listed = root / "lists" / f"TBX11K_{split}.txt"
        names = [*table, *(read_lines(listed) if listed.is_file() else ())]
        splits |= dict.fromkeys(names, split)
        boxes |= table
    splits |= dict.fromkeys([f"test/{name}" for name in files_below(root / "imgs/test", {".png"})], "test")
    shapes = {name: [(entry["category_id"], *entry["bbox"]) for entry in boxes.get(name, [])] for name in splits}
    values = [_values(name, {shape[0] for shape in shapes[name]}) for name in splits]
    return {
        "path": [f"imgs/{name}" for name in splits],
        "split": list(splits.values()),
        "shapes": [";".join(" ".join(map(str, shape)) for shape in shapes[name]) for name in splits],
        **{f"label_{label}": [row[place] for row in values] for place, label in enumerate(_LABELS)},
    }


def _coco(path: Path) -> dict[str, list[Any]]:
    """Annotations of each image, by its name."""
    try:
        content = json.loads(path.read_bytes())
        names = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
        found: dict[str, list[Any]] = {name: [] for name in names.values()}
        for entry in content["annotations"]:
            found[names[entry["image_id"]]].append({"category_id": int(entry["category_id"]), "bbox": [*entry["bbox"]]})
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ManifestError(f"{path} is not a COCO table, download it again: {type(error).__name__} {error}") from error
    return found


def _values(name: str, categories: set[int]) -> tuple[float, ...]:
    folder = name.partition("/")[0]
    if folder != "tb":
        return _FOLDERS.get(folder, (UNKNOWN,) * len(_LABELS))
    # A box of category 3 (Pulmonary) does not say which, and one image has no box at all.
    known = bool(categories) and categories <= {_ACTIVE, _LATENT}
    kinds = [1.0 if kind in categories else 0.0 if known else UNKNOWN for kind in (_ACTIVE, _LATENT)]
    return (0.0, 0.0, 1.0, *kinds)


SOURCE = Source(
    name="tbx11k",
    title="TBX11K",
    access="not recorded",
    licence="CC BY-NC-SA 2.0",
    layout=(
        "annotations/json/TBX11K_{train,val}.json",
        "optional lists/TBX11K_{train,val}.txt",
        "imgs/{health,sick,tb,test}/*.png",
    ),
    images=11_200,
    reader=_read,
    notes=(
        "train 6,600, val 1,800; the labels of test are withheld, and its folder imgs/test and the lists' names are "
        "unverified; a release with 3,302 test files holds more than the 11,200 published",
        "no patient id",
        "categories are 1 active, 2 obsolete (latent here), 3 pulmonary (which is unknown here); tb1199.png has no box",
        "the column shapes holds `category x y width height`, joined by semicolons",
        "the release includes Montgomery, Shenzhen and DA/DB; only the four folders above are read",
    ),
)
