"""Tasks: every file in experiments/task/ is read on a folder with the layout of its data, or says what to get."""

import contextlib
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import EXPERIMENTS
from cxrbase.data.manifest import Manifest
from cxrbase.data.phantom import make_phantom
from cxrbase.data.sources.catalogue import SOURCES
from cxrbase.errors import ConfigError, CXRBaseError, ManifestError
from cxrbase.evaluation.task import Task, TaskSource, TaskSplits, read_sections, read_task
from cxrbase.evaluation.task_data import load_task_data
from cxrbase.evaluation.task_splits import refuse_shared
from data.sources.trees_large import MAKERS
from data.sources.trees_small import TREES

FILES = sorted((EXPERIMENTS / "task").glob("*.yaml"))
MAKE = TREES | MAKERS
PHANTOM = {"data.phantom": {"patients": 40, "image_size": 32}}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom")
    make_phantom(root / "p", patients=40, image_size=32, workers=1)
    return root / "p"


def manifest_task(tmp_path, columns, **options):
    (tmp_path / "images").mkdir(exist_ok=True)
    for path in columns["path"]:
        (tmp_path / "images" / path).touch()
    Manifest.from_columns(columns, root=tmp_path / "images").write(tmp_path / "images" / "manifest.parquet")
    return Task("t", "a task", TaskSource(str(tmp_path / "images")), **options)


def columns(count, **others):
    return {"path": [f"{n:03}.png" for n in range(count)], "patient_id": [f"p{n // 2}" for n in range(count)]} | others


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_task_file_is_read_on_a_folder_of_its_data(file, tmp_path, phantom, request):
    task = read_task(file)
    assert task.name == file.stem
    changes = {"data.root": str(tmp_path)}
    if task.data.phantom:
        changes = {"data.root": str(phantom)} | PHANTOM
    elif task.data.source:
        MAKE[task.data.source](tmp_path)
        changes["data.partial"] = True
    else:
        changes["data.root"] = str(request.getfixturevalue("cxr_root"))
    data = load_task_data(read_task(file, changes=changes))
    assert data.truth.shape == data.targets.shape == (len(data.manifest), len(data.classes))
    assert not np.isnan(data.targets).all(1).any()
    splits = data.column("split")
    homes = {name: set(data.patients[splits == name]) for name in ("train", "val", "test")}
    assert not homes["train"] & homes["val"]
    assert not (homes["train"] | homes["val"]) & homes["test"]
    if not task.data.source:
        data.check()


@pytest.mark.parametrize("file", [f for f in FILES if read_task(f).data.source], ids=lambda file: file.stem)
def test_a_task_without_its_data_says_what_to_get_and_how_to_lay_it_out(file, tmp_path):
    task = read_task(file, changes={"data.root": str(tmp_path / "none")})
    with pytest.raises(ManifestError) as caught:
        load_task_data(task)
    source = SOURCES[task.data.source]
    assert "\n" not in str(caught.value)
    for part in (source.title, source.access, *source.layout, "--task.data.root"):
        assert part in str(caught.value)


def test_a_task_of_a_folder_without_a_manifest_says_what_it_needs(tmp_path):
    with pytest.raises(ManifestError, match=r"needs .* with manifest.parquet or manifest.csv"):
        load_task_data(Task("t", "t", TaskSource(str(tmp_path))))
    with pytest.raises(ManifestError, match=r"with mine\.csv, one row per image"):
        load_task_data(Task("t", "t", TaskSource(str(tmp_path), manifest="mine.csv")))


def test_policies_for_uncertain_and_blank_labels(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="cxrbase")
    given = columns(8, split=["train"] * 4 + ["test"] * 4)
    given |= {"label_a": [1, 0, None, None] * 2, "code_a": ["1", "0", "-1", ""] * 2, "label_b": [1.0, 0] * 4}
    wanted = {"ignore": np.nan, "ones": 1.0, "zeros": 0.0, "soft": 0.25}
    for policy, value in wanted.items():
        task = manifest_task(tmp_path, given, uncertain={"a": policy}, soft_value=0.25, findings=["a", "b"])
        data = load_task_data(task)
        np.testing.assert_array_equal(data.targets[:4, 0], np.float32([1, 0, value, np.nan]))
        np.testing.assert_array_equal(data.truth[:, 0], np.float32([1, 0, np.nan, np.nan] * 2))
        assert data.label_counts["a"] == {"positive": 2, "negative": 2, "uncertain": 2, "blank": 2}
    assert "a: 2 positive, 2 negative, 2 uncertain, 2 blank (uncertain: soft, blank: missing)" in caplog.text
    task = manifest_task(tmp_path, given, blank={"a": "negative"}, uncertain="ones")
    data = load_task_data(task)
    np.testing.assert_array_equal(data.truth[:4, 0], np.float32([1, 0, np.nan, 0]))
    np.testing.assert_array_equal(data.targets[:4, 0], np.float32([1, 0, 1, 0]))


