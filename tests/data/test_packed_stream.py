"""The data module on packed images: what is drawn, by whom it is decoded, and how it goes on after a stop."""

import csv
import json
import multiprocessing

import lightning as L
import numpy as np
import pytest
import torch

from cxrbase.data.datamodule import CXRDataModule
from cxrbase.data.order import REPEAT, Order, Part
from cxrbase.data.selection import Selection
from cxrbase.data.shard_index import ShardIndex
from cxrbase.data.stream import StreamSampler
from cxrbase.errors import ConfigError, CorruptError, ManifestError
from cxrbase.views import RandomViews
from packs import make_pack, picture

SOURCES = ["nih"] * 40 + ["brax"] * 24
SPLITS = ["train"] * 36 + ["val"] * 2 + ["test"] * 2 + ["train"] * 20 + ["val"] * 2 + ["test"] * 2


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return make_pack(
        tmp_path_factory.mktemp("pack"),
        source=list(SOURCES),
        patient_id=[f"p{row // 4} {split}" for row, split in enumerate(SPLITS)],
        view_position=["PA", "AP", "PA", "LATERAL"] * 16,
        split=list(SPLITS),
        label_effusion=[row % 2 for row in range(64)],
    )


def ready(root, **options):
    data = CXRDataModule(str(root), **{"image_size": 32, "batch_size": 8, **options})
    data.prepare_data()
    data.setup("fit")
    return data


def rows_of(loader):
    return [row for batch in loader for row in batch[2].tolist()]


def test_packed_images_stream_with_labels_and_evaluation_views(pack):
    data = ready(pack)
    assert data.intensity == "bone bright, as packed"
    assert data.classes == ("effusion",)
    rows = rows_of(data.train_dataloader())
    assert len(rows) == len(set(rows)) == 56
    assert set(data.manifest.splits()[rows]) == {"train"}
    test = data.labelled_rows("test")
    paths = data.manifest.column("path")
    assert sorted(paths[test]) == [f"nih/{row}.png" if row < 40 else f"brax/{row}.png" for row in (62, 63, 38, 39)]
    assert data.labels(test)[:, 0].tolist() == [int(path.split("/")[1][:-4]) % 2 for path in paths[test]]
    images = next(iter(data.centre.batches(test, device=torch.device("cpu"))))
    assert images.shape == (4, 1, 32, 32)
    for batch in data.train_dataloader():
        for image, (height, width), row in zip(*batch, strict=True):
            number = int(paths[row].split("/")[1][:-4])
            np.testing.assert_array_equal(image[0, :height, :width], picture(number))
        views = data.on_after_batch_transfer(batch, 0)
        assert views.global_[0].shape == (8, 1, 32, 32)


@pytest.mark.parametrize("crop_on", ["device", "cpu"])
def test_threads_and_processes_hand_out_the_same_batches(pack, crop_on):
    views = RandomViews(crop_on=crop_on)
    ways = [{}, {"decode_threads": 3}, {"num_workers": 2}]
    batches = [list(ready(pack, views=views, drop_last=False, **way).train_dataloader()) for way in ways]
    for other in batches[1:]:
        assert len(other) == 7
        for mine, theirs in zip(batches[0], other, strict=True):
            for a, b in zip(mine, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0)
    with pytest.raises(ConfigError, match="exclude each other"):
        ready(pack, decode_threads=1, num_workers=1)


