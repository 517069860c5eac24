"""SIIM-ACR Pneumothorax Segmentation: DICOM images with masks of the pneumothorax as run lengths."""

from pathlib import Path, PurePosixPath

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import UNKNOWN
from cxrbase.data.sources.tables import files_below, find_table, read_csv
from cxrbase.errors import ManifestError

TABLES = ("train-rle.csv", "stage_2_train.csv")
IMAGES = "dicom-images-train"


def _read(root: Path) -> Columns:
    masks = _masks(find_table(root, *TABLES))
    homes = {PurePosixPath(name).stem: f"{IMAGES}/{name}" for name in files_below(root / IMAGES, [".dcm"])}
    # Images without a row are good for pretraining all the same.
    images = [*masks, *sorted(homes.keys() - masks.keys())]
    paths = [homes.get(image, f"{IMAGES}/{image}.dcm") for image in images]
    counts = [masks.get(image) for image in images]
    return {
        "path": paths,
        "study_id": [f"siim:{PurePosixPath(path).parts[1]}" if path.count("/") > 1 else "" for path in paths],
        "masks": ["" if count is None else str(count) for count in counts],
        "label_pneumothorax": [UNKNOWN if count is None else float(count > 0) for count in counts],
    }


def _masks(path: Path) -> dict[str, int]:
    """Number of masks of each image."""
    table = read_csv(path, columns=["ImageId", "EncodedPixels"])
    masks: dict[str, int] = {}
    for image, pixels in zip(table["ImageId"], table["EncodedPixels"], strict=True):
        if pixels != "-1" and not all(part.isascii() and part.isdigit() for part in pixels.split() or ["?"]):
            raise ManifestError(
                f"EncodedPixels of {path} must be -1 or numbers, got {pixels[:20]!r}: download it again"
            )
        masks[image] = masks.get(image, 0) + (pixels != "-1")
    return masks


SOURCE = Source(
    name="siim",
    title="SIIM-ACR Pneumothorax Segmentation",
    access="Kaggle: siim-acr-pneumothorax-segmentation",
    licence="not stated",
    layout=(f"{IMAGES}/<study>/<series>/<ImageId>.dcm", " or ".join(TABLES)),
    images=12_047,
    reader=_read,
    notes=(
        "a label is 1 where an image has a mask; the column masks has their number; -1 is none",
        "images without a row in the table are listed with an unknown label",
        "there are no patient ids in the table; study_id is the folder of the study",
        "the images come from NIH ChestX-ray14 (unverified): keep the two apart",
        "the name stage_2_train.csv is unverified; there is no official split with public labels",
    ),
)
