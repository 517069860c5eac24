"""A patient is in the same split in a folder, in a pack and in a task, whatever the source is called."""

import logging

import cv2
import numpy as np
import pyarrow as pa
import pytest

from cxrbase.data.datamodule import CXRDataModule
from cxrbase.data.images import read_manifest
from cxrbase.data.manifest import Manifest
from cxrbase.data.manifest_splits import deal_splits, fill_splits
from cxrbase.data.pack import pack
from cxrbase.data.selection import Selection
from cxrbase.data.shard_index import ShardIndex
from cxrbase.errors import ConfigError
from cxrbase.evaluation.task import Task, TaskSource, TaskSplits
from cxrbase.evaluation.task_data import load_task_data
from packs import make_pack

COUNT = 80
GIVEN = {
    "none": [""] * COUNT,
    "train": ["train"] * COUNT,
    "train and val": ["train"] * 60 + ["val"] * 20,
    "train and test": ["train"] * 60 + ["test"] * 20,
    "all": ["train"] * 40 + ["val"] * 20 + ["test"] * 20,
    "some blank": ["train"] * 40 + ["val"] * 10 + ["test"] * 10 + [""] * 20,
}


def make_folder(root, splits, *, named=True):
    """Noise with two images a patient, or of nobody who is known."""
    root.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for row in range(len(splits)):
        cv2.imwrite(str(root / f"{row:02}.png"), noise.integers(0, 255, (12, 12), np.uint8))
    columns = {
        "path": [f"{row:02}.png" for row in range(len(splits))],
        "patient_id": [f"p{row // 2}" if named else "" for row in range(len(splits))],
        "label_x": [float(row % 2) for row in range(len(splits))],
        "split": splits,
    }
    Manifest.from_columns(columns, root=root).write(root / "manifest.parquet")
    return root


def by_name(paths, splits):
    return {path.rpartition("/")[2]: split for path, split in zip(paths, splits, strict=True) if split}


def of_task(root, source="", **splits):
    where = TaskSource(root=str(root), source=source or None)
    data = load_task_data(Task("t", "t", where, findings=["x"], kind="binary", splits=TaskSplits(**splits)))
    return by_name(data.column("path"), data.column("split"))


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("given", GIVEN)
def test_folder_pack_and_task_agree(tmp_path, given, named):
    root = make_folder(tmp_path / "raw", GIVEN[given], named=named)
    for name in ("mine", "another"):
        pack([(f"{name}=csv-manifest", str(root))], tmp_path / name, jobs=1)
    manifest = read_manifest(root, named=None, targets=None)
    folder = by_name(manifest.column("path"), manifest.splits())
    assert set(folder.values()) == {"train", "val", "test"}
    for name in ("mine", "another"):
        index = ShardIndex(tmp_path / name / "index.parquet")
        assert by_name(index.column("path"), index.splits()) == folder
        assert of_task(tmp_path / name) == folder
        assert of_task(tmp_path / name, name) == folder
    assert of_task(root) == folder
    official = by_name(manifest.column("path"), GIVEN[given])
    kept = {"val", "test"} & set(official.values())
    assert all(folder[path] == split for path, split in official.items() if split in kept)
    assert len(folder) == (60 if given == "some blank" else COUNT)


def test_no_test_patient_of_a_task_is_pretrained_on(tmp_path):
    root = make_folder(tmp_path / "raw", GIVEN["train and val"])
    pack([("mine=csv-manifest", str(root))], tmp_path / "pack", jobs=1)
    tested = {path for path, split in of_task(root).items() if split == "test"}
    assert tested
    for place in (root, tmp_path / "pack"):
        data = opened(place)
        drawn = data.manifest.column("path")[data._order().rows]
        assert not tested & {path.rpartition("/")[2] for path in drawn}


def opened(root, **options):
    data = CXRDataModule(str(root), image_size=32, batch_size=4, **options)
    data.prepare_data()
    data.setup("fit")
    return data


def two_sources(folder, *, other):
    """A pack of a set with all splits and of one with these."""
    return make_pack(
        folder,
        source=["nih"] * COUNT + ["padchest"] * COUNT,
        patient_id=[f"{source}:{row // 2}" for source in ("nih", "padchest") for row in range(COUNT)],
        split=GIVEN["all"] + other,
    )


def test_a_source_without_splits_is_dealt_beside_one_that_has_them(tmp_path):
    data = opened(two_sources(tmp_path, other=GIVEN["none"]), select=Selection(weights={"nih": 2, "padchest": 0.5}))
    drawn = data.manifest.column("source")[data._order().rows]
    assert (drawn == "nih").sum() == 40
    assert COUNT / 2 < (drawn == "padchest").sum() < COUNT
    assert (data.manifest.splits()[:COUNT] == GIVEN["all"]).all()


def test_shares_of_missing_splits_are_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    read_manifest(make_folder(tmp_path / "raw", GIVEN["none"]), named=None, targets=None)
    said = "no official val and test, so 15 % of the patients are assigned to val and 15 % to test, seed 0"
    assert said in caplog.text