def test_sources_views_and_exclusion_lists_narrow_pretraining_only(pack, tmp_path):
    with (tmp_path / "exclude.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("source", "path", "reason"), ("nih", "0.png", "exact copy"), ("", "nih/2.png", "near copy")])
    select = Selection(sources=["nih"], view_positions=["pa"], exclude=[str(tmp_path / "exclude.csv")])
    data = ready(pack, select=select, batch_size=4, drop_last=False)
    paths = data.manifest.column("path")[rows_of(data.train_dataloader())]
    names = sorted(int(path.split("/")[1][:-4]) for path in paths)
    assert names == [row for row in range(0, 36, 2) if row not in (0, 2)]
    assert len(data.labelled_rows("test")) == 4
    for wrong, words in [
        (Selection(sources=["padchest"]), "sources has padchest, which no image has; there are brax, nih"),
        (Selection(view_positions=["LL"]), "there are AP, LATERAL, PA"),
        (Selection(weights={"x": 1.0}), "weights has x"),
    ]:
        with pytest.raises(ConfigError, match=words):
            ready(pack, select=wrong).train_dataloader()
    few = Selection(sources=["brax"], view_positions=["LATERAL"], weights={"brax": 0.08})
    with pytest.raises(ConfigError, match=r"no image of brax: 0\.08 of its 5 images rounds to none; .* at least 0\.2"):
        ready(pack, select=few).train_dataloader()
    with pytest.raises(ManifestError, match="no exclusion list"):
        ready(pack, select=Selection(exclude=["nowhere.csv"])).train_dataloader()
    with pytest.raises(ValueError, match="weight of nih must be positive"):
        Selection(weights={"nih": 0.0})


def test_a_source_that_views_or_lists_leave_nothing_of_is_named(tmp_path, caplog):
    columns = {"source": ["nih"] * 8 + ["rsna"] * 8 + ["siim"] * 8, "view_position": ["PA"] * 8 + [""] * 8 + ["PA"] * 8}
    place = make_pack(tmp_path / "pack", **columns)
    (tmp_path / "list.csv").write_text("source,path\n" + "".join(f"siim,{row}.png\n" for row in range(16, 24)))
    caplog.set_level("WARNING", "cxrbase.data.selection")
    select = Selection(view_positions=["PA", "AP"], exclude=[str(tmp_path / "list.csv")])
    data = ready(place, select=select, pretrain_on=["train", "val", "test"], batch_size=4)
    rows = rows_of(data.train_dataloader())
    assert set(data.manifest.column("source")[rows]) == {"nih"}
    assert [record.getMessage() for record in caplog.records] == [
        "data.select.view_positions has AP, which no image has; there are PA",
        "no image of rsna is trained on: none of its 8 in the splits to train on has view_position PA or AP",
        "no image of siim is trained on: none of its 8 in the splits to train on is left by the exclusion lists",
    ]


def test_exclusion_lists_narrow_folders_too(image_folder, tmp_path):
    (tmp_path / "exclude.csv").write_text("source,path,reason\n,00.png,exact copy\nnih,01.png,near copy\n")
    select = Selection(exclude=[str(tmp_path / "exclude.csv")])
    words = {"pretrain_on": ("train", "val", "test"), "drop_last": False, "cache_dir": str(tmp_path / "cache")}
    data = ready(image_folder, select=select, **words)
    assert sorted(rows_of(data.train_dataloader())) == list(range(2, 40))


def test_weights_set_the_share_of_a_source_and_patients_keep_apart(pack):
    select = Selection(weights={"nih": 0.5, "BRAX": 2.0}, one_per_patient=True)
    data = ready(pack, select=select, batch_size=4, drop_last=False)
    loader = data.train_dataloader()
    patients = data.manifest.patients()
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        batches = [(batch[2] % REPEAT).tolist() for batch in loader]
        drawn = [row for batch in batches for row in batch]
        sources = data.manifest.column("source")[drawn]
        assert ((sources == "nih").sum(), (sources == "brax").sum()) == (18, 40)
        for batch in batches:
            assert len(set(patients[batch])) == len(batch)


def test_a_share_of_a_source_is_rounded_and_not_cut():
    assert [len(Part(np.arange(100), weight)) for weight in (0.29, 0.57, 0.994, 1.15)] == [29, 57, 99, 115]


def test_a_patient_of_two_sources_is_kept_apart_too(tmp_path):
    """As NIH's, whose images are in RSNA again: in one batch the loss would push a radiograph from its copy."""
    people = [f"nih:{row}" for row in range(20)]
    place = make_pack(tmp_path, source=["nih"] * 20 + ["rsna"] * 20, patient_id=people * 2)
    data = ready(place, select=Selection(one_per_patient=True), pretrain_on=["train"])
    loader, patients = data.train_dataloader(), data.manifest.column("patient_id")
    for epoch in range(5):
        loader.sampler.set_epoch(epoch)
        batches = np.reshape(list(loader.sampler), (-1, 8)) % REPEAT
        assert len(batches) > 2
        assert all(len(set(patients[batch])) == 8 for batch in batches)


@pytest.mark.parametrize("crop_on", ["device", "cpu"])
def test_an_image_that_is_drawn_twice_is_seen_in_two_ways(pack, crop_on):
    """Of what is drawn once, and of the first time, views are as without weights."""
    seen = {}
    for name, weights in (("once", {}), ("twice", {"brax": 2.0})):
        words = {"views": RandomViews(crop_on=crop_on), "select": Selection(weights=weights)}
        data = ready(pack, **words, batch_size=4, drop_last=False)
        for batch in data.train_dataloader():
            made = data.on_after_batch_transfer(batch, 0)
            for number, row in enumerate((batch[2] % REPEAT).tolist()):
                seen.setdefault((name, row), []).append((made.global_[0][number], int(made.keys[number])))
    for (_, row), found in seen.items():
        if len(found) == 1:
            continue
        (one, key), (two, other) = found
        assert not torch.equal(one, two)
        assert key != other
        ((alone, own),) = seen["once", row]
        assert own in (key, other)
        assert any(torch.equal(alone, image) for image in (one, two))
    assert {len(found) for found in seen.values()} == {1, 2}


@pytest.mark.parametrize("count", [8, 9, 15, 16, 17, 31])
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_have_equal_batches_that_part_the_epoch(count, world, drop_last):
    rows = np.arange(count)
    made = [StreamSampler(Order(rows, seed=0), batch_size=8 // world, rank=r, world_size=world, drop_last=drop_last)
            for r in range(world)]  # fmt: skip
    dealt = [list(sampler) for sampler in made]
    assert len({len(mine) for mine in dealt}) == 1
    assert all(len(mine) == len(sampler) for mine, sampler in zip(dealt, made, strict=True))
    union = [row for mine in dealt for row in mine]
    assert len(union) == len(set(union))
    lost = count - len(union)
    assert lost == (count % 8 if drop_last else count % world)


class Recorder(L.LightningModule):
    """Learns nothing and writes down which images it was given, in which step."""

    def __init__(self, stop=None):
        super().__init__()
        self.weight, self.stop, self.seen = torch.nn.Parameter(torch.zeros(())), stop, []

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, sorted(batch[2].tolist())))
        return self.weight * 0

    def on_train_batch_end(self, *args):
        if self.stop is not None and len(self.seen) == self.stop:
            self.trainer.save_checkpoint(self.trainer.default_root_dir + "/stop.ckpt")
            raise KeyboardInterrupt

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches  # which makes Lightning drop the state of loaders
        return torch.optim.SGD(self.parameters(), 0.1)


