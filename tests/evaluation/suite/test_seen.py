"""Planted copies of pretraining images in a test split: exact ones, changed ones, and why nothing can be said."""

import json
import shutil

import fsspec
import numpy as np
import pytest
import yaml
from PIL import Image

from commands import command
from cxrbase.cli import main
from cxrbase.data import audit_pixels
from cxrbase.data.audit_images import open_set
from cxrbase.data.datamodule import CXRDataModule
from cxrbase.data.decode import decode, to_uint8
from cxrbase.data.images import default_cache
from cxrbase.data.manifest import Manifest
from cxrbase.data.phantom import make_phantom
from cxrbase.data.selection import Selection
from cxrbase.evaluation.suite.seen import seen_before, seen_by, seen_warnings, training_set, training_sets


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom") / "images"
    make_phantom(root, patients=24, image_size=160, seed=7, workers=1)
    return root


def run_folder(path, **data):
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return path


def planted(phantom, tmp_path):
    """Test images: two exact copies of training images, two changed ones, and those of the test split."""
    table = Manifest.read(phantom / "manifest.parquet")
    train, test = (table.select(split).paths for split in ("train", "test"))
    folder = tmp_path / "test"
    folder.mkdir()
    names = []
    for number, path in enumerate(train[:4]):
        names.append(f"copy{number}{path.suffix if number < 2 else '.jpg'}")
        if number < 2:
            shutil.copy(path, folder / names[-1])
            continue
        pixels = to_uint8(decode(path))
        high, wide = pixels.shape
        cut = pixels[high // 40 : -(high // 40), wide // 40 : -(wide // 40)]
        Image.fromarray(np.uint8(255 * (cut / 255.0) ** 0.8)).save(folder / names[-1], quality=80)
    for number, path in enumerate(test):
        names.append(f"new{number}{path.suffix}")
        shutil.copy(path, folder / names[-1])
    return Manifest.from_columns({"path": names, "split": ["test"] * len(names)}, root=folder)


def test_a_manifest_of_a_run_is_found_from_where_the_run_was_started(phantom, tmp_path, monkeypatch):
    shutil.copy(phantom / "manifest.parquet", tmp_path / "mine.parquet")
    run = run_folder(tmp_path / "run", root=str(phantom), manifest="mine.parquet", pretrain_on=["train"])
    monkeypatch.chdir(tmp_path)
    train = Manifest.read(phantom / "manifest.parquet").select("train")
    assert training_set(run).manifest.paths == train.paths


@pytest.mark.parametrize("near", [True, False])
def test_planted_copies_are_found_and_nothing_else(phantom, tmp_path, near):
    run = run_folder(tmp_path / "run", root=str(phantom), manifest=None, pretrain_on=["train"])
    test = planted(phantom, tmp_path)
    seen = seen_before([training_set(run)], test, cache=tmp_path / "out" / "prints.parquet", near=near, threads=1)
    assert np.flatnonzero(seen.exact).tolist() == [0, 1]
    # How many changed copies are found is measured on real images, by benchmarks/audit.py; here, that no other one is.
    marked = set(np.flatnonzero(seen.near).tolist())
    assert marked <= {2, 3}
    assert bool(marked) == near
    assert seen.training_images == len(Manifest.read(phantom / "manifest.parquet").select("train"))
    assert (seen.note == "") == near
    assert seen.to_dict()["exact"] == 2


def test_an_encoder_that_was_pretrained_on_the_test_split_has_seen_all_of_it(phantom, tmp_path):
    run = run_folder(tmp_path / "run", root=str(phantom), pretrain_on=["train", "val", "test"])
    test = Manifest.read(phantom / "manifest.parquet").select("test")
    seen = seen_before([training_set(run / "encoder.safetensors")], test, cache=tmp_path / "p.parquet", threads=1)
    assert seen.exact.all()
    assert not seen.near.any()


def test_an_encoder_before_its_first_step_has_seen_nothing(phantom, tmp_path):
    (tmp_path / "encoder.safetensors").touch()
    card = {"timm_name": "vit", "timm_args": {}, "image_size": 32, "mean": 0.5, "std": 0.25}
    test = Manifest.read(phantom / "manifest.parquet").select("test")
    for objective, known in (("untrained", 0), ("mae", None)):
        (tmp_path / "encoder.json").write_text(json.dumps(card | {"objective": objective}))
        seen = seen_by(str(tmp_path), test, look="exact", cache=tmp_path / "p.parquet")
        assert seen.training_images == known
        off = seen_by(str(tmp_path), test, look="off", cache=tmp_path / "p.parquet")
        assert ("was not looked at (seen=off)" in " ".join(seen_warnings(off))) == (known is None)
        assert bool(seen_warnings(seen)) == (known is None)


def started_from(path, place, **data):
    run = run_folder(path, **data)
    settings = yaml.safe_load((run / "config.yaml").read_text()) | {"model": {"init_from": str(place)}}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    return run


def test_images_of_the_runs_that_an_encoder_started_from_were_seen_too(phantom, tmp_path):
    table = Manifest.read(phantom / "manifest.parquet")
    first = run_folder(tmp_path / "first", root=str(phantom), pretrain_on=["test"])
    second = started_from(tmp_path / "second", first / "encoder.safetensors", root=str(phantom), pretrain_on=["val"])
    third = started_from(tmp_path / "third", f"timm:vit={second}", root=str(phantom), pretrain_on=["train", "val"])
    seen = seen_by(str(third), table.select("test"), look="exact", cache=tmp_path / "p.parquet")
    assert seen.exact.all()
    assert seen.training_images == len(table)  # those of two runs are counted once
    assert seen_warnings(seen) == [f"the encoder was pretrained on {len(seen.exact)} of the test images"]


def test_what_an_encoder_of_unknown_images_started_is_not_called_unseen(phantom, tmp_path):
    test = Manifest.read(phantom / "manifest.parquet").select("test")
    weights = tmp_path / "medical_mae.pth"
    for splits, said in ((["train"], "has seen test images"), (["test"], "has seen more of the test images")):
        run = started_from(tmp_path / splits[0], weights, root=str(phantom), pretrain_on=splits)
        seen = seen_by(str(run), test, look="exact", cache=tmp_path / "p.parquet")
        assert seen.to_dict()["exact"] == (len(test) if splits == ["test"] else 0)
        why = f"it started from {weights}, whose images are not known"
        assert why in seen.to_dict()["note"]
        assert said in seen_warnings(seen)[0]
        assert why in seen_warnings(seen)[0]


def test_a_run_that_started_from_random_weights_or_from_itself_has_its_own_images(phantom, tmp_path):
    for name in ("timm:vit_tiny_patch16_224", str(tmp_path / "self")):
        run = started_from(tmp_path / name.rpartition("/")[2], name, root=str(phantom), pretrain_on=["train"])
        (own,), unknown = training_sets(run)
        assert len(own.manifest) == len(Manifest.read(phantom / "manifest.parquet").select("train"))
        assert unknown == ""


def test_a_run_says_what_it_started_from(fit, image_folder, tmp_path):
    fit("mae", "--trainer.max_steps=1")
    later = tmp_path / "later"
    words = ["--trainer.max_steps=1", f"--model.init_from={fit.run_dir}", f"--data.root={phantom_of(tmp_path)}"]
    assert main(command("mae", *words, root=image_folder, run_dir=later)) == 0
    (own, earlier), unknown = training_sets(later / "encoder.safetensors")
    assert (own.manifest.root, earlier.manifest.root) == (tmp_path / "phantom", image_folder)
    assert unknown == ""


def phantom_of(folder):
    make_phantom(folder / "phantom", patients=24, image_size=32, seed=7, workers=1)
    return folder / "phantom"


def test_a_folder_without_splits_is_dealt_as_the_data_module_deals_it(phantom, tmp_path):
    run = run_folder(tmp_path / "run", root=str(phantom / "images"))
    found = training_set(run)
    want = Manifest.from_folder(phantom / "images").with_splits().select("train")
    assert found.manifest.column("path").tolist() == want.column("path").tolist()


def test_images_that_pretraining_left_out_were_not_seen(phantom, packed, tmp_path):
    table = Manifest.read(phantom / "manifest.parquet")
    test = table.select("test")
    names = test.column("path")
    gone = tmp_path / "exclude.csv"
    gone.write_text("path\n" + "".join(f"{name}\n" for name in names[:3]))
    exclude = {"exclude": [str(gone)], "sources": None, "weights": {"phantom": 2.0}}
    run = run_folder(tmp_path / "run", root=str(phantom), pretrain_on=["train", "val", "test"], select=exclude)
    seen = seen_by(str(run), test, look="exact", cache=tmp_path / "p.parquet")
    assert np.flatnonzero(~seen.exact).tolist() == [0, 1, 2]
    assert seen.training_images == len(table) - 3
    frontal = run_folder(tmp_path / "pa", root=str(phantom), pretrain_on=["test"], select={"view_positions": ["PA"]})
    seen = seen_by(str(frontal), test, look="exact", cache=tmp_path / "p.parquet")
    assert seen.exact.tolist() == (test.column("view_position") == "PA").tolist()
    of_pack = training_set(run_folder(tmp_path / "of_pack", root=str(packed), pretrain_on=["test"], select=exclude))
    assert len(of_pack.manifest) == len(test) - 3


def test_without_its_exclusion_list_it_is_not_known_what_a_run_has_seen(phantom, tmp_path):
    select = {"exclude": [str(tmp_path / "gone.csv")]}
    run = run_folder(tmp_path / "run", root=str(phantom), pretrain_on=["test"], select=select)
    test = Manifest.read(phantom / "manifest.parquet").select("test")
    seen = seen_by(str(run), test, look="exact", cache=tmp_path / "p.parquet")
    assert seen.training_images is None
    (said,) = seen_warnings(seen)
    assert "cannot be told any more: no exclusion list" in said


def test_the_images_of_a_run_are_those_that_its_data_module_draws(phantom, packed, tmp_path):
    gone = tmp_path / "exclude.csv"
    names = Manifest.read(phantom / "manifest.parquet").column("path")[:9]
    gone.write_text("source,path\n" + "".join(f"phantom,{name}\n" for name in names))
    for root in (phantom, packed):
        data = CXRDataModule(str(root), image_size=32, batch_size=4, select=Selection(exclude=[str(gone)]))
        data.prepare_data()
        data.setup("fit")
        drawn = data.manifest.column("path")[data.train_dataloader().sampler.source.rows]
        run = run_folder(tmp_path / root.name, root=str(root), select={"exclude": [str(gone)]})
        assert sorted(training_set(run).manifest.column("path")) == sorted(drawn)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "no config.yaml"),
        ("data: [", "does not say"),
        ("data: {}", "does not say"),
        ("data: {root: /nowhere/at/all, select: {colour: red}}", "does not say"),
        ("data: {root: /nowhere/at/all}", "are not there"),
    ],
)
def test_without_the_pretraining_images_it_is_not_known(phantom, tmp_path, config, said):
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
    why = training_set(tmp_path)
    assert said in why
    seen = seen_by(str(tmp_path), open_set(phantom).manifest, look="near", cache=tmp_path / "p.parquet")
    assert seen.to_dict() == {"exact": None, "near": None, "training_images": None, "note": why, "left_out": 0}
    assert seen_warnings(seen) == [f"it is not known whether the encoder has seen test images: {why}"]


