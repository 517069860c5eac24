"""The large sources: a tiny folder laid out as each data set is read as it was written, and damage is named."""

import csv
import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrbase.data.decode import decode
from cxrbase.data.manifest import Manifest
from cxrbase.data.sources import brax, chexpert, mimic_cxr, mimic_cxr_jpg, nih, padchest, plco, rsna, siim, vindr
from cxrbase.data.sources.labels import presence, uncertain, years
from cxrbase.data.sources.tables import files_below, read_csv
from cxrbase.errors import DecodeError, ManifestError
from data.sources.trees_large import MAKERS, PADCHEST, make_nih, make_rsna, table

SOURCES = {
    source.name: source
    for source in (
        *(mimic_cxr_jpg.SOURCE, mimic_cxr.SOURCE, nih.SOURCE, padchest.SOURCE, brax.SOURCE),
        *(plco.SOURCE, rsna.SOURCE, siim.SOURCE, *chexpert.SOURCES, *vindr.SOURCES),
    )
}
MIMIC = "mimic-cxr-2.0.0"
BATCH = "CheXpert-v1.0 batch 1 (validate & csv)"
# Every table that a source cannot do without, and columns of it that it cannot do without.
NEEDED = [
    ("mimic-cxr-jpg", f"{MIMIC}-metadata.csv.gz", ("dicom_id", "subject_id", "study_id", "ViewPosition")),
    ("mimic-cxr-jpg", f"{MIMIC}-split.csv.gz", ("dicom_id", "split")),
    ("mimic-cxr-jpg", f"{MIMIC}-chexpert.csv.gz", ("study_id", "Edema")),
    ("mimic-cxr", "cxr-record-list.csv.gz", ("dicom_id", "subject_id", "study_id")),
    ("chexpert-small", "train.csv", ("Path", "Sex", "AP/PA", "Pleural Other")),
    ("chexpert-small", "valid.csv", ("Path", "Frontal/Lateral", "No Finding")),
    ("chexpert", f"{BATCH}/train.csv", ("Path", "Age")),
    ("chexpert", f"{BATCH}/valid.csv", ("Path", "Age")),
    ("nih", "Data_Entry_2017_v2020.csv", ("Image Index", "Finding Labels", "Patient ID", "View Position")),
    ("nih", "train_val_list.txt", ()),
    ("nih", "test_list.txt", ()),
    ("padchest", PADCHEST, ("ImageID", "ImageDir", "PatientID", "Projection", "Labels")),
    ("brax", "master_spreadsheet_update.csv", ("PngPath", "PatientID", "ViewPosition", "Fracture")),
    ("vindr", "annotations/image_labels_train.csv", ("image_id", "ILD", "Other diseases")),
    ("vindr", "annotations/image_labels_test.csv", ("image_id", "COPD")),
    ("vindr-kaggle", "train.csv", ("image_id", "class_name", "rad_id")),
    ("plco", "selection_880.csv", ("image_file_name",)),
    ("rsna", "stage_2_train_labels.csv", ("patientId", "Target")),
    ("siim", "stage_2_train.csv", ("ImageId", "EncodedPixels")),
]
OPTIONAL = [
    ("rsna", "stage_2_detailed_class_info.csv"),
    ("rsna", "pneumonia-challenge-dataset-mappings_2018.json"),
    ("mimic-cxr", f"{MIMIC}-metadata.csv.gz"),
]
EVERY = sorted(MAKERS)


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """The folder of each source, and the truth about it."""
    folders = {name: tmp_path_factory.mktemp(name) for name in EVERY}
    return {name: (folder, MAKERS[name](folder)) for name, folder in folders.items()}


def values_of(column) -> list:
    """A column as a list in which unknown numbers are None."""
    return [None if value != value else value for value in column.tolist()]


def one_sentence(error: ManifestError, *parts: str) -> None:
    said = str(error)
    assert "\n" not in said
    assert ". " not in said
    for part in parts:
        assert part in said


def refused_or_read(name: str, root: Path) -> None:
    """Any exception but a ManifestError of one line fails the test."""
    said = ""
    try:
        SOURCES[name].read(root, partial=True)
    except ManifestError as error:
        said = str(error)
    assert "\n" not in said