def test_a_source_without_a_training_image_is_named(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    place = two_sources(tmp_path, other=["test"] * COUNT)
    opened(place)._order()
    assert f"no image of padchest is trained on: none of its {COUNT} is" in caplog.text
    caplog.clear()
    opened(place, select=Selection(sources=["nih"]))._order()
    assert "no image of padchest" not in caplog.text


@pytest.mark.parametrize("select", [{"weights": {"padchest": 2.0}}, {"sources": ["nih", "padchest"]}])
def test_a_source_that_is_named_must_have_a_training_image(tmp_path, select):
    data = opened(two_sources(tmp_path, other=["test"] * COUNT), select=Selection(**select))
    (name,) = select
    with pytest.raises(ConfigError, match=f"data.select.{name} has padchest, of which no image is left to train on"):
        data._order()


def test_in_a_pack_nobody_is_in_another_split_than_in_the_folder(tmp_path):
    """The same people are in two sets, with and without an official division."""
    people = [f"p{row}" for row in range(COUNT)]
    columns = {"source": ["nih"] * COUNT + ["rsna"] * COUNT, "patient_id": people * 2}
    place = make_pack(tmp_path, split=GIVEN["all"] + GIVEN["none"], **columns)
    filled = ShardIndex(place / "index.parquet").splits()
    alone = Manifest.from_columns({"path": people, "patient_id": people}, root=".").with_splits().splits()
    assert filled[:COUNT].tolist() == GIVEN["all"]
    agreed = alone == GIVEN["all"]
    assert agreed.any()
    assert not agreed.all()
    np.testing.assert_array_equal(filled[COUNT:], np.where(agreed, alone, ""))


def shared_patients(one, other):
    """A manifest of two sources with the same people, one image each, and these splits."""
    people = [f"p{row}" for row in range(COUNT)]
    columns = {"source": ["nih"] * COUNT + ["rsna"] * COUNT, "patient_id": people * 2, "split": one + other}
    return Manifest.from_columns({"path": [f"{row}.png" for row in range(2 * COUNT)]} | columns, root=".")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("given", ["train and test", "train and val", "train"])
def test_a_set_with_splits_loses_nothing_to_one_without(given, packed):
    """What is dealt to train out of the official splits agrees with what is dealt of the whole."""
    table = shared_patients(GIVEN[given], GIVEN["none"])
    filled = fill_splits(table, table.splits(), packed=packed)
    official, other = filled[:COUNT], filled[COUNT:]
    assert set(official) == {"train", "val", "test"}
    trained = np.array(GIVEN[given]) == "train"
    assert (official[~trained] == np.array(GIVEN[given])[~trained]).all()
    alone = np.array(deal_splits([f"p{row}" for row in range(COUNT)]))
    for split in {"val", "test"} - set(GIVEN[given]):
        assert ((official == split) == (trained & (alone == split))).all()
    np.testing.assert_array_equal(other, np.where(official == alone, alone, ""))


def test_two_sets_with_splits_have_nobody_in_two():
    """One lacks val and the other test, which are dealt of the same people."""
    table = shared_patients(["train"] * 70 + ["test"] * 10, ["train"] * 70 + [""] * 10)
    more = Manifest.from_columns({"path": ["v.png"], "source": ["rsna"], "split": ["val"]}, root=".")
    table = Manifest(pa.concat_tables([table.table, more.table]), ".")
    filled = fill_splits(table, table.splits(), packed=True)
    for who in {f"p{row}" for row in range(COUNT)}:
        assert len(set(filled[table.column("patient_id") == who]) - {""}) < 2
    assert (filled[70:80] == "test").all()
    # Nobody else has them, so these are left out of both.
    alone = np.array(deal_splits([f"p{row}" for row in range(70)]))
    np.testing.assert_array_equal(filled[:70] == "", alone != "train")


def test_an_external_source_of_a_manifest_is_its_whole_test_split():
    columns = {
        "path": [f"{row}.png" for row in range(COUNT * 3)],
        "source": ["here"] * COUNT + ["there"] * COUNT + ["elsewhere"] * COUNT,
        "split": ["train"] * COUNT + ["test"] * COUNT + [""] * COUNT,
    }
    filled = Manifest.from_columns(columns, root=".").with_missing_splits().splits()
    assert set(filled[:COUNT]) == {"train", "val"}
    assert set(filled[COUNT : 2 * COUNT]) == {"test"}
    assert set(filled[2 * COUNT :]) == {"train", "val", "test"}


def test_a_task_of_some_views_has_the_test_patients_of_all_images(tmp_path):
    """The official test images are laterals, which the task leaves out: it must not deal others in their place."""
    root = make_folder(tmp_path / "raw", GIVEN["train and test"])
    table = Manifest.read(root / "manifest.parquet").table
    views = np.where(np.array(GIVEN["train and test"]) == "test", "LATERAL", "PA").tolist()
    place = table.column_names.index("view_position")
    Manifest(table.set_column(place, "view_position", [views]), root).write(root / "manifest.parquet")
    task = Task("t", "t", TaskSource(root=str(root)), findings=["x"], kind="binary", views=["PA"])
    assert set(load_task_data(task).column("split")) == {"train", "val"}