def test_an_image_that_cannot_be_judged_is_left_out_of_test_but_trained_on(tmp_path):
    given = columns(8, split=["train"] * 4 + ["test"] * 4, label_a=[1, 0, None, None] * 2)
    given["code_a"] = ["1", "0", "-1", ""] * 2
    data = load_task_data(manifest_task(tmp_path, given, uncertain="ones"))
    assert [len(data.rows(split)) for split in ("train", "test")] == [3, 2]


def test_multiclass_takes_images_with_exactly_one_class(tmp_path):
    given = columns(4, split=["train"] * 4, label_a=[1, 0, 1, 0], label_b=[0, 1, 1, 0], label_c=[0.0] * 4)
    data = load_task_data(manifest_task(tmp_path, given, kind="multiclass", findings=["a", "b", "c"]))
    np.testing.assert_array_equal(data.truth, np.float32([[1, 0, 0], [0, 1, 0]]))


def test_views_targets_and_exclusions_choose_images(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="cxrbase")
    given = columns(6, split=["train"] * 6, view_position=["PA", "AP", "LATERAL", "", "PA", "AP"])
    target = {"column": "view_position", "positive": ["PA"], "negative": ["AP"]}
    from cxrbase.data.manifest import Target

    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "out.txt").write_text("005.png\np0\nnobody\n")
    task = manifest_task(
        tmp_path, given, views=["PA", "AP"], targets={"pa": Target(**target)}, kind="binary", findings=["pa"],
        exclude="out.txt",
    )  # fmt: skip
    data = load_task_data(task)
    assert data.column("path").tolist() == ["004.png"]
    assert "3 images are listed in out.txt" in caplog.text
    assert "1 lines of out.txt name no image" in caplog.text


def test_laterals_that_are_left_out_are_kept_apart_in_the_split_of_their_patient(tmp_path):
    given = columns(10, split=["train"] * 6 + ["val"] * 2 + ["test"] * 2, label_a=[1.0, 0] * 5)
    given["view_position"] = ["PA", "LATERAL", "AP", "ll", "RL", "LATERAL", "PA", "LATERAL", "PA", "oblique"]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.txt").write_text("000.png\n")
    lists = TaskSplits(lists={"test": "mine.txt"})  # moves a patient whose lateral stays in train by its own row
    data = load_task_data(manifest_task(tmp_path, given, views=["PA", "AP"], splits=lists))
    assert data.column("path").tolist() == ["000.png", "002.png", "006.png", "008.png"]
    found = dict(zip(data.laterals.column("path"), data.laterals.column("split"), strict=True))
    # 004 and 005 are of a patient without a frontal image, of whom it is not known where they belong.
    assert found == {"001.png": "test", "003.png": "train", "007.png": "val"}
    assert load_task_data(manifest_task(tmp_path, given)).laterals is None
    given["view_position"] = ["PA"] * 10
    assert load_task_data(manifest_task(tmp_path, given, views=["PA"])).laterals is None


def test_images_that_do_not_say_their_view_are_told_from_those_of_another(tmp_path, caplog):
    given = columns(10, split=["train"] * 6 + ["val"] * 2 + ["test"] * 2, label_a=[1.0, 0] * 5)
    (tmp_path / "none").mkdir()
    with pytest.raises(ManifestError, match=r"no image says its view.*leave `views` out"):
        load_task_data(manifest_task(tmp_path / "none", given, views=["PA"]))
    given["view_position"] = ["PA"] * 7 + ["", "AP", ""]
    caplog.set_level("INFO")
    load_task_data(manifest_task(tmp_path, given, views=["PA"], splits=TaskSplits(val=0.3, test=0.3)))
    assert "1 images are of another view than PA" in caplog.text
    assert "2 images do not say whether they are PA" in caplog.text


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9), st.floats(0, 0.4), st.floats(0, 0.4), st.booleans())
def test_dealt_splits_keep_patients_together_and_do_not_depend_on_the_others(seed, val, test, official):
    from cxrbase.evaluation.task_splits import assign_splits

    table = columns(60, label_a=[1.0, 0] * 30) | ({"split": ["train"] * 50 + ["test"] * 10} if official else {})
    task = Task("t", "t", TaskSource("."), splits=TaskSplits(val=val, test=test, seed=seed))
    manifest = Manifest.from_columns(table, root=".")
    whole = assign_splits(task, manifest)
    refuse_shared(whole.patients(), whole.column("split"))
    if official:
        assert (whole.column("split")[50:] == "test").all()
    part = assign_splits(task, Manifest(manifest.table.slice(10), manifest.root))
    np.testing.assert_array_equal(part.column("split"), whole.column("split")[10:])