def text_of(path: Path) -> str:
    return (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode("utf-8-sig")


def put(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_every_source_has_a_tree():
    assert sorted(SOURCES) == EVERY


@pytest.mark.parametrize("name", EVERY)
def test_manifest_is_the_truth(trees, name):
    root, truth = trees[name]
    manifest = SOURCES[name].read(root, partial=True)
    assert len(manifest) == truth["present"]
    assert set(manifest.column("source")) == {name}
    assert set(manifest.column("patient_id")) == truth["patients"]
    assert Counter(manifest.column("split").tolist()) == truth["splits"]
    assert manifest.column("view_position").tolist() == truth["views"]
    for column, wanted in truth["columns"].items():
        assert values_of(manifest.column(column)) == wanted, column
    for finding, wanted in truth["labels"].items():
        assert values_of(manifest.column(f"label_{finding}")) == wanted, finding
    assert np.isin(manifest.label_matrix()[~np.isnan(manifest.label_matrix())], (0, 1)).all()


@pytest.mark.parametrize("name", EVERY)
def test_manifest_survives_a_file(trees, name, tmp_path):
    manifest = SOURCES[name].read(trees[name][0], partial=True)
    manifest.write(tmp_path / "m.parquet")
    assert Manifest.read(tmp_path / "m.parquet", root=manifest.root).fingerprint() == manifest.fingerprint()


@pytest.mark.parametrize("name", EVERY)
def test_images_are_there_and_one_is_broken(trees, name):
    manifest = SOURCES[name].read(trees[name][0], partial=True)
    images, broken = [], 0
    for path in manifest.paths:
        try:
            images.append(decode(path).tobytes())
        except DecodeError:
            broken += 1
    assert broken == 1
    assert len(set(images)) == len(images) == trees[name][1]["present"] - 1


@pytest.mark.parametrize("name", EVERY)
def test_unfinished_download_is_refused_with_the_published_count(trees, name):
    root, truth = trees[name]
    with pytest.raises(ManifestError) as refused:
        SOURCES[name].read(root)
    one_sentence(refused.value, truth["published"], f"{truth['present']} of", "first missing", "partial=True")


@pytest.mark.parametrize("name", EVERY)
def test_patients_do_not_cross_splits(trees, name):
    manifest = SOURCES[name].read(trees[name][0], partial=True)
    homes = set(zip(manifest.column("patient_id").tolist(), manifest.column("split").tolist(), strict=True))
    named = [patient for patient, split in homes if patient and split]
    assert len(named) == len(set(named))


@pytest.mark.parametrize("name", EVERY)
def test_folder_of_nothing_is_refused(name, tmp_path):
    with pytest.raises(ManifestError) as refused:
        SOURCES[name].read(tmp_path, partial=True)
    one_sentence(refused.value, str(tmp_path))


@pytest.mark.parametrize(("name", "path"), [row[:2] for row in NEEDED])
def test_missing_table_is_named(name, path, tmp_path):
    MAKERS[name](tmp_path)
    (tmp_path / path).unlink()
    with pytest.raises(ManifestError) as refused:
        SOURCES[name].read(tmp_path, partial=True)
    # PLCO's table has no known name, so its column is named.
    one_sentence(refused.value, "image_file_name" if name == "plco" else Path(path).name.removesuffix(".gz"))


@pytest.mark.parametrize(("name", "path", "column"), [(*row[:2], column) for row in NEEDED for column in row[2]])
def test_missing_column_is_named(name, path, column, tmp_path):
    MAKERS[name](tmp_path)
    rows = list(csv.reader(text_of(tmp_path / path).splitlines()))
    place = [cell.strip() for cell in rows[0]].index(column)
    table(tmp_path / path, [*rows[0][:place], "other", *rows[0][place + 1 :]], rows[1:])
    with pytest.raises(ManifestError) as refused:
        SOURCES[name].read(tmp_path, partial=True)
    one_sentence(refused.value, column, *([] if name == "plco" else [Path(path).name]))


@pytest.mark.parametrize(("name", "path"), [*(row[:2] for row in NEEDED), *OPTIONAL])
def test_damaged_table_is_refused_or_read(name, path, tmp_path_factory):
    root = tmp_path_factory.mktemp("damaged")
    MAKERS[name](root)
    whole = (root / path).read_bytes()
    plain = text_of(root / path).encode()

    def attempt(content: bytes, *, packed: bool) -> None:
        put(root / path, content) if packed else (root / path).write_bytes(content)
        refused_or_read(name, root)

    @settings(max_examples=40, deadline=None, database=None)
    @given(st.binary(max_size=40), st.floats(0, 1), st.integers(0, 40), st.sampled_from(["all", "stored", "content"]))
    def damage(junk: bytes, where: float, cut: int, what: str) -> None:
        if what == "all":
            attempt(junk, packed=False)
            return
        before = whole if what == "stored" else plain
        start = int(where * len(before))
        attempt(before[:start] + junk + before[start + cut :], packed=what == "content")

    damage()


@pytest.mark.parametrize(("name", "path"), [row[:2] for row in NEEDED if not row[1].endswith(".txt")])
def test_whole_table_of_odd_cells_is_refused_or_read(name, path, tmp_path_factory):
    """Well-formed tables with any content: the checks behind the reader of tables."""
    root = tmp_path_factory.mktemp("odd")
    MAKERS[name](root)
    names, *rows = list(csv.reader(text_of(root / path).splitlines()))
    odd = ["", "-1", "1", "nan", "['x'", "[1]", "[" * 200, "../x", "\0", "PA", "é", "1e999", "a/b", "x" * 90, "²", "٣"]

    @settings(max_examples=60, deadline=None, database=None)
    @given(st.integers(0, len(rows) - 1), st.integers(0, len(names) - 1), st.sampled_from(odd) | st.text(max_size=20))
    def change(row: int, place: int, cell: str) -> None:
        cells = [list(cells) for cells in rows]
        cells[row][place] = cell.encode(errors="replace").decode()
        table(root / path, names, cells)
        refused_or_read(name, root)

    change()


def test_nih_folders_as_they_unpack(tmp_path):
    truth = make_nih(tmp_path / "parts")
    parts = nih.SOURCE.read(tmp_path / "parts", partial=True)
    for number, folders in enumerate(("images", "images_0{:02d}")):
        make_nih(tmp_path / str(number), folders=folders)
        manifest = nih.SOURCE.read(tmp_path / str(number), partial=True)
        assert len(manifest) == truth["present"]
        assert [path.name for path in manifest.paths] == [path.name for path in parts.paths]


@pytest.mark.parametrize("sex", ["Patient Sex", "Patient Gender"])
def test_nih_sex_in_the_present_table_and_in_that_of_2017(sex, tmp_path):
    truth = make_nih(tmp_path, sex=sex)
    assert nih.SOURCE.read(tmp_path, partial=True).column("sex").tolist() == truth["columns"]["sex"]


def test_siim_table_of_stage_2_goes_first(tmp_path):
    MAKERS["siim"](tmp_path)
    table(tmp_path / "train-rle.csv", ["ImageId", " EncodedPixels"], [("p1", " -1")])
    both = siim.SOURCE.read(tmp_path, partial=True)
    assert both.column("label_pneumothorax")[both.column("path") == "dicom-images-test/studyp7/seriesp7/p7.dcm"] == [1]
    (tmp_path / "stage_2_train.csv").unlink()
    first = siim.SOURCE.read(tmp_path, partial=True)
    assert first.column("masks").tolist() == ["0", "", "", "", ""]


def test_chexpert_below_the_folder_of_the_release(tmp_path):
    truth = MAKERS["chexpert-small"](tmp_path / "CheXpert-v1.0-small")
    manifest = SOURCES["chexpert-small"].read(tmp_path, partial=True)
    assert len(manifest) == truth["present"]
    assert manifest.column("path")[0].startswith("CheXpert-v1.0-small/train/")


def test_releases_of_the_same_patients_name_them_alike(trees):
    for one, other in (("chexpert", "chexpert-small"), ("mimic-cxr", "mimic-cxr-jpg")):
        patients = [set(SOURCES[name].read(trees[name][0], partial=True).column("patient_id")) for name in (one, other)]
        assert patients[0] == patients[1]


def test_mimic_dicom_without_the_tables_of_the_jpeg_release(tmp_path):
    MAKERS["mimic-cxr"](tmp_path)
    for path in tmp_path.glob("mimic-cxr-2.0.0-*"):
        path.unlink()
    manifest = SOURCES["mimic-cxr"].read(tmp_path, partial=True)
    assert manifest.labels == ()
    assert set(manifest.column("view_position")) == set(manifest.column("split")) == {""}


def test_rsna_without_a_mapping_has_no_patients(tmp_path):
    make_rsna(tmp_path)
    (tmp_path / "pneumonia-challenge-dataset-mappings_2018.json").unlink()
    (tmp_path / "stage_2_detailed_class_info.csv").unlink()
    manifest = SOURCES["rsna"].read(tmp_path, partial=True)
    assert set(manifest.column("patient_id")) == set(manifest.column("class_official")) == {""}


def test_stray_quotation_mark_does_not_swallow_rows(tmp_path):
    (tmp_path / "t.csv").write_text('a,b\n1,"2\n3,4\n')
    with pytest.raises(ManifestError, match=r"t\.csv"):
        read_csv(tmp_path / "t.csv", columns=["a"])


def test_short_row_and_repeated_column_are_named(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,b\n1,2,3\n4\n")
    assert read_csv(tmp_path / "t.csv", columns=["a"]) == {"a": ["1", "4"]}
    with pytest.raises(ManifestError, match="2 columns 'b'"):
        read_csv(tmp_path / "t.csv", columns=["b"])
    (tmp_path / "t.csv").write_text("a,b\n1,2\n4\n")
    with pytest.raises(ManifestError, match="1 cells in row 2"):
        read_csv(tmp_path / "t.csv", columns=["b"])


def test_files_below_takes_suffixes_in_any_case(tmp_path):
    for name in ("b/x.PNG", "a/y.png", "a/z.txt", "a/.hidden.png", ".git/q.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files_below(tmp_path, [".png"]) == ["a/y.png", "b/x.PNG"]


def test_codes_of_labels():
    assert presence([["a", "b"], [], ["c"]], {"a": "x", "c": "x", "b": "y"}) == {
        "label_x": [1, 0, 1],
        "label_y": [1, 0, 0],
    }
    assert np.array_equal(uncertain(["1.0", "0", "-1.0", ""]), [1, 0, np.nan, np.nan], equal_nan=True)
    with pytest.raises(ManifestError, match="'2'"):
        uncertain(["1", "2"])
    found = years(["58", "058Y", "006M", "85 or more", "414", "", "old"])
    assert np.array_equal(found, [58, 58, 0.5, 85, np.nan, np.nan, np.nan], equal_nan=True)
