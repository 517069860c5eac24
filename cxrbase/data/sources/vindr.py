"""VinDr-CXR 1.0.0: DICOM images of Hanoi read by radiologists, from PhysioNet or from the Kaggle competition."""

from pathlib import Path

from cxrbase.data.manifest import LABEL_PREFIX
from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import UNKNOWN, snake, uncertain
from cxrbase.data.sources.tables import files_below, find_table, header, read_csv
from cxrbase.errors import ManifestError

READERS_PREFIX = "readers_"
LOCAL = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration"),
    *("Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    "Pulmonary fibrosis",
)
FINDINGS = (
    *LOCAL,
    *("Clavicle fracture", "Edema", "Emphysema", "Enlarged PA", "Lung cavity", "Lung cyst", "Mediastinal shift"),
    *("Rib fracture", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding"),
)
KAGGLE = (*LOCAL, "No finding")
Votes = dict[str, dict[str, list[float]]]


def _read(root: Path) -> Columns:
    parts = {split: _votes(find_table(root, f"annotations/image_labels_{split}.csv")) for split in ("train", "test")}
    return _columns(
        [(split, image, votes) for split, found in parts.items() for image, votes in found.items()], FINDINGS
    )


def _votes(path: Path) -> Votes:
    """For each image and finding what its readers said."""
    # The test table says "Other disease".
    names = header(path)
    official = {name: name for name in FINDINGS}
    if official["Other diseases"] not in names and "Other disease" in names:
        official["Other diseases"] = "Other disease"
    readers = ["rad_id"] if "rad_id" in names else []
    table = read_csv(path, columns=["image_id", *readers, *official.values()])
    values = {name: uncertain(table[column]) for name, column in official.items()}
    votes: Votes = {}
    for row, image in enumerate(table["image_id"]):
        of_image = votes.setdefault(image, {name: [] for name in FINDINGS})
        for name in FINDINGS:
            of_image[name].append(values[name][row])
    return votes


def _read_kaggle(root: Path) -> Columns:
    path = find_table(root, "train.csv")
    table = read_csv(path, columns=["image_id", "class_name", "rad_id"])
    said: dict[str, dict[str, set[str]]] = {}
    for image, name, reader in zip(table["image_id"], table["class_name"], table["rad_id"], strict=True):
        if name not in KAGGLE:
            raise ManifestError(f"column class_name of {path} has {name!r}, no class of the set: download it again")
        said.setdefault(image, {}).setdefault(reader, set()).add(name)
    rows: list[tuple[str, str, dict[str, list[float]]]] = []
    for image, readers in said.items():
        # Every reader has a row: those who saw nothing say `No finding`.
        votes = {name: [float(name in names) for names in readers.values()] for name in KAGGLE}
        rows.append(("train", image, votes))
    tested = [name.removesuffix(".dicom") for name in files_below(root / "test", [".dicom"])]
    rows += [("test", image, {name: [] for name in KAGGLE}) for image in tested]
    columns = _columns(rows, KAGGLE)
    # The images in test/ have no labels here, so this is no split to evaluate on.
    columns["part"] = columns.pop("split")
    return columns


def _columns(rows: list[tuple[str, str, dict[str, list[float]]]], findings: tuple[str, ...]) -> Columns:
    columns: Columns = {
        "path": [f"{split}/{image}.dicom" for split, image, _ in rows],
        "study_id": [f"vindr:{image}" for _, image, _ in rows],
        "split": [split for split, _, _ in rows],
        "view_position": ["PA"] * len(rows),
    }
    for name in findings:
        columns[LABEL_PREFIX + snake(name)] = [_majority(votes[name]) for _, _, votes in rows]
        columns[READERS_PREFIX + snake(name)] = [_count(votes[name]) for _, _, votes in rows]
    return columns


def _majority(votes: list[float]) -> float:
    """1 where more than half of the readers see the finding, 0 where fewer do, NaN without readers or at a tie."""
    known = [vote for vote in votes if vote == vote]  # NaN is unequal to itself
    twice = 2 * sum(known)
    return UNKNOWN if twice == len(known) else float(twice > len(known))


def _count(votes: list[float]) -> str:
    known = [vote for vote in votes if vote == vote]
    return f"{sum(known):.0f}/{len(known)}" if known else ""


_NOTES = (
    "there are no patient ids: a split of the train part by patient is impossible",
    "three readers saw each train image: a label is what the majority says, readers_<finding> has the count, as 2/3",
    "there is no column for the view; all images are PA",
    "541 of the 3,000 test files are MONOCHROME1",
)

SOURCES = (
    Source(
        name="vindr",
        title="VinDr-CXR 1.0.0",
        access="PhysioNet, credentialed: physionet.org/content/vindr-cxr/1.0.0",
        licence="PhysioNet credentialed; neither images nor thumbnails with ids may be passed on",
        layout=(
            "train/<image_id>.dicom and test/<image_id>.dicom",
            "annotations/image_labels_train.csv and annotations/image_labels_test.csv",
        ),
        images=18_000,
        reader=_read,
        notes=(*_NOTES, "the test labels are the consensus of five readers, so their count is 0/1 or 1/1"),
    ),
    Source(
        name="vindr-kaggle",
        title="VinDr-CXR of the Kaggle competition",
        access="Kaggle: vinbigdata-chest-xray-abnormalities-detection (name unverified)",
        licence="not stated",
        layout=("train/<image_id>.dicom and test/<image_id>.dicom", "train.csv"),
        images=18_000,
        reader=_read_kaggle,
        notes=(
            *_NOTES,
            "labels are those of the boxes: 14 findings and no_finding",
            "test/ has no labels, so split is blank and the column part says train or test; that test/ holds the 3,000 "
            "test images of the PhysioNet release is unverified",
            "the images are those of vindr: use one of the two, not both",
        ),
    ),
)
