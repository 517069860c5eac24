"""The data module on a bare folder, on the embedded data set and on real radiographs."""

import csv
import json
import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cxrbase.data.datamodule import CXRDataModule, Phantom
from cxrbase.data.decode import decode
from cxrbase.data.manifest import Target
from cxrbase.data.reading import Reading
from cxrbase.errors import ConfigError, ManifestError
from cxrbase.views import RandomViews
from packs import make_pack

CPU = torch.device("cpu")


def ready(root, tmp_path, **options):
    data = CXRDataModule(
        str(root), **{"image_size": 32, "batch_size": 4, "cache_dir": str(tmp_path / "cache"), **options}
    )
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def phantom_root(tmp_path_factory):
    return tmp_path_factory.mktemp("phantom")


TINY = Phantom(patients=20, image_size=32)


def test_a_bare_folder_is_split_and_streamed(image_folder, tmp_path):
    data = ready(image_folder, tmp_path, views=RandomViews(num_global=2, num_local=3))
    rows = [data._split_rows[split] for split in ("train", "val", "test")]
    assert sorted(np.concatenate(rows)) == list(range(40))
    loader = data.train_dataloader()
    seen = []
    for batch in loader:
        views = data.on_after_batch_transfer(batch, 0)
        assert [view.shape for view in views.global_] == [(4, 1, 32, 32)] * 2
        assert [view.shape for view in views.local] == [(4, 1, 14, 14)] * 3
        seen += batch[2].tolist()
    assert set(seen) <= set(rows[0].tolist())
    assert len(seen) == len(set(seen)) == len(rows[0]) // 4 * 4
    assert data.classes == ()
    assert len(data.labelled_rows("test")) == 0


@pytest.mark.parametrize("named", [False, True])
def test_how_missing_splits_are_assigned_is_said_once(image_folder, tmp_path, caplog, named):
    caplog.set_level(logging.INFO, "cxrbase")
    rows = [f"{path.name},{f'p{n % 20}' if named else ''}" for n, path in enumerate(sorted(image_folder.glob("*.png")))]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,patient_id", *rows]))
    ready(image_folder, tmp_path, manifest=str(tmp_path / "manifest.csv"))
    (said,) = [record.message for record in caplog.records if "no official" in record.message]
    lack, what = ("", "patients") if named else (" and no patient_id", "images")
    told = f"15 % of the {what} are assigned to val and 15 % to test"
    assert said == f"the images: no official val and test{lack}, so {told}, seed 0"


def test_every_epoch_draws_other_views_and_the_same_epoch_the_same(image_folder, tmp_path):
    data = ready(image_folder, tmp_path)
    loader = data.train_dataloader()
    made = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        images = {int(i): (image, size) for batch in loader for image, size, i in zip(*batch, strict=True)}
        row = sorted(images)[0] if not made else row  # noqa: F821
        batch = images[row][0][None], images[row][1][None], torch.tensor([row])
        made.append(data.on_after_batch_transfer(batch, 0).global_[0])
    torch.testing.assert_close(made[0], made[2], rtol=0, atol=0)
    assert (made[0] - made[1]).abs().max() > 0.01


def test_the_evaluation_view_is_the_normalised_centre_in_order(image_folder, tmp_path):
    data = ready(image_folder, tmp_path, image_size=40, canvas_size=48, mean=0.4, std=0.2)
    rows = np.array([11, 0, 2])  # of even width, so that the central square falls on whole pixels
    views = torch.cat(list(data.centre.batches(rows, device=CPU, batch_size=2)))
    assert views.shape == (3, 1, 40, 40)
    for view, row in zip(views, rows, strict=True):
        image = decode(data.manifest.paths[row])
        edge = (48 - image.shape[1]) // 2
        # The images are not larger than the canvas, so only the resize to 40 lies between.
        expected = (
            np.asarray(
                Image.fromarray(image[edge : edge + image.shape[1]]).resize((40, 40), Image.Resampling.BILINEAR), float
            )
            / 255
        )
        assert np.abs(data.to_grey(view) - expected).mean() < 0.01
        assert float(view.mean()) == pytest.approx((expected.mean() - 0.4) / 0.2, abs=0.05)


def test_the_phantom_is_made_on_first_use_and_test_patients_are_never_trained_on(phantom_root, tmp_path):
    data = ready(phantom_root, tmp_path, phantom=TINY, pretrain_on=("train", "val"))
    assert len(set(data.manifest.patients())) == 20
    drawn = {row for batch in data.train_dataloader() for row in batch[2].tolist()}
    splits = data.manifest.column("split")
    assert {splits[row] for row in drawn} == {"train", "val"}
    test = data.labelled_rows("test")
    assert not set(data.patients(test)) & {data.manifest.patients()[row] for row in drawn}
    assert len(data.classes) == 8
    np.testing.assert_array_equal(data.labels(test), data.manifest.label_matrix()[test])


