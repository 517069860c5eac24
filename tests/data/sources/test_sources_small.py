"""Sources: tiny folders with the official layout give the manifest that is known, and damaged ones one sentence."""

import contextlib
import logging
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrbase.data.manifest import Manifest
from cxrbase.data.sources.catalogue import SOURCES, find, merge
from cxrbase.data.sources.splits import one_split
from cxrbase.errors import ConfigError, ManifestError
from data.sources.trees_small import TREES, mendeley_kermany, picture

TABLES = [(name, place) for name, count in {
    "openi": 2, "covidx-9a": 2, "covidx-9b": 2, "covidx-5": 2, "covid-chestxray": 1, "tbx11k": 2, "object-cxr": 2,
    "csv-manifest": 1,
}.items() for place in range(count)]  # fmt: skip
# A column that the table cannot do without, by its place in the header.
COLUMNS = [
    ("openi", "indiana_projections.csv", "projection"),
    ("openi", "indiana_reports.csv", "Problems"),
    ("covid-chestxray", "metadata.csv", "modality"),
    ("object-cxr", "train.csv", "annotation"),
    ("object-cxr", "dev.csv", "image_name"),
    ("csv-manifest", "manifest.csv", "path"),
]


@pytest.fixture(scope="module", params=TREES)
def made(request, tmp_path_factory):
    """Name of a source, its tiny folder and what is known about it."""
    root = tmp_path_factory.mktemp(request.param)
    return request.param, root, TREES[request.param](root)


def test_sources_are_found_by_their_own_name():
    assert set(TREES) < set(SOURCES)
    assert all(name == source.name for name, source in SOURCES.items())


def test_manifest_is_what_is_known(made):
    says_what_is_known(*made)


@pytest.mark.parametrize("inner", ["", "CellData", "CellData/chest_xray"])
def test_kermany_as_mendeley_publishes_it(inner, tmp_path):
    truth = mendeley_kermany(tmp_path)
    below = f"{inner}/" if inner else ""
    rows = {path.removeprefix(below): row for path, row in truth["rows"].items()}
    says_what_is_known("kermany", tmp_path / inner, {"rows": rows})


def says_what_is_known(name, root, truth):
    manifest = SOURCES[name].read(root, partial=True)
    assert sorted(manifest.column("path")) == sorted(truth["rows"])
    assert set(manifest.column("source")) == {name}
    for place, path in enumerate(manifest.column("path")):
        for column, wanted in truth["rows"][path].items():
            value = manifest.column(column)[place]
            if isinstance(wanted, str):
                assert value == wanted, (path, column)
            else:
                np.testing.assert_array_equal(value, np.float32(wanted), err_msg=f"{path} {column}")


def test_manifest_survives_a_file(made, tmp_path):
    name, root, _ = made
    manifest = SOURCES[name].read(root, partial=True)
    manifest.write(tmp_path / "manifest.parquet")
    assert Manifest.read(tmp_path / "manifest.parquet", root=root).fingerprint() == manifest.fingerprint()


def test_labels_hold_known_values_and_ids_their_source(made):
    name, root, _ = made
    manifest = SOURCES[name].read(root, partial=True)
    labels = manifest.label_matrix()
    assert np.isin(labels[~np.isnan(labels)], (0, 1)).all()
    assert set(manifest.column("view_position")) <= {"PA", "AP", "LATERAL", ""}
    if name != "csv-manifest":
        assert all(patient.startswith(f"{name}:") for patient in manifest.column("patient_id") if patient)


def test_no_patient_is_in_two_splits(made):
    name, root, _ = made
    manifest = SOURCES[name].read(root, partial=True)
    homes = {}
    for patient, split in zip(manifest.patients(), manifest.column("split"), strict=True):
        homes.setdefault(patient, set()).add(split)
    assert all(len(splits) == 1 for splits in homes.values())