@pytest.fixture(scope="module")
def packed(phantom, tmp_path_factory):
    """The phantom as it is packed for pretraining: smaller and compressed."""
    out = tmp_path_factory.mktemp("packed") / "pack"
    words = ["pack", "--source", "phantom=csv-manifest", "--root", str(phantom), "--out", str(out), "--size", "128"]
    assert main([*words, "--jobs", "1"]) == 0
    return out


@pytest.mark.parametrize("remote", [False, True])
def test_originals_are_found_among_packed_images(phantom, packed, tmp_path, monkeypatch, remote):
    monkeypatch.setenv("HOME", str(tmp_path))
    root = str(packed)
    if remote:
        root = f"memory://{tmp_path.name}/pack"
        fsspec.filesystem("memory").put(str(packed), root, recursive=True)
    run = run_folder(tmp_path / "run", root=root, pretrain_on=["train", "val"])
    table = Manifest.read(phantom / "manifest.parquet").table
    rows = [row for row, split in enumerate(table["split"].to_pylist()) if split != "val"]
    test = Manifest(table.take(rows), phantom)
    seen = seen_before([training_set(run)], test, cache=tmp_path / "prints.parquet", threads=1)
    assert not seen.exact.any()  # packed images have fewer pixels
    of_train = test.column("split") == "train"
    assert seen.near[of_train].mean() > 0.9
    assert not seen.near[~of_train].any()


