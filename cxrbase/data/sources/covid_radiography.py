"""COVID-19 Radiography database: a folder per class."""

from pathlib import Path

from cxrbase.data.sources.base import Columns, Source
from cxrbase.data.sources.labels import UNKNOWN
from cxrbase.data.sources.tables import files_below, read_csv

_NORMAL = {"normal": 1.0, "covid_19": 0.0, "lung_opacity": 0.0, "viral_pneumonia": 0.0}
_CLASSES = {
    "COVID": {"normal": 0.0, "covid_19": 1.0},
    "Lung_Opacity": {"normal": 0.0, "covid_19": 0.0, "lung_opacity": 1.0},
    "Normal": _NORMAL,
    "NORMAL": _NORMAL,
    "Viral Pneumonia": {"normal": 0.0, "covid_19": 0.0, "viral_pneumonia": 1.0},
}


def _read(root: Path) -> Columns:
    paths: list[str] = []
    findings: list[str] = []
    for name in sorted({entry.name for entry in root.iterdir()} & _CLASSES.keys()):
        # The masks beside images/ have the images' names.
        below = f"{name}/images" if (root / name / "images").is_dir() else name
        found = [f"{below}/{path}" for path in files_below(root / below, {".png", ".jpg", ".jpeg"})]
        paths += found
        findings += [name] * len(found)
    origins = _origins(root)
    labels = {f"label_{key}": [_CLASSES[name].get(key, UNKNOWN) for name in findings] for key in _NORMAL}
    origin = [origins.get(Path(path).stem.lower(), "") for path in paths]
    return {"path": paths, "finding": findings, "origin": origin, **labels}


def _origins(root: Path) -> dict[str, str]:
    """Address that an image was taken from, by its name; official names differ in case from the files'."""
    found: dict[str, str] = {}
    for name in _CLASSES:
        path = root / f"{name}.metadata.csv"
        if path.is_file():
            table = read_csv(path, columns=("FILE NAME", "URL"))
            found |= dict(zip(map(str.lower, table["FILE NAME"]), table["URL"], strict=True))
    return found


SOURCE = Source(
    name="covid-radiography",
    title="COVID-19 Radiography database",
    access="Kaggle (unverified)",
    licence="not stated",
    layout=(
        "COVID/images/*.png, Lung_Opacity/images/*.png, Normal/images/*.png, Viral Pneumonia/images/*.png",
        "optional <class>.metadata.csv (FILE NAME, URL), saved from the .xlsx of the same name",
    ),
    images=21_165,
    reader=_read,
    notes=(
        "3,616 COVID, 10,192 normal, 6,012 lung opacity, 1,345 viral pneumonia; masks/ is left out",
        "no patient id, and no official split",
        "classes exclude each other, findings need not: whether a COVID image shows an opacity is unknown (NaN); the "
        "class is in the column finding",
        "normals are 8,851 RSNA (NIH) and 1,341 Kermany images, COVID ones 2,473 PadChest/BIMCV, 183 from Germany, 559 "
        "SIRM and others, 400 from GitHub: class is confounded with source",
        "the column origin is blank without the tables; their column names are unverified",
    ),
)
