"""Features are those of the encoder, computed once, and told apart by encoder and by data."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import cxrbase
from cxrbase.backbones import create_backbone
from cxrbase.data.canvas import CanvasStore
from cxrbase.data.datamodule import CXRDataModule
from cxrbase.data.manifest import Manifest
from cxrbase.data.phantom import make_phantom
from cxrbase.evaluation.features import extract_features
from cxrbase.evaluation.suite import feature_store
from cxrbase.evaluation.suite.feature_store import FeatureStore, data_hash, encoder_hash

CARD = {"timm_name": "vit_tiny_patch16_224", "image_size": 32, "mean": 0.5, "std": 0.25}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom") / "images"
    make_phantom(root, patients=12, image_size=48, seed=3, workers=1)
    return root


def encoder(seed=0):
    torch.manual_seed(seed)
    shape = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    return create_backbone("vit_tiny_patch16_224", image_size=32, options=shape).eval()


def store(phantom, folder, network=None, **card):
    manifest = Manifest.read(phantom / "manifest.parquet")
    images = CanvasStore.open(manifest, size=64, cache_dir=folder / "canvas")
    return FeatureStore(network or encoder(), CARD | card, manifest=manifest, images=images, folder=folder / "f")


def test_features_are_those_that_the_data_module_would_give(phantom, tmp_path):
    data = CXRDataModule(str(phantom), image_size=32, mean=0.5, std=0.25, cache_dir=str(tmp_path / "c"))
    data.prepare_data()
    data.setup("fit")
    rows = np.array([5, 0, 3])
    want = extract_features(encoder(), data.centre.batches(rows, device=torch.device("cpu")), device="cpu")
    np.testing.assert_allclose(store(phantom, tmp_path).features(rows, name="x"), want, atol=1e-6)


def test_what_is_there_is_not_computed_again_and_what_is_missing_is(phantom, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_store, "CHUNK", 4)
    rows = np.arange(10)
    first = store(phantom, tmp_path).features(rows, name="x")
    kept = sorted((tmp_path / "f").rglob("*.npy"))
    assert len(kept) == 3
    kept[0].unlink()
    computed = []
    real = feature_store.extract_features

    def counted(*arguments, **options):
        computed.append(len(found := real(*arguments, **options)))
        return found

    monkeypatch.setattr(feature_store, "extract_features", counted)
    np.testing.assert_array_equal(store(phantom, tmp_path).features(rows, name="x"), first)
    assert len(computed) == 1


def test_what_a_killed_process_left_half_written_is_cleared_away(phantom, tmp_path):
    rows = np.arange(10)
    first = store(phantom, tmp_path).features(rows, name="x")
    (kept,) = (tmp_path / "f").rglob("*.npy")
    torn = kept.with_name(f".{kept.name}.1.part")
    torn.write_bytes(kept.read_bytes()[:100])
    kept.unlink()
    np.testing.assert_array_equal(store(phantom, tmp_path).features(rows, name="x"), first)
    assert kept.is_file()
    assert not torn.exists()


@pytest.mark.parametrize("theirs", [True, False])
def test_features_that_are_cleared_away_while_written_must_be_there_from_another_process(
    phantom, tmp_path, monkeypatch, theirs
):
    real = np.save

    def overtaken(file, found):
        """What another process does between the end of writing and the rename."""
        real(file, found)
        file.flush()
        part = Path(file.name)
        if theirs:
            part.with_name(part.name.split(".npy")[0][1:] + ".npy").write_bytes(part.read_bytes())
        part.unlink()

    ours, rows = store(phantom, tmp_path), np.arange(10)
    monkeypatch.setattr(np, "save", overtaken)
    if theirs:
        assert ours.features(rows, name="x").shape == (10, 32)
        assert np.load(next((tmp_path / "f").rglob("*.npy"))).shape == (10, 32)
    else:
        with pytest.raises(FileNotFoundError):
            ours.features(rows, name="x")


def test_other_weights_other_input_and_other_files_are_other_features(phantom, tmp_path):
    one = encoder_hash(encoder(), CARD)
    assert one == encoder_hash(encoder(), dict(reversed(CARD.items())))
    assert one != encoder_hash(encoder(1), CARD)
    assert one != encoder_hash(encoder(), CARD | {"mean": 0.4})
    manifest = Manifest.read(phantom / "manifest.parquet")
    images = CanvasStore.open(manifest, size=64, cache_dir=tmp_path / "canvas")
    before = data_hash(manifest, images)
    manifest.paths[0].touch()
    assert data_hash(manifest, images) != before


def test_an_encoder_of_oblong_images_gives_features_of_oblong_views(phantom, tmp_path):
    shape = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    torch.manual_seed(0)
    network = create_backbone("vit_tiny_patch16_224", image_size=[32, 48], options=shape).eval()
    data = CXRDataModule(str(phantom), image_size=[32, 48], canvas_size=64, mean=0.5, std=0.25,
                         cache_dir=str(tmp_path / "c"))  # fmt: skip
    data.prepare_data()
    data.setup("fit")
    rows = np.array([5, 0, 3])
    want = extract_features(network, data.centre.batches(rows, device=torch.device("cpu")), device="cpu")
    found = store(phantom, tmp_path, network, image_size=[32, 48]).features(rows, name="x")
    np.testing.assert_allclose(found, want, atol=1e-6)


def test_features_of_other_code_are_computed_again_and_those_of_the_same_are_not(phantom, tmp_path, monkeypatch):
    copied = tmp_path / "cxrbase"
    shutil.copytree(Path(cxrbase.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cxrbase, "__file__", str(copied / "__init__.py"))
    first = store(phantom, tmp_path).folder
    (copied / "release" / "card.py").write_text("# other\n")
    assert store(phantom, tmp_path).folder == first
    (copied / "weights_fit.py").write_text("# other\n")
    assert store(phantom, tmp_path).folder != first
