"""Tiny folders laid out as the large public data sets, with the truth about each."""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CHEXPERT = [
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
    *("Fracture", "Support Devices"),
]
PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
VINDR = [
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture"),
    *("Consolidation", "Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity"),
    *("Lung cavity", "Lung cyst", "Mediastinal shift", "Nodule/Mass", "Pleural effusion"),
    *("Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture", "Other lesion", "COPD"),
    *("Lung tumor", "Pneumonia", "Tuberculosis"),
]
Row = Sequence[object]


def field(name: str, *, side: int = 72) -> np.ndarray:
    """A smooth random field, another for each name."""
    coarse = np.random.default_rng(zlib.crc32(name.encode())).random((5, 5)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((side, side + 8), Image.Resampling.BICUBIC))
    return (np.clip(smooth, 0, 1) * 255).astype(np.uint8)


def image(path: Path, *, deep: bool = False, broken: bool = False) -> None:
    """Writes an image of the kind that the name says; `deep` has 12 bits in 16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = field("/".join(path.parts[-3:]))
    if path.suffix in (".dcm", ".dicom"):
        _dicom(path, pixels)
    else:
        Image.fromarray(pixels.astype(np.uint16) * 16 if deep else pixels).save(path)
    if broken:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _dicom(path: Path, pixels: np.ndarray) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = f"1.2.{zlib.crc32(path.name.encode())}"
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.Modality, data.PixelData = 7, "DX", pixels.tobytes()
    data.save_as(path)


def table(path: Path, names: Sequence[str], rows: Sequence[Row], *, bom: bool = False) -> None:
    """Writes a table; compressed where the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8-sig" if bom else "utf-8", newline="") as file:
        csv.writer(file).writerows([names, *rows])


def codes(**known: str) -> list[str]:
    """One code per CheXpert finding; names have _ for a space, the rest is blank."""
    return [known.get(name.replace(" ", "_"), "") for name in CHEXPERT]


MIMIC_IMAGES = (
    # dicom_id, subject, study, official view, split, what is done to the file
    ("aaa1-0", "10000032", "50414267", "PA", "train", ""),
    ("aaa1-1", "10000032", "50414267", "LATERAL", "train", ""),
    ("bbb2-0", "10000935", "50578979", "AP", "validate", "broken"),
    ("ccc3-0", "11000001", "51000001", "", "test", ""),
    ("ccc3-1", "11000001", "51000002", "LL", "test", ""),
    ("ddd4-0", "19000009", "59000009", "PA LLD", "train", "missing"),
)
MIMIC_TRUTH = {
    "listed": 6,
    "present": 5,
    "published": "377,110",
    "patients": {"mimic-cxr:10000032", "mimic-cxr:10000935", "mimic-cxr:11000001"},
    "splits": {"train": 2, "val": 1, "test": 2},
    "views": ["PA", "LATERAL", "AP", "", "LATERAL"],
    "columns": {"code_edema": ["-1", "-1", "0", "", ""], "study_date": ["21800506"] * 5},
    "labels": {
        "edema": [None, None, 0, None, None],
        "cardiomegaly": [1, 1, None, None, None],
        "no_finding": [None, None, None, None, 1],
    },
}


def make_mimic_cxr_jpg(root: Path) -> dict:
    """As on PhysioNet: compressed tables; one image missing, one broken, one study without labels."""
    metadata = [
        *("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition"),
        *("Rows", "Columns", "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning"),
        *("ViewCodeSequence_CodeMeaning", "PatientOrientationCodeSequence_CodeMeaning"),
    ]
    rows = [
        (name, who, study, "CHEST (PA AND LAT)", view, 80, 72, "21800506", "213014.531", 'CHEST, "PA"', "x", "Erect")
        for name, who, study, view, _, _ in MIMIC_IMAGES
    ]
    table(root / "mimic-cxr-2.0.0-metadata.csv.gz", metadata, rows)
    splits = [(name, study, who, split) for name, who, study, _, split, _ in MIMIC_IMAGES]
    table(root / "mimic-cxr-2.0.0-split.csv.gz", ["dicom_id", "study_id", "subject_id", "split"], splits)
    labels = [
        ("10000032", "50414267", *codes(Cardiomegaly="1.0", Edema="-1.0")),
        ("10000935", "50578979", *codes(Edema="0.0")),
        ("11000001", "51000002", *codes(No_Finding="1.0")),
    ]
    table(root / "mimic-cxr-2.0.0-chexpert.csv.gz", ["subject_id", "study_id", *CHEXPERT], labels)
    for name, who, study, _, _, done in MIMIC_IMAGES:
        if done != "missing":
            image(root / f"files/p{who[:2]}/p{who}/s{study}/{name}.jpg", broken=done == "broken")
    return MIMIC_TRUTH