def test_lists_and_renames_come_before_the_official_split(tmp_path):
    given = columns(8, split=["train"] * 4 + ["val"] * 4, label_a=[1.0, 0] * 4)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.txt").write_text("000.png\n001.png\n")
    task = manifest_task(tmp_path, given, splits=TaskSplits(rename={"val": "test"}, lists={"val": "mine.txt"}))
    data = load_task_data(task)
    assert data.column("split").tolist() == ["val"] * 2 + ["train"] * 2 + ["test"] * 4
    (tmp_path / "images" / "mine.txt").write_text("000.png\n")
    with pytest.raises(ManifestError, match="patient p0 is in split"):
        load_task_data(task)
    (tmp_path / "images" / "mine.txt").write_text("other.png\n")
    with pytest.raises(ManifestError, match="names no image"):
        load_task_data(task)


def test_a_split_becomes_test_only_where_no_test_image_has_a_label(tmp_path):
    given = columns(8, split=["train"] * 4 + ["val"] * 2 + ["test"] * 2, label_a=[1.0, 0] * 3 + [None, None])
    withheld = manifest_task(tmp_path, given, splits=TaskSplits(rename={"val": "test"}, val=0.5))
    data = load_task_data(withheld)
    assert data.column("path")[data.rows("test")].tolist() == given["path"][4:6]
    there = manifest_task(tmp_path, given | {"label_a": [1.0, 0] * 4}, splits=TaskSplits(rename={"val": "test"}))
    assert load_task_data(there).column("split").tolist() == given["split"]
    splits = TaskSplits(rename={"val": "train"}, val=0)
    joined = manifest_task(tmp_path, given | {"label_a": [1.0, 0] * 4}, splits=splits)
    assert load_task_data(joined).column("split").tolist() == ["train"] * 6 + ["test"] * 2


@pytest.mark.parametrize("with_test", [True, False])
def test_the_test_set_of_object_cxr_is_taken_where_it_is_there(tmp_path, with_test):
    MAKE["object-cxr"](tmp_path)
    if with_test:
        (tmp_path / "test.csv").write_text("image_name,annotation\n09001.jpg,1 7 10 20 30\n09002.jpg,\n")
        (tmp_path / "test").mkdir()
        for name in ("09001.jpg", "09002.jpg"):
            shutil.copy(tmp_path / "dev" / "08001.jpg", tmp_path / "test" / name)
    changes = {"data.root": str(tmp_path), "data.partial": True}
    data = load_task_data(read_task(EXPERIMENTS / "task" / "object_cxr.yaml", changes=changes))
    of_dev = {split for path, split in zip(data.column("path"), data.column("split"), strict=True) if "dev/" in path}
    assert of_dev == ({"val"} if with_test else {"test"})
    assert [path for path in data.column("path")[data.rows("test")] if "test/" in path] == (
        ["test/09001.jpg", "test/09002.jpg"] if with_test else []
    )


def test_uncertain_labels_of_chexpert_are_those_of_its_header():
    task = read_task(EXPERIMENTS / "task" / "chexpert.yaml")
    assert {name: task.uncertain_of(name) for name in task.findings} == {
        "atelectasis": "ones", "cardiomegaly": "zeros", "consolidation": "zeros", "edema": "ones",
        "pleural_effusion": "ignore",
    }  # fmt: skip


def test_a_planted_patient_leak_is_refused():
    with pytest.raises(ManifestError, match="patients must not cross splits"):
        refuse_shared(np.array(["a", "b", "a"]), np.array(["train", "test", "test"]))


