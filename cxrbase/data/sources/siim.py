"""SIIM-ACR Pneumothorax Segmentation: DICOM images with masks of the pneumothorax as run lengths."""

from pathlib import Path, PurePosixPath

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import UNKNOWN
from cxrbase.data.sources.tables import files_below, find_table, read_csv
from cxrbase.errors import ManifestError

# The first labels the test images of stage 1 too.
TABLES = ("stage_2_train.csv", "train-rle.csv")
IMAGES, TEST = "dicom-images-train", "dicom-images-test"


def _read(root: Path) -> Columns:
    masks = _masks(find_table(root, *TABLES))
    homes = _homes(root, IMAGES)
    # Training images without a row are good for pretraining all the same; test images without one stay unseen.
    images = [*masks, *sorted(homes.keys() - masks.keys())]
    homes = _homes(root, TEST) | homes
    paths = [homes.get(image, f"{IMAGES}/{image}.dcm") for image in images]
    counts = [masks.get(image) for image in images]
    return {
        "path": paths,
        "study_id": [f"siim:{PurePosixPath(path).parts[1]}" if path.count("/") > 1 else "" for path in paths],
        "masks": ["" if count is None else str(count) for count in counts],
        "label_pneumothorax": [UNKNOWN if count is None else float(count > 0) for count in counts],
    }


def _homes(root: Path, folder: str) -> dict[str, str]:
    """Path of each image of a folder."""
    return {PurePosixPath(name).stem: f"{folder}/{name}" for name in files_below(root / folder, [".dcm"])}


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
    layout=(f"{IMAGES}/ and {TEST}/<study>/<series>/<ImageId>.dcm", " or ".join(TABLES)),
    images=12_047,
    reader=_read,
    notes=(
        "a label is 1 where an image has a mask; the column masks has their number; -1 is none",
        f"images of {IMAGES} without a row in the table are listed with an unknown label, those of {TEST} are left out",
        "train-rle.csv labels images of the first folder only, so that alone it needs --partial",
        "there are no patient ids in the table; study_id is the folder of the study",
        "the images come from NIH ChestX-ray14 (unverified): keep the two apart",
        "there is no official split with public labels",
    ),
)