def make_mimic_cxr(root: Path) -> dict:
    """The DICOM release beside the tables of the JPEG release."""
    make_mimic_cxr_jpg(root)
    for name, who, study, _, _, done in MIMIC_IMAGES:
        folder = f"files/p{who[:2]}/p{who}/s{study}"
        if done != "missing":
            image(root / folder / f"{name}.dcm", broken=done == "broken")
            (root / folder / f"{name}.jpg").unlink()
    rows = [(who, study, name, f"files/p{who[:2]}/p{who}/s{study}/{name}.dcm") for name, who, study, *_ in MIMIC_IMAGES]
    table(root / "cxr-record-list.csv.gz", ["subject_id", "study_id", "dicom_id", "path"], rows)
    return MIMIC_TRUTH


CHEXPERT_IMAGES = (
    ("train/patient00001/study1/view1_frontal.jpg", "Female", "68", "Frontal", "AP", codes(Edema="-1.0")),
    ("train/patient00001/study1/view2_lateral.jpg", "Female", "68", "Lateral", "", codes(Edema="-1.0")),
    ("train/patient00002/study2/view1_frontal.jpg", "Male", "87", "Frontal", "PA", codes(No_Finding="1.0")),
    (
        "train/patient00003/study1/view1_frontal.jpg",
        "Unknown",
        "0",
        "Frontal",
        "LL",
        codes(Edema="1.0", Fracture="0.0"),
    ),
    ("train/patient00004/study1/view1_frontal.jpg", "Male", "41", "Frontal", "AP", codes(Support_Devices="1.0")),
    ("valid/patient64541/study1/view1_frontal.jpg", "Male", "73", "Frontal", "AP", ["0.0"] * 14),
)
CHEXPERT_TRUTH = {
    "listed": 6,
    "present": 5,
    "published": "223,414",
    "patients": {"chexpert:patient00001", "chexpert:patient00002", "chexpert:patient00003", "chexpert:patient64541"},
    "splits": {"train": 4, "val": 1},
    "views": ["AP", "LATERAL", "PA", "", "AP"],
    "columns": {
        "sex": ["F", "F", "M", "", "M"],
        "age": [68, 68, 87, 0, 73],
        "view_official": ["Frontal AP", "Lateral", "Frontal PA", "Frontal LL", "Frontal AP"],
        "code_edema": ["-1", "-1", "", "1", "0"],
    },
    "labels": {"edema": [None, None, None, 1, 0], "fracture": [None, None, None, 0, 0]},
}


def _chexpert_tables(root: Path, release: str) -> None:
    names = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT]
    for name, part in (("train", "train/"), ("valid", "valid/")):
        rows = [(f"{release}/{path}", *rest, *found) for path, *rest, found in CHEXPERT_IMAGES if path.startswith(part)]
        table(root / f"{name}.csv", names, rows)


def make_chexpert_small(root: Path) -> dict:
    """As on Kaggle: the tables and folders directly inside; patient00004 is missing."""
    _chexpert_tables(root, "CheXpert-v1.0-small")
    for path, *_ in CHEXPERT_IMAGES:
        if "patient00004" not in path:
            image(root / path, broken="view2" in path)
    return CHEXPERT_TRUTH


