"""A task's images from packed shards: the same pixels, rows and scores as from the folder they were packed from."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pydicom
import pytest
import torch

from commands import EXPERIMENTS
from cxrbase.backbones import create_backbone, save_encoder
from cxrbase.cli import main
from cxrbase.data.canvas import CanvasStore, to_canvas
from cxrbase.data.centre import CentreViews, read_canvases
from cxrbase.data.decode import decode_uint8
from cxrbase.data.manifest import Manifest
from cxrbase.data.pack import pack
from cxrbase.data.pack_image import ImageOptions
from cxrbase.data.phantom import make_phantom
from cxrbase.data.reading import Reading
from cxrbase.data.shard_store import ShardStore
from cxrbase.errors import ConfigError, ManifestError, ShardError
from cxrbase.evaluation.suite.score_task import splits_of
from cxrbase.evaluation.suite.seen import training_set
from cxrbase.evaluation.suite.shortcut import label_by_origin, shortcut_warnings
from cxrbase.evaluation.task import read_task
from cxrbase.evaluation.task_data import load_task_data
from cxrbase.evaluation.task_images import open_images
from cxrbase.models import load_model
from packs import make_pack

CPU = torch.device("cpu")
SHAPE = {"patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom") / "images"
    make_phantom(root, patients=60, image_size=48, seed=5, workers=1)
    return root


@pytest.fixture(scope="module")
def packed(folder):
    """The phantom in shards that keep every pixel."""
    out = folder.parent / "packed"
    pack([("csv-manifest", str(folder))], out, options=ImageOptions(size=48, codec="png"), jobs=1, block_rows=20)
    return out


def task_of(root, name="phantom", **changes):
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return load_task_data(
        read_task(
            EXPERIMENTS / "task" / f"{name}.yaml", changes={"data.root": str(root), "data.phantom": None} | changes
        )
    )


@pytest.mark.parametrize(("origins", "told"), [("label", True), ("split", False), ("path", False)])
def test_a_label_that_the_origin_within_a_set_tells_is_flagged(folder, tmp_path, origins, told):
    manifest = Manifest.read(folder / "manifest.parquet")
    (tmp_path / "images").symlink_to(folder / "images")
    values = {
        "label": np.where(manifest.column("label_effusion") == 1, "ricord", "rsna"),
        "split": manifest.column("split"),
        "path": manifest.column("path"),
    }[origins]
    table = manifest.table.append_column("origin", pa.array(values.astype(str)))
    Manifest(table, tmp_path).write(tmp_path / "manifest.parquet")
    data = task_of(tmp_path)
    splits, _ = splits_of(data, np.arange(len(data.manifest)))
    warned = [said for said in shortcut_warnings(label_by_origin(splits)) if "origin" in said]
    assert any("the origin of an image tells effusion" in said for said in warned) == told
    assert (splits.test.groups["origin"] != "").any() == (origins != "path")  # an image's own name is no group


def by_name(data, store):
    """Every image by the end of its path."""
    views = torch.cat(list(CentreViews(store, np.arange(len(data.manifest)), out=32, mean=0.5, std=0.25, device=CPU,
                                          batch_size=7)))  # fmt: skip
    return {name.removeprefix("csv-manifest/"): view for name, view in zip(data.column("path"), views, strict=True)}


@pytest.mark.parametrize("url", [False, True])
def test_views_labels_and_splits_are_those_of_the_folder(folder, packed, tmp_path, monkeypatch, url):
    monkeypatch.setenv("HOME", str(tmp_path))  # where shards of an object store are kept
    ours = task_of(f"file://{packed}" if url else packed, views=["PA"])
    theirs = task_of(folder, views=["PA"])
    assert 0 < len(ours.manifest) == len(theirs.manifest) < len(Manifest.read(folder / "manifest.parquet"))
    store = open_images(ours, size=64, read=Reading(), option="--x")
    assert isinstance(store, ShardStore)
    assert store.rows.tolist() == list(range(len(ours.manifest)))
    found, wanted = by_name(ours, store), by_name(theirs, open_images(theirs, size=64, read=Reading(), option="--x"))
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    order = [list(theirs.column("path")).index(name) for name in found]
    np.testing.assert_array_equal(ours.truth, theirs.truth[order])
    assert list(ours.column("split")) == list(theirs.column("split")[order])


def test_canvases_keep_what_the_images_take(folder, tmp_path):
    manifest = Manifest.read(folder / "manifest.parquet")
    store = CanvasStore.open(manifest, size=64, cache_dir=tmp_path)
    got = read_canvases(store, np.array([3, 0]), device=CPU)
    assert got.rows.tolist() == [3, 0]
    for canvas, size, row in zip(got.images, got.sizes, (3, 0), strict=True):
        pixels, taken = store.read(row)
        np.testing.assert_array_equal(canvas[0].numpy(), pixels)
        assert tuple(size.tolist()) == taken


def test_a_task_of_a_public_set_takes_its_source_alone(tmp_path):
    make_pack(
        tmp_path, source=["nih", "nih", "nih", "other"], patient_id=["1", "2", "3", "4"],
        split=["train", "val", "test", "test"], label_pneumonia=[1.0, 0.0, 1.0, 1.0],
    )  # fmt: skip
    data = task_of(tmp_path, "nih", findings=["pneumonia"], data__source="nih")
    assert list(data.column("patient_id")) == ["1", "2", "3"]
    with pytest.raises(ManifestError, match="needs the source padchest, and"):
        task_of(tmp_path, "nih", findings=["pneumonia"], data__source="padchest")


def test_an_index_that_changed_or_is_damaged_is_one_sentence(folder, packed, tmp_path):
    data = task_of(packed)
    (tmp_path / "index.parquet").write_bytes((packed / "index.parquet").read_bytes()[:-9])
    with pytest.raises(ShardError, match="pack it again"):
        task_of(tmp_path)
    store = open_images(data, size=64, read=Reading(), option="--x")
    with pytest.raises(ShardError, match=r"has no image nowhere\.png: the images were packed again"):
        store.index.take(["nowhere.png"])


def test_a_manifest_is_refused_with_a_pack(packed):
    with pytest.raises(ConfigError, match=r"task\.data\.manifest=other\.csv is for folders"):
        task_of(packed, data__manifest="other.csv")


def test_folders_name_the_option_of_their_cache(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ManifestError, match=r"set --finetune\.cache_dir to a folder"):
        open_images(
            task_of(folder), size=64, read=Reading(), cache_dir=tmp_path / "file" / "x", option="--finetune.cache_dir"
        )


def test_both_commands_give_the_scores_of_the_folder(folder, packed, tmp_path, capsys):
    torch.manual_seed(0)
    network = create_backbone("vit_tiny_patch16_224", image_size=32, options=SHAPE)
    arguments = {"in_chans": 1, "num_classes": 0, "img_size": 32, **SHAPE}
    card = {"timm_name": "vit_tiny_patch16_224", "timm_args": arguments, "image_size": 32, "mean": 0.5, "std": 0.25}
    save_encoder(network, tmp_path / "enc", card)
    areas = {}
    for name, root in (("folder", folder), ("packed", packed)):
        at = [f"--config={EXPERIMENTS / 'task' / 'phantom_view.yaml'}", f"--task.data.root={root}",
              f"--encoder={tmp_path / 'enc'}"]  # fmt: skip
        assert main(["evaluate", *at, "--task.data.phantom=null", "--evaluate.protocols=[linear]", "--device=cpu",
                     "--evaluate.resamples=20", f"--out={tmp_path / name}"]) == 0  # fmt: skip
        (path,) = (tmp_path / name / "results").glob("*.json")
        areas[name] = json.loads(path.read_text())["metrics"]["auroc"]["macro"]["value"]
    assert areas["packed"] == pytest.approx(areas["folder"], abs=1e-6)
    run = tmp_path / "run"
    assert main(["fit", *at, "--task.data.phantom=null", "--finetune.epochs=1", "--finetune.resamples=20",
                 "--finetune.accelerator=cpu", "--finetune.num_workers=1", f"--run_dir={run}"]) == 0  # fmt: skip
    assert (run / "model" / "model.safetensors").is_file()


@pytest.fixture(scope="module")
def windowed(folder):
    """The phantom, whose DICOM files have a window that is narrower than their values."""
    root = folder.parent / "windowed"
    shutil.copytree(folder, root, ignore=shutil.ignore_patterns(".canvas"))
    for path in root.rglob("*.dcm"):
        data = pydicom.dcmread(path)
        low, high = np.percentile(data.pixel_array, [20, 60])
        data.WindowCenter, data.WindowWidth = round((low + high) / 2), round(max(high - low, 2))
        data.save_as(path)
    return root


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An encoder that learnt from windows of files."""
    torch.manual_seed(0)
    network = create_backbone("vit_tiny_patch16_224", image_size=32, options=SHAPE)
    arguments = {"in_chans": 1, "num_classes": 0, "img_size": 32, **SHAPE}
    card = {"timm_name": "vit_tiny_patch16_224", "timm_args": arguments, "image_size": 32, "mean": 0.5, "std": 0.25}
    return save_encoder(network, tmp_path_factory.mktemp("enc"), card | Reading("dicom").values()).parent


