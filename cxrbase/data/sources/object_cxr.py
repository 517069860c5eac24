"""object-CXR: foreign objects on frontal radiographs, one table per split."""

from pathlib import Path, PurePosixPath

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.tables import find_table, header, read_csv
from cxrbase.errors import ManifestError

_SPLITS = {"train": "train", "dev": "val", "test": "test"}


def _read(root: Path) -> Columns:
    paths: list[str] = []
    splits: list[str] = []
    shapes: list[str] = []
    for folder, split in _SPLITS.items():
        if folder == "test" and not (root / "test.csv").is_file():
            continue
        table = find_table(root, f"{folder}.csv")
        image = _image_column(table)
        rows = read_csv(table, columns=(image, "annotation"))
        paths += [f"{folder}/{PurePosixPath(name).name}" for name in rows[image]]
        splits += [split] * len(rows[image])
        shapes += rows["annotation"]
    return {
        "path": paths,
        "split": splits,
        "shapes": shapes,
        "label_foreign_object": [float(bool(shape)) for shape in shapes],
    }


def _image_column(table: Path) -> str:
    names = header(table)
    for name in ("image_path", "image_name"):
        if name in names:
            return name
    raise ManifestError(
        f"{table} has neither a column image_path nor image_name, found {', '.join(names) or 'nothing'}"
    )


SOURCE = Source(
    name="object-cxr",
    title="object-CXR",
    access="open, archive.org or academictorrents",
    licence="non-commercial research",
    layout=(
        "train.csv and dev.csv (image_path or image_name, annotation)",
        "train/*.jpg and dev/*.jpg",
        "optional test.csv and test/*.jpg",
    ),
    images=9_000,
    size="13.6 GB",
    reader=_read,
    notes=(
        "10,000 images are published, 8,000 train, 1,000 dev (val here) and 1,000 test, half of them with an object; "
        "the test set is not in the archive, so 9,000 are asked for",
        "no patient id; all frontal, PA or AP is not told",
        "the column shapes holds the annotation: `type x1 y1 x2 y2 ...` joined by semicolons, 0 rectangle, 1 ellipse, "
        "2 polygon, origin top left; blank is no object, and devices are not annotated",
    ),
)