def make_chexpert(root: Path) -> dict:
    """As of Stanford: patients dealt to batches, which the table does not say."""
    _chexpert_tables(root / "CheXpert-v1.0 batch 1 (validate & csv)", "CheXpert-v1.0")
    for number, (path, *_) in enumerate(CHEXPERT_IMAGES):
        split, rest = path.split("/", 1)
        batch = "1 (validate & csv)/valid" if split == "valid" else "2 (train 1)" if number < 2 else "3 (train 2)"
        if "patient00004" not in path:
            image(root / f"CheXpert-v1.0 batch {batch}/{rest}", broken="view2" in path)
    return CHEXPERT_TRUTH


NIH_IMAGES = (
    ("00000001_000.png", "Cardiomegaly", 0, "1", "57", "M", "PA", "train"),
    ("00000001_001.png", "Cardiomegaly|Emphysema", 1, "1", "58", "M", "AP", "train"),
    ("00000002_000.png", "No Finding", 0, "2", "414", "F", "PA", "train"),
    ("00000003_000.png", "Pleural_Thickening|Hernia", 0, "3", "81", "F", "PA", "test"),
    ("00000003_001.png", "Hernia", 1, "3", "82", "F", "AP", "test"),
    ("00000004_000.png", "Mass", 0, "4", "30", "M", "PA", "train"),
)


def make_nih(root: Path, *, folders: str = "images_0{:02d}/images", sex: str = "Patient Sex") -> dict:
    """The archives side by side; 00000004_000.png is missing. With `folders` "images" they are in one.

    NIH's present table has a column `Patient Sex`, that of 2017 and Kaggle's copy a `Patient Gender`.
    """
    names = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", sex]
    names += ["View Position", "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]"]
    rows = [(*row[:7], 2682, 2749, 0.143, 0.143) for row in NIH_IMAGES]
    table(root / "Data_Entry_2017_v2020.csv", names, rows, bom=True)
    box = ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"]
    table(root / "BBox_List_2017.csv", box, [("00000001_000.png", "Cardiomegaly", 2.1, 3, 4, 5)])
    for split, name in (("train", "train_val_list.txt"), ("test", "test_list.txt")):
        (root / name).write_text("".join(f"{row[0]}\n" for row in NIH_IMAGES if row[7] == split))
    for number, row in enumerate(NIH_IMAGES[:5], 1):
        image(root / folders.format(number) / row[0], broken=number == 2)
    return {
        "listed": 6,
        "present": 5,
        "published": "112,120",
        "patients": {"nih:00000001", "nih:00000002", "nih:00000003"},
        "splits": {"train": 3, "test": 2},
        "views": ["PA", "AP", "PA", "PA", "AP"],
        "columns": {"sex": ["M", "M", "F", "F", "F"], "age": [57, 58, None, 81, 82]},
        "labels": {
            "cardiomegaly": [1, 1, 0, 0, 0],
            "pleural_thickening": [0, 0, 0, 1, 0],
            "no_finding": [0, 0, 1, 0, 0],
        },
    }