def test_packed_test_images_are_compared_too(phantom, packed, tmp_path):
    run = run_folder(tmp_path / "run", root=str(phantom), pretrain_on=["train", "val", "test"])
    index = open_set(packed)
    test = Manifest(index.manifest.table.take(np.flatnonzero(index.splits == "test")), packed)
    seen = seen_before([training_set(run)], test, cache=tmp_path / "prints.parquet", threads=1, packed=str(packed))
    assert seen.near.mean() > 0.9


def test_an_index_without_splits_is_dealt_as_the_data_module_deals_it(image_folder, tmp_path):
    out = tmp_path / "pack"
    words = ["pack", "--source", "mine=folder", "--root", str(image_folder), "--out", str(out), "--size", "32"]
    assert main([*words, "--jobs", "1"]) == 0
    data = CXRDataModule(str(out), image_size=32, batch_size=4)
    data.prepare_data()
    data.setup("fit")
    drawn = data.manifest.column("path")[data.train_dataloader().sampler.source.rows]
    found = training_set(run_folder(tmp_path / "run", root=str(out)))
    assert sorted(found.manifest.column("path")) == sorted(drawn)


def test_the_shards_of_a_run_stay_where_they_are_and_a_pack_too_large_for_the_cache_is_not_fetched(
    phantom, packed, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("HOME", str(tmp_path))
    url = f"memory://{tmp_path.name}/pack"
    fsspec.filesystem("memory").put(str(packed), url, recursive=True)
    run = run_folder(tmp_path / "run", root=url, pretrain_on=["train"])
    test = Manifest.read(phantom / "manifest.parquet").select("train")
    of_run = default_cache(url)
    for limit, found in ((8_000_000_000, True), (1, False)):
        monkeypatch.setattr(audit_pixels, "_CACHE", limit)
        seen = seen_before([training_set(run)], test, cache=tmp_path / f"{limit}.parquet", threads=1)
        assert seen.near.any() == found
        assert not list(of_run.rglob("*.tar"))
    assert "copy it to a local disk" in caplog.text