class Plain(CXRDataModule):
    """Hands out batches as they are."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch


def run(pack, folder, *, stop=None, resume=False, epochs=3, **options):
    data = Plain(str(pack), **{"image_size": 32, "drop_last": False, **options})
    model = Recorder(stop)
    trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder)  # fmt: skip
    try:
        trainer.fit(model, data, ckpt_path=str(folder / "stop.ckpt") if resume else None, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        assert stop is not None
    return model.seen


def test_several_stops_in_one_epoch_change_nothing_whoever_decodes(pack, tmp_path):
    whole = run(pack, tmp_path, batch_size=8)
    assert len(whole) == 21
    ways = [({"num_workers": 2}, 2), ({}, 1), ({"decode_threads": 2}, 3), ({"num_workers": 1}, None)]
    seen = []
    for number, (way, stop) in enumerate(ways):
        seen += run(pack, tmp_path, stop=stop, resume=number > 0, batch_size=8, **way)
    assert seen == whole


def test_worker_processes_end_with_the_run_with_an_error_and_with_the_last_reference(pack, tmp_path):
    running = multiprocessing.active_children
    assert len(run(pack, tmp_path, stop=2, batch_size=8, num_workers=2)) == 2
    assert not running()
    data = ready(pack, num_workers=2)
    next(iter(data.train_dataloader()))
    assert len(running()) == 2
    del data
    assert not running()
    loader = ready(pack, num_workers=2).train_dataloader()
    loader.dataset.store.place.root = tmp_path / "nowhere"
    loader.dataset.on_corrupt = "raise"
    with pytest.raises(CorruptError):
        list(loader)
    assert not running()


@pytest.mark.parametrize("one_per_patient", [False, True])
def test_other_batches_after_a_stop_still_draw_every_image_once_an_epoch(pack, tmp_path, one_per_patient):
    select = Selection(one_per_patient=one_per_patient)
    seen = run(pack, tmp_path, stop=3, batch_size=8, select=select)
    seen += run(pack, tmp_path, stop=2, resume=True, batch_size=5, select=select)
    seen += run(pack, tmp_path, stop=1, resume=True, batch_size=12, select=select)
    seen += run(pack, tmp_path, resume=True, batch_size=4, select=select)
    for epoch in range(3):
        drawn = sorted(row for number, rows in seen for row in rows if number == epoch)
        assert len(drawn) == 56
        assert len(set(drawn)) == 56
    assert [len(rows) for epoch, rows in seen if epoch == 0] == [8, 8, 8, 5, 5, 12, 4, 4, 2]
    assert {len(rows) for epoch, rows in seen if epoch > 0} == {4}


def test_a_run_on_shards_trains_from_its_yaml(fit, pack, tmp_path):
    summary = fit("mae", f"--data.root={pack}", "--trainer.max_steps=2", "--probe.every_n_steps=1", data="shards")
    assert summary["steps"] == 2
    assert summary["probe"]["classes"] == ["effusion"]
    index = ShardIndex(pack / "index.parquet")
    assert summary["data"]["trained_on"]["images"] == int((index.splits() == "train").sum())
    assert sum(sum(source["images"].values()) for source in summary["data"]["sources"]) == len(index)
    assert json.loads((fit.run_dir / "encoder.json").read_text())["intensity"] == "bone bright, as packed"