def make_padchest(root: Path) -> dict:
    """16-bit files; labels with leading spaces, none at all, to exclude; 6.png is missing."""
    names = ["", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM"]
    names += ["ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Modality_DICOM", "BitsStored_DICOM"]
    names += ["Rows_DICOM", "Columns_DICOM", "ReportID", "Report", "MethodLabel", "Labels", "Localizations"]
    rows = [
        ("1.png", "0", "20140915", "S1", "P1", "1930.0", "F", "PA", "['pneumonia', ' pneumonia', ' nodule']"),
        ("2.png", "0", "20140915", "S1", "P1", "1930.0", "F", "L", "['normal']"),
        ("3.png", "14", "20150101", "S2", "P2", "", "M", "AP_horizontal", "nan"),
        ("4.png", "14", "20150101", "S3", "P3", "1950", "O", "COSTAL", "['exclude', 'nodule']"),
        ("5.png", "54", "20160101", "S4", "P4", "1990.0", "M", "AP", "['suboptimal_study', \"NSG tube\"]"),
        ("6.png", "54", "20160101", "S5", "P5", "1991.0", "M", "PA", ""),
    ]
    cells = [
        (n, *row[:7], "", row[7], "Manual", "No", "CR", 12, 80, 72, n, "tex, con comas", "RNN", row[8], "[]")
        for n, row in enumerate(rows)
    ]
    table(root / PADCHEST, names, cells)
    for name, folder, *_ in rows[:5]:
        image(root / folder / name, deep=True, broken=name == "2.png")
    return {
        "listed": 6,
        "present": 5,
        "published": "160,861",
        "patients": {"padchest:P1", "padchest:P2", "padchest:P3", "padchest:P4"},
        "splits": {"": 5},
        "views": ["PA", "LATERAL", "AP", "", "AP"],
        "columns": {
            "sex": ["F", "F", "M", "", "M"],
            "age": [84, 84, None, 65, 26],
            "labels_official": ["pneumonia|nodule", "normal", "", "exclude|nodule", "suboptimal study|NSG tube"],
            "view_official": ["PA", "L", "AP_horizontal", "COSTAL", "AP"],
        },
        "labels": {
            "pneumonia": [1, 0, None, None, 0],
            "nodule": [1, 0, None, None, 0],
            "nsg_tube": [0, 0, None, None, 1],
            "suboptimal_study": [0, 0, None, None, 1],
        },
    }


def make_brax(root: Path) -> dict:
    """With a byte order mark, an age in words and an oblique view; the last image is missing."""
    names = ["", "DicomPath", "PngPath", "PatientID", "PatientSex", "PatientAge", "AccessionNumber", "StudyDate"]
    rows = [
        ("id_a", "M", "60", "1", "PA", codes(Cardiomegaly="1.0", Edema="-1.0")),
        ("id_a", "M", "60", "1", "LL", codes(Cardiomegaly="1.0", Edema="-1.0")),
        ("id_b", "F", "85 or more", "1", "AP", codes(No_Finding="1.0")),
        ("id_c", "F", "", "2", "RLO", codes(Edema="0.0")),
        ("id_c", "F", "25", "3", "", codes()),
        ("id_d", "M", "25", "4", "PA", codes()),
    ]
    cells, paths = [], []
    for n, (who, sex, age, number, view, found) in enumerate(rows):
        folder = f"{who}/Study_{number}/Series_1"
        paths.append(f"images/{folder}/image-{n}.png")
        first = (n, f"Anonymized_DICOMs/{folder}/image-{n}.dcm", paths[-1], who, sex, age, number, "20100101")
        cells.append((*first, *found, view, 80, 72, 3))
    columns = [*names, *CHEXPERT, "ViewPosition", "Rows", "Columns", "Manufacturer"]
    table(root / "master_spreadsheet_update.csv", columns, cells, bom=True)
    for path in paths[:5]:
        image(root / path, broken=path.endswith("-1.png"))
    return {
        "listed": 6,
        "present": 5,
        "published": "40,967",
        "patients": {"brax:id_a", "brax:id_b", "brax:id_c"},
        "splits": {"": 5},
        "views": ["PA", "LATERAL", "AP", "", ""],
        "columns": {
            "sex": ["M", "M", "F", "F", "F"],
            "age": [60, 60, 85, None, 25],
            "age_official": ["60", "60", "85 or more", "", "25"],
            "code_edema": ["-1", "-1", "", "0", ""],
            "study_id": ["brax:id_a/1", "brax:id_a/1", "brax:id_b/1", "brax:id_c/2", "brax:id_c/3"],
        },
        "labels": {"edema": [None, None, None, 0, None], "no_finding": [None, None, 1, None, None]},
    }


def make_vindr(root: Path) -> dict:
    """Three readers who disagree; the test table says "Other disease"; one test image is missing."""

    def row(name: str, reader: str, *seen: str) -> list[str]:
        return [name, *([reader] if reader else []), *(str(int(finding in seen)) for finding in [*VINDR, "Other"])]

    train = [
        row("t1", "R1", "Cardiomegaly", "ILD"), row("t1", "R2", "Cardiomegaly"), row("t1", "R3"),
        row("t2", "R1", "No finding"), row("t2", "R2"), row("t2", "R3", "ILD"),
        row("t3", "R4", "Other"), row("t3", "R5", "Other"), row("t3", "R6", "Other"),
    ]  # fmt: skip
    test = [row("u1", "", "Tuberculosis"), row("u2", "", "Other"), row("u3", "")]
    for name, readers, other, rows in (
        ("train", ["rad_id"], "Other diseases", train),
        ("test", [], "Other disease", test),
    ):
        names = ["image_id", *readers, *VINDR, other, "No finding"]
        done = [[*cells, str(int("1" not in cells[1:]))] for cells in rows]
        table(root / f"annotations/image_labels_{name}.csv", names, done)
        boxes = ["image_id", "rad_id", "class_name", "x_min", "y_min", "x_max", "y_max"]
        table(root / f"annotations/annotations_{name}.csv", boxes, [])
    for path in ("train/t1", "train/t2", "train/t3", "test/u1", "test/u2"):
        image(root / f"{path}.dicom", broken=path == "train/t2")
    return {
        "listed": 6,
        "present": 5,
        "published": "18,000",
        "patients": {""},
        "splits": {"train": 3, "test": 2},
        "views": ["PA"] * 5,
        "columns": {
            "readers_ild": ["1/3", "1/3", "0/3", "0/1", "0/1"],
            "readers_cardiomegaly": ["2/3", "0/3", "0/3", "0/1", "0/1"],
        },
        "labels": {
            "cardiomegaly": [1, 0, 0, 0, 0],
            "ild": [0, 0, 0, 0, 0],
            "other_diseases": [0, 0, 1, 0, 1],
            "no_finding": [0, 1, 0, 0, 0],
            "tuberculosis": [0, 0, 0, 1, 0],
        },
    }


def make_vindr_kaggle(root: Path) -> dict:
    """A row for each box; t3 is missing; test/ has no labels."""
    names = ["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"]
    seen = [
        *(("t1", "Cardiomegaly", 3, reader) for reader in ("R1", "R1", "R2")),
        ("t1", "No finding", 14, "R3"),
        *(("t2", "No finding", 14, reader) for reader in ("R1", "R2", "R3")),
        *(("t3", "ILD", 5, reader) for reader in ("R1", "R2", "R3")),
        *(("t4", "Nodule/Mass", 8, reader) for reader in ("R8", "R9", "R9", "R10")),
    ]
    table(root / "train.csv", names, [(*row, *(("",) * 4 if row[2] == 14 else (1, 2, 3.5, 4))) for row in seen])
    for path in ("train/t1", "train/t2", "train/t4", "test/u1", "test/u2"):
        image(root / f"{path}.dicom", broken=path == "test/u2")
    return {
        "listed": 6,
        "present": 5,
        "published": "18,000",
        "patients": {""},
        "splits": {"": 5},
        "views": ["PA"] * 5,
        "columns": {
            "part": ["train", "train", "train", "test", "test"],
            "readers_cardiomegaly": ["2/3", "0/3", "0/3", "", ""],
        },
        "labels": {
            "cardiomegaly": [1, 0, 0, None, None],
            "no_finding": [0, 1, 0, None, None],
            "nodule_mass": [0, 0, 1, None, None],
        },
    }


def make_plco(root: Path) -> dict:
    """Names of files without folders and in another case; films of one participant; one is missing."""
    names = ["plco_id", "image_file_name", "is_dead", "is_dead_cvd"]
    rows = [
        ("A-1", "FILM_1.TIF", 0, 0),
        ("A-1", "film_2.tif", 0, 0),
        ("B-2", "film_3.tif", 1, 0),
        ("C-3", "film_4.tif", 1, 1),
        ("D-4", "film_5.tif", 0, 0),
        ("E-5", "film_6.tif", 0, 0),
    ]
    table(root / "selection_880.csv", names, rows)
    table(root / "dictionary.csv", ["variable", "meaning"], [("is_dead", "dead")])
    for number in range(1, 6):
        image(root / f"batch_{1 + number // 4}/film_{number}.tif", broken=number == 3)
    return {
        "listed": 6,
        "present": 5,
        "published": "5 of the 6 ",
        "patients": {"plco:A-1", "plco:B-2", "plco:C-3", "plco:D-4"},
        "splits": {"": 5},
        "views": [""] * 5,
        "columns": {"is_dead": ["0", "0", "1", "1", "0"]},
        "labels": {},
    }


def make_rsna(root: Path) -> dict:
    """Several boxes an image; the official mapping to NIH; r4 is missing."""
    names = ["patientId", "x", "y", "width", "height", "Target"]
    rows = [
        ("r1", "264.0", "152.0", "213.0", "379.0", 1),
        ("r1", "562.0", "152.0", "256.0", "453.0", 1),
        ("r2", "", "", "", "", 0),
        ("r3", "", "", "", "", 0),
        ("r4", "1.0", "2.0", "3.0", "4.0", 1),
    ]
    table(root / "stage_2_train_labels.csv", names, rows)
    kinds = [("r1", "Lung Opacity"), ("r1", "Lung Opacity"), ("r2", "Normal"), ("r3", "No Lung Opacity / Not Normal")]
    table(root / "stage_2_detailed_class_info.csv", ["patientId", "class"], kinds)
    mapping = [
        {"subset_img_id": name, "img_id": f"{who}_{n:03d}.png", "orig_labels": []}
        for n, (name, who) in enumerate(
            [("r1", "00000007"), ("r2", "00000007"), ("r3", "00000009"), ("s1", "00000007")]
        )
    ]
    (root / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(mapping))
    for name in ("train_images/r1", "train_images/r2", "train_images/r3", "test_images/s1", "test_images/s2"):
        image(root / f"stage_2_{name}.dcm", broken=name.endswith("r2"))
    return {
        "listed": 6,
        "present": 5,
        "published": "29,684",
        "patients": {"nih:00000007", "nih:00000009", ""},
        "splits": {"": 5},
        "views": [""] * 5,
        "columns": {
            "part": ["train", "train", "train", "test", "test"],
            "boxes": ["264.0 152.0 213.0 379.0;562.0 152.0 256.0 453.0", "", "", "", ""],
            "class_official": ["Lung Opacity", "Normal", "No Lung Opacity / Not Normal", "", ""],
        },
        "labels": {"pneumonia": [1, 0, 0, None, None]},
    }


def make_siim(root: Path) -> dict:
    """A leading space in a name and in values; two masks of one image; one image without a row; p4 is missing.

    The table of stage 2 labels most of the test images of stage 1, which stay in their folder: here p7, and not p8.
    """
    rows = [
        ("p1", " 175349 7 1013 12"),
        ("p1", " 3 4"),
        ("p2", " -1"),
        ("p3", "-1"),
        ("p4", " 9 9"),
        ("p5", " 1 2 3 4"),
        ("p7", "5 6"),
    ]
    table(root / "stage_2_train.csv", ["ImageId", " EncodedPixels"], rows)
    for name in ("p1", "p2", "p3", "p5", "p9"):
        image(root / f"dicom-images-train/study{name}/series{name}/{name}.dcm", broken=name == "p3")
    for name in ("p7", "p8"):
        image(root / f"dicom-images-test/study{name}/series{name}/{name}.dcm")
    return {
        "listed": 7,
        "present": 6,
        "published": "12,047",
        "patients": {""},
        "splits": {"": 6},
        "views": [""] * 6,
        "columns": {
            "masks": ["2", "0", "0", "1", "1", ""],
            "study_id": [f"siim:study{name}" for name in ("p1", "p2", "p3", "p5", "p7", "p9")],
        },
        "labels": {"pneumothorax": [1, 0, 0, 1, 1, None]},
    }


MAKERS: dict[str, Callable[[Path], dict]] = {
    "mimic-cxr-jpg": make_mimic_cxr_jpg,
    "mimic-cxr": make_mimic_cxr,
    "chexpert-small": make_chexpert_small,
    "chexpert": make_chexpert,
    "nih": make_nih,
    "padchest": make_padchest,
    "brax": make_brax,
    "vindr": make_vindr,
    "vindr-kaggle": make_vindr_kaggle,
    "plco": make_plco,
    "rsna": make_rsna,
    "siim": make_siim,
}