def test_checksums_change_with_splits_and_labels_and_not_with_order(tmp_path):
    given = columns(6, split=["train", "train", "val", "val", "test", "test"], label_a=[1, 0, 1, 0, 1, 0])
    one = load_task_data(manifest_task(tmp_path, given))
    two = load_task_data(manifest_task(tmp_path, {name: values[::-1] for name, values in given.items()}))
    assert (one.split_checksum, one.label_checksum) == (two.split_checksum, two.label_checksum)
    moved = load_task_data(manifest_task(tmp_path, given | {"split": ["train"] * 4 + ["test"] * 2},
                                         splits=TaskSplits(val=0)))  # fmt: skip
    assert moved.split_checksum != one.split_checksum
    other = load_task_data(manifest_task(tmp_path, given | {"label_a": [0, 1, 1, 0, 1, 0]}))
    assert (other.split_checksum, other.label_checksum) != (one.split_checksum, one.label_checksum)
    assert other.split_checksum == one.split_checksum


@pytest.mark.parametrize(
    ("labels", "splits", "said"),
    [
        ([0, 0, 0, 0, 1, 0], ["train"] * 2 + ["val"] * 2 + ["test"] * 2, "no positive of a in train"),
        ([1, 1, 0, 0, 1, 0], ["train"] * 2 + ["val"] * 2 + ["test"] * 2, "no negative of a in train"),
        ([1, 0, 1, 0, 1, 0], ["train"] * 6, "no labelled image in split val"),
    ],
)
def test_what_cannot_be_learnt_or_judged_is_one_sentence(tmp_path, labels, splits, said):
    task = manifest_task(tmp_path, columns(6, split=splits, label_a=labels), splits=TaskSplits(val=0, test=0))
    with pytest.raises(ManifestError, match=said) as caught:
        load_task_data(task).check()
    assert "\n" not in str(caught.value)


def test_a_finding_that_train_lacks_is_warned_of_where_others_can_be_learnt(tmp_path, caplog):
    splits = ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    load_task_data(manifest_task(tmp_path, columns(6, split=splits, label_a=[0] * 6, label_b=[1.0, 0] * 3))).check()
    assert "no positive of a in train, so it is not learnt" in caplog.text


def test_sizes_and_warnings_are_told(tmp_path, caplog):
    splits = ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    data = load_task_data(
        manifest_task(tmp_path, columns(6, split=splits, label_a=[1.0, 0] * 3), warnings=["label is source"])
    )
    assert data.sizes()["test"] == {"images": 2, "patients": 1, "positives": {"a": 1}}
    assert "label is source" in caplog.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"finding": ["x"]}, "did you mean 'findings'"),
        ({"data.sorce": "nih"}, "did you mean 'source'"),
        ({"splits.vall": 0.1}, "did you mean 'val'"),
        ({"kind": "binry"}, "binry"),
        ({"uncertain": "onez"}, "onez"),
        ({"splits.val": 0.9, "splits.test": 0.3}, "together below 1"),
        ({"splits.rename": {"val": "tset"}}, "tset"),
        ({"kind": "multiclass"}, "at least two findings"),
        ({"uncertain": {"pneumonja": "ones"}}, "did you mean 'pneumonia'"),
        ({"soft_value": 1.5}, "soft_value"),
        ({"findings": ["pneumonja"]}, "asks for pneumonja"),
        ({"data.source": "nih"}, "no manifest and no phantom"),
        ({"data.source": "nhi", "data.phantom": None}, "did you mean nih"),
    ],
)
def test_a_wrong_setting_is_answered_in_one_sentence(phantom, change, said):
    with pytest.raises(CXRBaseError, match=said) as caught:
        load_task_data(
            read_task(EXPERIMENTS / "task" / "pneumonia.yaml", changes={"data.root": str(phantom)} | PHANTOM | change)
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [", "is not valid YAML"), ("tusk: {}", "is not a task file"), ("task: {}\nfoo: {}", "foo"),
     ("task: 3", "is not a task file"), ("task: {name: a}\nfinetune: 3", "must hold settings"),
     ("task: !!python/object/apply:os.getcwd []", "the tag")],
)  # fmt: skip
def test_a_file_that_is_no_task_is_answered(tmp_path, text, said):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_task(tmp_path / "t.yaml")
    with pytest.raises(ConfigError, match="no task file"):
        read_task(tmp_path / "absent.yaml")


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda x: st.lists(x, max_size=3)), max_size=4))  # fmt: skip # noqa: E501
def test_any_mapping_gives_a_task_or_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "t.yaml"
    path.write_text(yaml.safe_dump({"task": content}))
    with contextlib.suppress(ConfigError):
        read_task(path)


def test_sections_stand_as_in_the_file():
    assert set(read_sections(Path(FILES[0]))) <= {"task", "finetune", "evaluate"}
