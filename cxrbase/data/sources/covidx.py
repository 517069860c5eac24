"""COVIDx V9A, V9B and V5 of COVID-Net: lists of images gathered from other public sets."""

from functools import partial
from pathlib import Path

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import UNKNOWN
from cxrbase.data.sources.splits import one_split
from cxrbase.data.sources.tables import find_table, read_lines
from cxrbase.errors import ManifestError

_THREE = {
    "normal": {"covid_19": 0.0, "non_covid_pneumonia": 0.0, "no_pneumonia": 1.0},
    "pneumonia": {"covid_19": 0.0, "non_covid_pneumonia": 1.0, "no_pneumonia": 0.0},
    "COVID-19": {"covid_19": 1.0, "non_covid_pneumonia": 0.0, "no_pneumonia": 0.0},
}
_TWO = {"negative": {"covid_19": 0.0}, "positive": {"covid_19": 1.0}}
_TYPOS = {"rnsa": "rsna"}


def _read(root: Path, *, name: str, version: str, classes: dict[str, dict[str, float]]) -> Columns:
    base = "data/" if (root / "data").is_dir() else ""
    columns: dict[str, list[str]] = {key: [] for key in ("path", "patient_id", "split", "finding", "origin")}
    for split in ("train", "test"):
        table = f"{split}_COVIDx{version}.txt"
        path = find_table(root, table, f"labels/{table}")
        for number, line in enumerate(read_lines(path), 1):
            patient, file, finding, origin = _cells(path, number, line, classes)
            # Two sets may give one number to two people.
            row = (f"{base}{split}/{file}", f"{name}:{origin}:{patient}", split, finding, origin)
            for values, value in zip(columns.values(), row, strict=True):
                values.append(value)
    official = columns["split"]
    columns["split"] = one_split(columns["patient_id"], official, name=name)
    labels = {key for values in classes.values() for key in values}
    marks = {f"label_{k}": [classes[c].get(k, UNKNOWN) for c in columns["finding"]] for k in sorted(labels)}
    return columns | {"official_split": official} | marks


def _cells(path: Path, number: int, line: str, classes: dict[str, dict[str, float]]) -> tuple[str, str, str, str]:
    # Only the name may hold spaces.
    head, *tail = line.rsplit(maxsplit=2)
    parts = [*head.split(maxsplit=1), *tail]
    if len(parts) != 4:
        raise ManifestError(f"{path} must hold `patientid filename class source` in line {number}, got {line[:80]!r}")
    patient, file, finding, origin = parts
    if finding not in classes:
        raise ManifestError(f"{path} has the class {finding!r} in line {number}: it must be {' or '.join(classes)}")
    return patient, file, finding, _TYPOS.get(origin, origin)


def _source(version: str, images: int, classes: dict[str, dict[str, float]], notes: tuple[str, ...]) -> Source:
    name = f"covidx-{version.lower()}"
    return Source(
        name=name,
        title=f"COVIDx V{version}",
        access="Kaggle (andyczhao/covidx-cxr2) or rebuilt with the COVID-Net repository",
        licence="repository AGPL-3.0; the images have the terms of their sources",
        layout=(
            f"train_COVIDx{version}.txt and test_COVIDx{version}.txt, in the folder or in labels/",
            "train/<filename> and test/<filename>, or the same below data/",
        ),
        images=images,
        reader=partial(_read, name=name, version=version, classes=classes),
        notes=(
            *notes,
            "class is confounded with source: keep the column origin, and never compare classes across it",
            "rsna images are NIH ChestX-ray14 images; covid-chestxray, Kermany and PadChest/BIMCV are reused as well",
            "the label files name images that the zip at Kaggle lacks: then --partial",
            "`rnsa` in the label files is a misspelt rsna, and is read as that",
            "patients are told apart by origin and id; one in both official splits goes to test as a whole, the "
            "official split stays in the column official_split",
        ),
    )


SOURCES = (
    _source("9A", 30_530, _THREE, ("train 30,130 of 16,424 patients, test 400 of 378 patients",)),
    _source(
        "9B",
        30_882,
        _TWO,
        ("train 30,482, test 400; in the test list every positive is ricord and every negative rsna: accuracy "
         "there says which set an image is from",),
    ),
    _source("5", 14_258, _THREE, ("train 13,958, test 300; the names of its label files are unverified",)),
)  # fmt: skip