def test_incomplete_download_is_refused_with_the_published_count(made):
    name, root, truth = made
    source = SOURCES[name]
    if source.images is None and not truth["missing"]:
        assert len(source.read(root)) == len(truth["rows"])
        return
    with pytest.raises(ManifestError) as refusal:
        source.read(root)
    listed = len(truth["rows"]) + len(truth["missing"])
    assert f"{len(truth['rows'])} of the {source.images or listed:,} images" in str(refusal.value)
    assert "partial" in str(refusal.value)
    for path in truth["missing"]:
        assert path in str(refusal.value)


def test_what_is_left_out_is_counted(made, caplog):
    name, root, truth = made
    with caplog.at_level(logging.WARNING, "cxrbase"):
        SOURCES[name].read(root, partial=True)
    counted = any(f"holds {len(truth['rows'])} of the" in message for message in caplog.messages)
    assert counted == (SOURCES[name].images is not None or bool(truth["missing"]))


def test_empty_and_missing_folders_are_refused(made, tmp_path):
    name, _, _ = made
    for root in (tmp_path / "none", tmp_path):
        with pytest.raises(ManifestError, match=str(root)) as refusal:
            SOURCES[name].read(root, partial=True)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("name", "place"), TABLES)
def test_missing_table_is_named(name, place, tmp_path):
    table = TREES[name](tmp_path)["tables"][place]
    (tmp_path / table).unlink()
    with pytest.raises(ManifestError, match=Path(table).name) as refusal:
        SOURCES[name].read(tmp_path, partial=True)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("name", "table", "column"), COLUMNS)
def test_missing_column_is_named(name, table, column, tmp_path):
    TREES[name](tmp_path)
    path = tmp_path / table
    first, rest = path.read_text().split("\n", 1)
    path.write_text(first.replace(column, "other") + "\n" + rest)
    with pytest.raises(ManifestError, match=column) as refusal:
        SOURCES[name].read(tmp_path, partial=True)
    assert table in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("line", ["p a.png", "p a.png covid-19 cohen", "a"])
def test_covidx_line_is_refused_by_number(line, tmp_path):
    TREES["covidx-9a"](tmp_path)
    with (tmp_path / "labels/train_COVIDx9A.txt").open("a") as table:
        table.write(f"{line}\n")
    with pytest.raises(ManifestError, match="in line 7"):
        SOURCES["covidx-9a"].read(tmp_path, partial=True)


def test_raw_films_are_refused_with_what_to_do(tmp_path):
    (tmp_path / "JPCLN001.IMG").write_bytes(b"raw")
    with pytest.raises(ManifestError, match="convert"):
        SOURCES["jsrt"].read(tmp_path)


def test_patients_in_two_splits_move_with_a_count(tmp_path, caplog):
    TREES["kermany"](tmp_path)
    with caplog.at_level(logging.WARNING, "cxrbase"):
        SOURCES["kermany"].read(tmp_path, partial=True)
    assert any("2 patient ids are in two official splits; 2 of" in message for message in caplog.messages)


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.sampled_from(["train", "val", "test"]))))
def test_one_split_moves_no_more_than_it_must(rows):
    patients, splits = [row[0] for row in rows], [row[1] for row in rows]
    kept = one_split(patients, splits, name="x")
    for patient, before, after in zip(patients, splits, kept, strict=True):
        own = {split for other, split in rows if other == patient}
        wanted = next(split for split in ("test", "val", "train") if split in own)
        assert after == (wanted if patient else before)


