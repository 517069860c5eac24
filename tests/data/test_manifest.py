"""Manifests: round trips, every refusal by name, splits by patient, derived labels, and damaged files."""

import contextlib
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxrbase.data import decode
from cxrbase.data.manifest import Manifest, Target
from cxrbase.errors import ManifestError

CSV = """path,patient_id,view,split,age,label_effusion,label_detail,note
a.png,007,PA,train,61,1,pleural,"two
lines"
b.png,007,AP,train,,0,,
c/d.png,,LATERAL,test,40.5,,none,x
"""


def write(folder, text, name="manifest.csv"):
    path = folder / name
    path.write_text(text)
    return path


def table_of(**columns):
    return Manifest.from_columns(columns, root="images")


def patients_of(number):
    return table_of(path=[f"{i}.png" for i in range(number)], patient_id=[f"p{i // 3}" for i in range(number)])


def test_csv_keeps_text_as_text_and_numbers_as_numbers(tmp_path):
    manifest = Manifest.read(write(tmp_path, CSV))
    assert manifest.column("patient_id").tolist() == ["007", "007", ""]
    assert manifest.patients().tolist() == ["007", "007", "c/d.png"]
    assert manifest.column("note").tolist() == ["two\nlines", "", "x"]
    assert manifest.paths == [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c/d.png"]
    assert manifest.labels == ("effusion",)
    np.testing.assert_array_equal(manifest.label_matrix(), np.float32([[1], [0], [np.nan]]))
    np.testing.assert_array_equal(manifest.column("age"), np.float32([61, np.nan, 40.5]))


def test_parquet_round_trip_changes_nothing(tmp_path):
    before = Manifest.read(write(tmp_path, CSV))
    before.write(tmp_path / "deep" / "manifest.parquet")
    after = Manifest.read(tmp_path / "deep" / "manifest.parquet", root=tmp_path)
    assert after.table.schema == before.table.schema
    for name in before.table.column_names:
        np.testing.assert_array_equal(after.column(name), before.column(name))
    assert after.paths == before.paths
    assert after.fingerprint() == before.fingerprint()
    assert os.listdir(tmp_path / "deep") == ["manifest.parquet"]


def test_view_is_accepted_for_view_position_but_does_not_replace_it(tmp_path):
    assert Manifest.read(write(tmp_path, CSV)).column("view_position").tolist() == ["PA", "AP", "LATERAL"]
    both = Manifest.read(write(tmp_path, "path,view,view_position\na.png,left,PA\n"))
    assert both.column("view_position").tolist() == ["PA"]
    assert both.column("view").tolist() == ["left"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,split\na.png,train\n", "no column path; its columns are file, split"),
        ("path,split\n", "no rows"),
        ("", "cannot read"),
        ("path\na.png\nb.png\na.png\n", "'a.png' is in row 1 and again in row 3"),
        ("path\nc/a.png\nc/./a.png\n", "'c/./a.png' is in row 1 and again in row 2"),
        ("path\n/etc/a.png\n", "'/etc/a.png' in row 1 must name a file inside"),
        ("path\na.png\nb/../../c.png\n", "'b/../../c.png' in row 2 must name a file inside"),
        ("path,split\n,train\n", "'' in row 1 must name a file"),
        ("path,patient_id,split\na.png,p1,train\nb.png,p1,test\n", "patient p1 is in split train and in split test"),
        ("path,split\na.png,train\nb.png,dev\n", "got 'dev' in row 2"),
        ("path,label_nodule\na.png,1\nb.png,2\n", "column label_nodule must hold 1, 0 or nothing, got '2' in row 2"),
        ("path,label_nodule\na.png,1\nb.png,maybe\n", "got 'maybe' in row 2"),
        ("path,age\na.png,-3\n", "column age must hold years or nothing, got '-3'"),
        ("path,age\na.png,old\n", "got 'old' in row 1"),
        ("path,age,age\na.png,3,4\n", "2 columns named 'age'"),
        ("path, patient_id, split\na.png, 1, train\n", "column name ' patient_id' has blanks around it"),
        ("path,age\na.png\n", "cannot read"),
    ],
)
def test_malformed_tables_are_refused_with_their_file_and_what_is_wrong(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ManifestError) as raised:
        Manifest.read(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("mark", [";", "\t"])
def test_columns_may_be_separated_as_spreadsheets_of_other_countries_do(mark, tmp_path):
    plain = Manifest.read(write(tmp_path, CSV))
    other = Manifest.read(write(tmp_path, "\ufeff" + CSV.replace(",", mark), "other.csv"))
    assert str(other.table.to_pylist()) == str(plain.table.to_pylist())  # NaN is not equal to itself
    commas = "path,note\na.png,one; two\tthree\n"
    assert Manifest.read(write(tmp_path, commas, "commas.csv")).column("note").tolist() == ["one; two\tthree"]


def test_utf_16_is_named(tmp_path):
    path = tmp_path / "wide.csv"
    path.write_text(CSV, encoding="utf-16")
    with pytest.raises(ManifestError, match=r"wide\.csv.*UTF-16 text: save it as UTF-8"):
        Manifest.read(path)


def test_missing_or_unknown_files_are_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"no manifest .*nowhere\.csv"):
        Manifest.read(tmp_path / "nowhere.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ManifestError, match="no manifest"):
        Manifest.read(tmp_path / "folder.csv")
    with pytest.raises(ManifestError, match=r"must end in \.parquet or \.csv"):
        Manifest.read(write(tmp_path, CSV, "manifest.xlsx"))


def test_missing_images_are_counted_and_named(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(ManifestError, match=r"2 of 3 images are not in .*b\.png, .*d\.png"):
        Manifest.read(write(tmp_path, CSV)).check_files()


def test_a_column_given_twice_is_refused_also_when_a_target_reads_it(tmp_path):
    path = write(tmp_path, "path,finding,finding\na.png,x,y\n")
    with pytest.raises(ManifestError, match="2 columns named 'finding'"):
        Manifest.read(path, targets={"x": Target("finding", ["x"], [])})


def test_splits_keep_patients_together_and_have_about_the_shares_asked_for():
    dealt = patients_of(6000).with_splits(val=0.2, test=0.3, seed=4)
    home = {}
    for patient, split in zip(dealt.patients(), dealt.column("split"), strict=True):
        assert home.setdefault(patient, split) == split
    shares = {split: list(home.values()).count(split) / len(home) for split in ("train", "val", "test")}
    assert shares == pytest.approx({"train": 0.5, "val": 0.2, "test": 0.3}, abs=0.04)


def test_newcomers_move_nobody_and_the_seed_does():
    few, many = patients_of(300).with_splits(), patients_of(900).with_splits()
    assert many.column("split")[:300].tolist() == few.column("split").tolist()
    assert patients_of(300).with_splits(seed=1).column("split").tolist() != few.column("split").tolist()


def test_splits_are_dealt_once_and_with_possible_shares():
    with pytest.raises(ManifestError, match="has splits already"):
        patients_of(30).with_splits().with_splits()
    with pytest.raises(ValueError, match="together below 1"):
        patients_of(30).with_splits(val=0.5, test=0.5)


def test_select_keeps_the_rows_of_one_split():
    dealt = patients_of(90).with_splits()
    parts = [dealt.select(split) for split in ("train", "val", "test")]
    assert sum(map(len, parts)) == 90
    assert set(parts[1].column("split")) == {"val"}
    with pytest.raises(ManifestError, match="no image in split test"):
        parts[0].select("test")
    with pytest.raises(ValueError, match="one of train, val, test"):
        dealt.select("validation")


def test_from_folder_finds_nested_images_and_ignores_the_rest(tmp_path):
    for name in ("b.PNG", "a/x.jpg", "a/b/c.dcm", ".hidden/y.png", "a/.z.png", "readme.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(tmp_path / name, format="png")
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    manifest = Manifest.from_folder(tmp_path)
    assert manifest.column("path").tolist() == ["a/b/c.dcm", "a/x.jpg", "b.PNG"]
    manifest.check_files()


def test_from_folder_follows_links_to_other_folders(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.png").touch()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert Manifest.from_folder(tmp_path / "root").column("path").tolist() == ["linked/x.png"]


def test_from_folder_finds_dicom_files_of_any_name_and_opens_no_other_image(tmp_path, monkeypatch):
    dicom = b"\0" * 128 + b"DICM"
    for name in ("P024/ST1/IM0001", "P024/1.2.840.113", "P025/image.ima", "DICOMDIR", "P024/dicomdir", ".IM0002"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(dicom)
    (tmp_path / "README").write_bytes(dicom[1:])
    (tmp_path / "notes.txt").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a.png").touch()
    opened, mark = [], decode._has_dicom_mark
    monkeypatch.setattr("cxrbase.data.decode._has_dicom_mark", lambda path: opened.append(path.name) or mark(path))
    found = Manifest.from_folder(tmp_path).column("path").tolist()
    assert found == ["P024/1.2.840.113", "P024/ST1/IM0001", "P025/image.ima", "a.png"]
    assert sorted(opened) == ["1.2.840.113", "IM0001", "README", "image.ima", "notes.txt"]


def test_from_folder_refuses_empty_and_missing_folders(tmp_path):
    with pytest.raises(ManifestError, match=r"no images below .*\.png.* and DICOM files of any name"):
        Manifest.from_folder(tmp_path)
    with pytest.raises(ManifestError, match="no folder"):
        Manifest.from_folder(tmp_path / "nowhere")


FINDINGS = "path,source,label,age\n" + "".join(
    f"{i}.png,{source},{label},\n"
    for i, (source, label) in enumerate(
        [("nih", "Pneumonia"), ("nih", "Normal"), ("nih", "Mass"), ("nih", ""), ("kermany", "Pneumonia")]
    )
)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target("label", ["Pneumonia"], ["Normal"]), [1, 0, None, None, 1]),
        (Target("label", ["Pneumonia"], []), [1, 0, 0, None, 1]),
        (Target("label", ["Pneumonia", "Mass"], ["Normal"], where={"source": "nih"}), [1, 0, 1, None, None]),
        (Target("label", ["Pneumonia"], [], where={"source": "kermany"}), [None, None, None, None, 1]),
        (Target("label", ["Cyst"], ["Normal"]), [None, 0, None, None, None]),
    ],
)
def test_a_target_is_read_off_its_column(tmp_path, target, expected):
    manifest = Manifest.read(write(tmp_path, FINDINGS), targets={"task": target})
    assert manifest.labels == ("task",)
    values = [np.nan if value is None else value for value in expected]
    np.testing.assert_array_equal(manifest.label_matrix()[:, 0], np.float32(values))


def test_a_target_of_a_column_that_is_absent_or_there_already_is_refused(tmp_path):
    path = write(tmp_path, FINDINGS)
    with pytest.raises(ManifestError, match="no column finding"):
        Manifest.read(path, targets={"x": Target("finding", ["y"], [])})
    with pytest.raises(ManifestError, match="no column place"):
        Manifest.read(path, targets={"x": Target("label", ["y"], [], where={"place": "z"})})
    path = write(tmp_path, "path,label_x\na.png,1\n")
    with pytest.raises(ManifestError, match="would replace the column label_x"):
        Manifest.read(path, targets={"x": Target("path", ["a.png"], [])})


def test_a_label_column_without_numbers_is_text_and_said_to_be(tmp_path, caplog):
    manifest = Manifest.read(write(tmp_path, CSV))
    assert manifest.labels == ("effusion",)
    assert "label_detail holds no 0 or 1" in caplog.text
    assert manifest.column("label_detail").tolist() == ["pleural", "", "none"]


def test_the_fingerprint_is_of_the_content_and_not_of_its_storage():
    columns = {"path": ["a.png", "b.png"], "sex": ["F", "M"], "age": [50, None], "label_x": [1, None]}
    prints = {table_of(**columns).fingerprint()}
    prints.add(table_of(**{**columns, "age": ["50", ""], "label_x": [True, None]}).fingerprint())
    prints.add(table_of(**{**columns, "age": np.float32([50, np.nan]), "sex": np.array(["F", "M"])}).fingerprint())
    prints.add(table_of(**dict(reversed(columns.items()))).fingerprint())
    chunked = pa.table(
        {"path": pa.chunked_array([["a.png"], ["b.png"]]), "sex": pa.array(["F", "M"]).dictionary_encode()}
        | {"age": pa.array([50, None], pa.int8()), "label_x": pa.array([1, None], pa.float64())}
    )
    prints.add(Manifest(chunked, "elsewhere").fingerprint())
    odd_nan = np.array([1, 0], np.float32)
    odd_nan.view(np.uint32)[1] = 0xFFC00123
    prints.add(table_of(**{**columns, "label_x": odd_nan}).fingerprint())
    assert len(prints) == 1
    for other in ({"sex": ["F", "F"]}, {"age": [51, None]}, {"label_x": [1, 0]}, {"path": ["b.png", "a.png"]}):
        assert table_of(**{**columns, **other}).fingerprint() not in prints


def reads_or_refuses(path, content):
    """Any error but a ManifestError fails the test that calls this."""
    path.write_bytes(content)
    with contextlib.suppress(ManifestError):
        assert len(Manifest.read(path).fingerprint()) == 64


LINES = st.lists(st.lists(st.sampled_from(["path", "label_x", "age", "a.png", "", '"', "1", "é", "\0"])), max_size=4)


@settings(max_examples=80, deadline=None)
@given(content=st.one_of(st.binary(max_size=200), LINES.map(lambda t: "\n".join(map(",".join, t)).encode())))
def test_arbitrary_csv_is_read_or_refused(tmp_path_factory, content):
    reads_or_refuses(tmp_path_factory.getbasetemp() / "arbitrary.csv", content)


@settings(max_examples=40, deadline=None)
@given(content=st.binary(max_size=200).map(lambda body: b"PAR1" + body + b"PAR1"))
def test_arbitrary_parquet_is_read_or_refused(tmp_path_factory, content):
    reads_or_refuses(tmp_path_factory.getbasetemp() / "arbitrary.parquet", content)


@pytest.fixture(scope="module")
def parquet_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("parquet") / "manifest.parquet"
    pq.write_table(pa.table({"path": ["a.png", "b.png"], "label_x": [1.0, None], "sex": ["F", "M"]}), path)
    return path.read_bytes()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_parquet_is_read_or_refused(tmp_path_factory, parquet_bytes, data):
    damaged = bytearray(parquet_bytes[: data.draw(st.integers(len(parquet_bytes) // 2, len(parquet_bytes)))])
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    reads_or_refuses(tmp_path_factory.getbasetemp() / "damaged.parquet", bytes(damaged))


@pytest.mark.parametrize("asked", ["view", "view_position"])
@pytest.mark.parametrize("held", ["view", "view_position"])
def test_target_reads_the_view_position_by_either_name(asked, held, tmp_path):
    (tmp_path / "manifest.csv").write_text(f"path,{held}\na.png,PA\nb.png,AP\nc.png,\n")
    manifest = Manifest.read(tmp_path / "manifest.csv", targets={"pa": Target(asked, ["PA"], ["AP"])})
    np.testing.assert_array_equal(manifest.label_matrix()[:, 0], [1, 0, np.nan])