def test_scored_labels_are_chosen_in_order_and_unknown_ones_refused(phantom_root, tmp_path):
    data = ready(phantom_root, tmp_path, phantom=TINY, score_on=["nodule", "effusion"])
    assert data.classes == ("nodule", "effusion")
    rows = data.labelled_rows("train")
    for column, name in enumerate(data.classes):
        np.testing.assert_array_equal(data.labels(rows)[:, column], data.manifest.column(f"label_{name}")[rows])
    with pytest.raises(ConfigError, match="names fracture; the manifest has pneumonia, covid19"):
        ready(phantom_root, tmp_path, phantom=TINY, score_on=["fracture", "nodule"])


def test_crops_on_the_cpu_reach_the_views_at_their_size(image_folder, tmp_path):
    views = RandomViews(crop_on="cpu", flip=0.0, global_scale=(0.2, 0.5))
    data = ready(image_folder, tmp_path, views=views, canvas_size=48, num_workers=1)
    batch = next(iter(data.train_dataloader()))
    assert batch[0].shape == (4, 1, 32, 32)
    view = data.on_after_batch_transfer(batch, 0).global_[0]
    torch.testing.assert_close(view, (batch[0] / 255 - data.mean) / data.std, atol=1e-4, rtol=0)


def test_the_stream_goes_on_from_the_state_of_another_module(image_folder, tmp_path):
    first, second = ready(image_folder, tmp_path), ready(image_folder, tmp_path)
    assert first.state_dict() == {}
    whole = [batch[2].tolist() for batch in first.train_dataloader()]
    stream = iter(first.train_dataloader())
    for _ in range(2):
        next(stream)
    second.load_state_dict(first.state_dict())
    assert [batch[2].tolist() for batch in second.train_dataloader()] == whole[2:]


@pytest.fixture
def forty(tmp_path):
    """A folder of forty images, of which number 7 is out of reach, and the bytes of that one."""
    folder = tmp_path / "forty"
    folder.mkdir()
    for number in range(40):
        Image.fromarray(np.full((32, 32), 6 * number, np.uint8)).save(folder / f"{number:02}.png")
    content = (folder / "07.png").read_bytes()
    (folder / "07.png").unlink()
    (folder / "07.png").symlink_to("/nowhere/07.png")
    return folder, content


def drawn(data):
    return [row for batch in data.train_dataloader() for row in batch[2].tolist()]


EVERYTHING = {"pretrain_on": ("train", "val", "test"), "max_bad": 0.1}


@pytest.mark.parametrize("limit_gb", [8.0, 1e-9])
@pytest.mark.parametrize("made_before", [False, True])
def test_a_run_goes_on_with_the_images_it_was_started_with(forty, tmp_path, limit_gb, made_before):
    folder, content = forty
    options = {**EVERYTHING, "cache_gb": limit_gb}
    data = ready(folder, tmp_path, **options)
    whole = drawn(data)
    assert 7 not in whole
    stream = iter(data.train_dataloader())
    for _ in range(3):
        next(stream)
    # Through JSON, as numbers of numpy are not for checkpoints.
    state = json.loads(json.dumps(data.state_dict()))
    (folder / "07.png").unlink()
    (folder / "07.png").write_bytes(content)
    (folder / f"{whole[20]:02}.png").write_bytes(b"broken")
    resumed = ready(folder, tmp_path, **options)
    if made_before:
        # Where weights are spread over devices, the loader is asked for before the state is restored.
        loader = resumed.train_dataloader()
        resumed.load_state_dict(state)
        after = [row for batch in loader for row in batch[2].tolist()]
    else:
        resumed.load_state_dict(state)
        after = drawn(resumed)
    assert after[:8] + after[9:] == whole[12:20] + whole[21:]
    assert after[8] not in (7, whole[20])
    assert resumed.quarantine.state() == {"rows": [whole[20]], "reasons": [3]}
    assert resumed.state_dict()["unread"] == [7]


def test_an_image_that_is_out_of_reach_when_a_run_goes_on_is_read_when_it_is_back(forty, tmp_path):
    folder, content = forty
    (folder / "07.png").unlink()
    (folder / "07.png").write_bytes(content)
    data = ready(folder, tmp_path, **EVERYTHING)
    whole = drawn(data)
    state = data.state_dict()
    away = folder / "11.png"
    kept = away.read_bytes()
    away.unlink()
    away.symlink_to("/nowhere/11.png")
    for back in (False, True):
        if back:
            away.unlink()
            away.write_bytes(kept)
        resumed = ready(folder, tmp_path, **EVERYTHING)
        resumed.load_state_dict({**state, "stream": {**state["stream"], "images": 0, "batches": 0}})
        assert (drawn(resumed) == whole) == back
        assert resumed.quarantine.rows.tolist() == ([] if back else [11])
        state = resumed.state_dict()