def ran(verb, root, encoder, out):
    """The row of an evaluation, or of a fine-tuning run."""
    words = [verb, f"--config={EXPERIMENTS / 'task' / 'phantom_view.yaml'}", f"--task.data.root={root}",
             "--task.data.phantom=null", f"--encoder={encoder}"]  # fmt: skip
    words += {
        "evaluate": ["--evaluate.protocols=[linear]", "--device=cpu", "--evaluate.resamples=20", f"--out={out}"],
        "fit": ["--finetune.epochs=1", "--finetune.resamples=20", "--finetune.accelerator=cpu",
                "--finetune.num_workers=0", f"--finetune.cache_dir={out / 'canvas'}", f"--run_dir={out}"],
    }[verb]  # fmt: skip
    assert main(words) == 0
    (path,) = (out / "results").glob("*.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("reading", [Reading(), Reading("dicom"), Reading(crop_borders=True), Reading("dicom", True)])
def test_files_are_read_as_the_encoder_learnt_them(windowed, tmp_path, reading):
    data = task_of(windowed)
    store = open_images(data, size=64, read=reading, cache_dir=tmp_path, option="--x")
    for row, path in enumerate(data.manifest.paths):
        pixels = decode_uint8(path, window=reading.window, crop=reading.crop_borders)
        np.testing.assert_array_equal(store.image(row), pixels)


@pytest.mark.parametrize("verb", ["evaluate", "fit"])
def test_both_commands_read_files_as_the_encoder_learnt_them(verb, windowed, saved, tmp_path):
    row = ran(verb, windowed, saved, tmp_path)
    assert not any("packed" in warning for warning in row["warnings"])
    assert (row["encoder"]["window"], row["encoder"]["crop_borders"]) == ("dicom", False)
    for path in (tmp_path / "canvas").glob("*-64.npy"):
        canvases, sizes = np.load(path), np.load(path.with_name(f"{path.stem}-sizes.npy"))
        data = task_of(windowed, "phantom_view")
        # The lateral images that a task leaves out are kept, too.
        manifest = next(one for one in (data.manifest, data.laterals) if one is not None and len(one) == len(canvases))
        for canvas, taken, file in zip(canvases, sizes, manifest.paths, strict=True):
            wanted, size = to_canvas(decode_uint8(file, window="dicom"), 64)
            assert tuple(taken) == size
            np.testing.assert_array_equal(canvas, wanted)
    assert list((tmp_path / "canvas").glob("*-64.npy"))
    if verb == "fit":
        assert load_model(tmp_path).reading == Reading("dicom")


@pytest.mark.parametrize("verb", ["evaluate", "fit"])
def test_a_pack_of_another_reading_is_a_warning_of_the_row_and_the_model_keeps_what_it_learnt_from(
    verb, packed, saved, tmp_path
):
    row = ran(verb, packed, saved, tmp_path)
    (said,) = Reading("dicom").unlike(Reading())
    assert row["warnings"].count(said) == 1
    if verb == "fit":
        model = load_model(tmp_path)
        assert model.reading == Reading()
        assert model.card["encoder"]["intensity"] == Reading().convention
        assert said in (tmp_path / "model" / "README.md").read_text()


def test_what_an_encoder_was_pretrained_on_is_read_off_the_index_of_a_pack(packed, tmp_path):
    (tmp_path / "config.yaml").write_text(json.dumps({"data": {"root": str(packed), "manifest": None}}))
    found = training_set(tmp_path)
    assert len(found.manifest) == int((Manifest.read(packed / "index.parquet").column("split") == "train").sum())