@pytest.mark.parametrize(("name", "root"), [
    ("kermany", "chest_xray"), ("shenzhen", "ChinaSet_AllFiles"), ("montgomery", "MontgomerySet"),
])  # fmt: skip
def test_inner_folder_is_taken_as_well(name, root, tmp_path):
    truth = TREES[name](tmp_path)
    manifest = SOURCES[name].read(tmp_path / root, partial=True)
    assert sorted(manifest.column("path")) == sorted(path.removeprefix(f"{root}/") for path in truth["rows"])


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Tiny folders of the sources that read tables."""
    roots = {name: tmp_path_factory.mktemp(name) for name in dict(TABLES)}
    return {name: (root, TREES[name](root)["tables"]) for name, root in roots.items()}


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_damaged_tables_give_a_manifest_or_one_sentence(data, originals):
    name, place = data.draw(st.sampled_from(TABLES))
    root, tables = originals[name]
    content = (root / tables[place]).read_bytes()
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, len(content)))
    junk = data.draw(st.one_of(st.binary(max_size=12), st.text(max_size=8).map(str.encode), st.sampled_from(
        [b'"', b"\0", b",,,,", b"\n\n", b"../", b"x" * 300, b"[" * 99, b"null", b"{}", b"NaN", b"\xff"])))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for table in tables:
            (Path(folder) / table).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / table, Path(folder) / table)
        (Path(folder) / tables[place]).write_bytes(content[:start] + junk + content[stop:])
        for path in ("train/r1.png", "images/a.jpg", "imgs/health/h0001.png", "train/00002.jpg", "a.png"):
            picture(Path(folder), path)
        with contextlib.suppress(ManifestError):
            assert isinstance(SOURCES[name].read(folder, partial=True), Manifest)


def test_find_suggests_what_was_meant():
    assert find("kermany") is SOURCES["kermany"]
    with pytest.raises(ConfigError, match="did you mean kermany"):
        find("Kermani")
    with pytest.raises(ConfigError, match="there are mimic-cxr-jpg"):
        find("zzzzzz")


def test_merge_keeps_rows_and_where_they_are_from(tmp_path):
    names = ("kermany", "covid-chestxray", "csv-manifest")
    parts = []
    for name in names:
        (tmp_path / name).mkdir()
        TREES[name](tmp_path / name)
        parts.append(SOURCES[name].read(tmp_path / name, partial=True))
    whole = merge(parts, tmp_path)
    assert len(whole) == sum(map(len, parts))
    assert whole.paths == [path for part in parts for path in part.paths]
    assert whole.column("source").tolist() == [
        name for name, part in zip(names, parts, strict=True) for _ in range(len(part))
    ]
    assert set(whole.labels) == {label for part in parts for label in part.labels}
    start = 0
    for part in parts:
        rows = slice(start, start + len(part))
        for column in whole.table.column_names:
            values = whole.column(column)[rows]
            if column in part.table.column_names and column != "path":
                np.testing.assert_array_equal(values, part.column(column))
            elif column != "path":
                assert all(value == "" if isinstance(value, str) else np.isnan(value) for value in values), column
        start += len(part)


def test_merge_takes_a_label_that_is_blank_throughout_for_unknown(tmp_path):
    rows = enumerate(([""], [0], [np.nan]))
    parts = [Manifest.from_columns({"path": [f"{n}.png"], "label_x": value}, root=tmp_path) for n, value in rows]
    np.testing.assert_array_equal(merge(parts, tmp_path).column("label_x"), [np.nan, 0, np.nan])
    np.testing.assert_array_equal(merge(parts[::2], tmp_path).column("label_x"), [np.nan, np.nan])


def test_merge_refuses_what_does_not_fit(tmp_path):
    TREES["folder"](tmp_path)
    part = SOURCES["folder"].read(tmp_path)
    with pytest.raises(ManifestError, match=r"4\.png.*again in row"):
        merge([part, part], tmp_path)
    inner = Manifest.from_columns({"path": ["1.png"]}, root=tmp_path / "a")
    with pytest.raises(ManifestError, match=r"a/1\.png.*again in row"):
        merge([part, inner], tmp_path)
    with pytest.raises(ManifestError, match="is not in"):
        merge([part], tmp_path / "a")
    with pytest.raises(ManifestError, match="no manifests"):
        merge([], tmp_path)
    text = Manifest.from_columns({"path": ["n.png"], "label_x": ["remark"]}, root=tmp_path)
    number = Manifest.from_columns({"path": ["m.png"], "label_x": [1]}, root=tmp_path)
    with pytest.raises(ManifestError, match="do not fit together"):
        merge([text, number], tmp_path)