def test_a_run_does_not_go_on_with_other_images(forty, tmp_path):
    folder, _ = forty
    data = ready(folder, tmp_path, **EVERYTHING)
    data.train_dataloader()
    state = data.state_dict()
    (folder / "39.png").rename(folder / "40.png")
    other = ready(folder, tmp_path, **EVERYTHING)
    other.load_state_dict(state)
    with pytest.raises(ConfigError, match="training images are not those of the checkpoint"):
        other.train_dataloader()


def test_missing_folders_manifests_and_images_are_named(image_folder, tmp_path):
    with pytest.raises(ManifestError, match=r"no folder .*nowhere: give the folder .*--data\.root"):
        ready(tmp_path / "nowhere", tmp_path)
    with pytest.raises(ManifestError, match="no manifest"):
        ready(image_folder, tmp_path, manifest=str(tmp_path / "absent.csv"))
    (tmp_path / "m.csv").write_text("path\n00.png\n99.png\n")
    with pytest.raises(ManifestError, match=r"1 of 2 images are not in .*99\.png"):
        ready(image_folder, tmp_path, manifest=str(tmp_path / "m.csv"))
    with pytest.raises(ConfigError, match=r"lower data\.batch_size"):
        ready(image_folder, tmp_path, batch_size=64).train_dataloader()


@pytest.mark.parametrize("option", ["manifest", "targets"])
def test_what_is_for_folders_is_refused_with_a_pack(tmp_path, option):
    root = make_pack(tmp_path / "pack", source=["made"] * 8)
    given = {"manifest": "other.csv", "targets": {"x": Target("label", ["1"], ["0"])}}[option]
    with pytest.raises(ConfigError, match=rf"data\.{option}.* is for "):
        ready(root, tmp_path, **{option: given})


@pytest.mark.parametrize(("option", "other"), [("window", "percentile"), ("crop_borders", False)])
def test_another_reading_than_that_of_packed_images_is_refused(tmp_path, option, other):
    reading = {"window": "dicom", "crop_borders": True}
    root = make_pack(tmp_path / "pack", source=["made"] * 8)
    table = pq.read_table(root / "index.parquet")
    old = json.loads(table.schema.metadata[b"cxrbase"])
    pq.write_table(table.replace_schema_metadata({"cxrbase": json.dumps(old | reading)}), root / "index.parquet")
    for asked in ({}, reading):
        assert ready(root, tmp_path, **asked).store.reading == Reading("dicom", True)
    said = rf"data\.{option}={str(other).lower()}, and the images were packed with {option}="
    with pytest.raises(ConfigError, match=said):
        ready(root, tmp_path, **reading | {option: other})


@pytest.mark.parametrize(("option", "value"), [("batch_size", 0), ("num_workers", -1)])
def test_impossible_numbers_are_refused(tmp_path, option, value):
    with pytest.raises(ValueError, match=f"{option} must be at least"):
        CXRDataModule(str(tmp_path), **{option: value})


def test_real_radiographs_have_both_labels_of_a_target_in_every_split(cxr_root, tmp_path):
    with (cxr_root / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    groups = {}
    for row in rows:
        groups.setdefault((row["source"], row["split"], row["label"]), []).append(row)
    chosen = [row for group in groups.values() for row in group[:3]]
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(chosen)
    target = Target("label", ["Pneumonia"], ["Normal"], where={"source": "nih"})
    data = ready(cxr_root, tmp_path, manifest=str(tmp_path / "manifest.csv"), targets={"pneumonia": target})
    assert data.classes == ("pneumonia",)
    assert len(data.store.rows) == len(chosen)
    for split in ("train", "val", "test"):
        labelled = data.labelled_rows(split)
        expected = [row for row in chosen if row["source"] == "nih" and row["split"] == split]
        assert [chosen[row]["original_name"] for row in labelled] == [row["original_name"] for row in expected]
        truth = [float(row["label"] == "Pneumonia") for row in expected]
        assert set(truth) == {0.0, 1.0}
        assert data.labels(labelled)[:, 0].tolist() == truth
    views = data.random_views(data.centre.canvases(data.labelled_rows("train")), device=CPU)
    assert torch.isfinite(views.global_[0]).all()
    assert 0.3 < float(views.global_[0].std()) < 1.5


def test_decode_options_reach_the_images_and_the_record(image_folder, tmp_path):
    data = ready(image_folder, tmp_path, window="dicom", crop_borders=True)
    assert data.store.reading == Reading("dicom", True)
    assert "VOI LUT" in data.intensity
    assert "black borders cut off" in data.intensity
