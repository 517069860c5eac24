"""Images that become unreadable do not end a run: not in its stream, nor where its encoder is looked at and scored."""

import contextlib
import json
import logging
import re
import resource
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from commands import command
from cxrbase.callbacks.probe import FrozenProbe
from cxrbase.cli import main
from cxrbase.data.canvas import CanvasStore
from cxrbase.data.centre import Centre, few_rows, read_canvases
from cxrbase.data.dataset import StreamDataset
from cxrbase.data.images import open_packed
from cxrbase.data.manifest import Manifest
from cxrbase.data.order import Order
from cxrbase.data.quarantine import Quarantine
from cxrbase.data.shard_index import ShardIndex
from cxrbase.data.stream import StreamSampler
from cxrbase.errors import CorruptError
from data.test_shard_store import damage
from packs import make_pack
from two_processes import start_two

CPU = torch.device("cpu")
LABELS = [row // 2 % 2 for row in range(96)]


@pytest.fixture
def pack(tmp_path):
    """96 images in 12 shards: two of three test shards at the end."""
    return make_pack(
        tmp_path / "pack", source=["made"] * 96, split=["train"] * 56 + ["val"] * 16 + ["test"] * 24,
        patient_id=[f"p{row // 2}" for row in range(96)], label_effusion=LABELS,
    )  # fmt: skip


def fit(pack, folder, *words):
    longer = ["--trainer.max_epochs=1", "--trainer.max_steps=-1", "--probe.resamples=20"]
    return main(command("mae", *longer, *words, root=pack, run_dir=folder, figures=True))


@pytest.mark.parametrize("monitor_every", [2, 1000])
def test_a_missing_shard_ends_no_run(pack, tmp_path, caplog, monitor_every):
    for shard in (2, 10):
        (pack / f"shards/made-{shard:06}.tar").unlink()
    words = ["--data.max_bad=0.3", f"--probe.monitor_every={monitor_every}", "--probe.every_n_steps=3"]
    with caplog.at_level(logging.WARNING):
        assert fit(pack, tmp_path / "run", *words) == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["steps"] == 7
    # One of three test shards is gone, and its labels with it.
    assert summary["probe"]["n_test"] == 16
    assert summary["probe"]["n_train"] == 48
    assert (tmp_path / "run/figures/reconstruction.png").is_file()
    named = (tmp_path / "run/quarantine-0.csv").read_text()
    assert {f"made/{row}.png" in named for row in [*range(16, 24), *range(80, 88)]} == {True}
    assert "left out: made/" in caplog.text


def in_two_processes(pack, folder, *words):
    """Exit codes and last lines of two processes that train for two epochs, with a smaller batch at the end of each."""
    longer = ["--trainer.max_epochs=2", "--trainer.max_steps=-1", "--trainer.devices=2", "--data.batch_size=5"]
    longer += ["--data.drop_last=false", "--probe.enabled=false", "--probe.monitor_every=1000", "--data.max_bad=0.07"]
    given = command("mae", *longer, *words, root=pack, run_dir=folder)
    started = start_two(lambda rank: ["-m", "cxrbase", *given])
    said = [process.communicate(timeout=240)[1].strip().splitlines()[-1] for process in started]
    return [process.returncode for process in started], said


def damaged_for_both(pack, count):
    """Damages as many training images of each of two processes, which find them in their first epoch."""
    index = ShardIndex(pack / "index.parquet")
    rows = np.flatnonzero(index.splits() == "train")
    sampler = {"batch_size": 5, "world_size": 2, "drop_last": False}
    dealt = [list(StreamSampler(Order(rows, seed=0), rank=rank, **sampler))[:count] for rank in range(2)]
    for row in [*dealt[0], *dealt[1]]:
        damage(pack / index.shard_names[index.shard[row]], int(index.offset[row]) + 20)
    return sorted(dealt[0]), sorted(dealt[1])


def test_processes_know_what_each_of_them_found(pack, tmp_path):
    first, second = damaged_for_both(pack, 3)
    words = ["--trainer.max_steps=3", "--checkpoint.every_n_train_steps=3"]
    codes, said = in_two_processes(pack, tmp_path / "run", *words)
    assert codes == [0, 0], said
    state = torch.load(tmp_path / "run/last.ckpt", weights_only=True)["CXRDataModule"]["stream"]
    assert state["quarantine"]["rows"] == sorted(first + second)
    named = [set(map(int, re.findall("^[0-9]+", (tmp_path / f"run/quarantine-{rank}.csv").read_text(), re.MULTILINE)))
             for rank in range(2)]  # fmt: skip
    assert named[0] | named[1] == {*first, *second}
    assert not named[0] & named[1]
    assert named[0] >= {*first} - named[1]


def test_processes_end_together_where_they_found_too_much_together(pack, tmp_path):
    damaged_for_both(pack, 4)
    codes, said = in_two_processes(pack, tmp_path / "run")
    assert codes == [1, 1]
    assert said[0] == said[1]
    assert "8 of 96 images are unreadable, more than data.max_bad=0.07 allows; last: made/" in said[0]
    assert not (tmp_path / "run/last.ckpt").exists()


def test_where_damage_is_to_end_a_run_it_does_so_at_the_first_look(pack, tmp_path, capsys):
    (pack / "shards/made-000010.tar").unlink()
    assert fit(pack, tmp_path / "run", "--data.on_corrupt=raise") == 1
    assert "cannot read made/80.png in shards/made-000010.tar" in capsys.readouterr().err


def test_too_many_unreadable_test_images_are_said_and_the_run_goes_on(pack, tmp_path, caplog):
    for shard in (9, 10, 11):
        (pack / f"shards/made-{shard:06}.tar").unlink()
    with caplog.at_level(logging.WARNING):
        assert fit(pack, tmp_path / "run", "--data.max_bad=0.3") == 0
    assert "frozen features are not scored: the test split must hold labelled images, got none" in caplog.text
    assert json.loads((tmp_path / "run/summary.json").read_text())["probe"] is None


def test_rows_and_images_stay_together_where_some_are_left_out(pack):
    _, store, _ = open_packed(str(pack), size=48, cache=pack, limit_gb=1)
    rows = np.array([3, 17, 30, 95])
    whole = read_canvases(store, rows, device=CPU)
    assert whole.rows.tolist() == rows.tolist()
    (pack / "shards/made-000002.tar").unlink()
    _, store, _ = open_packed(str(pack), size=48, cache=pack, limit_gb=1)
    held = Quarantine(len(store), limit=1, names=store.names)
    rest = read_canvases(store, rows, device=CPU, quarantine=held)
    assert rest.rows.tolist() == [3, 30, 95]
    assert torch.equal(rest.images, whole.images[[0, 2, 3]])
    assert torch.equal(rest.sizes, whole.sizes[[0, 2, 3]])
    assert held.rows.tolist() == list(range(16, 24))
    with pytest.raises(CorruptError, match=r"made/17\.png"):
        read_canvases(store, rows, device=CPU)
    centre = Centre(store, out=32, mean=0.5, std=0.25, quarantine=held)
    views = centre.batches(np.arange(96), device=CPU, batch_size=8)
    assert [len(batch) for batch in views] == [8] * 11
    assert views.rows.tolist() == [row for row in range(96) if row not in range(16, 24)]
    assert len(views) == 12
    kept = torch.cat(list(centre.views(centre.canvases(np.array([3, 17, 30])), device=CPU, batch_size=1)))
    torch.testing.assert_close(kept, torch.cat(list(centre.batches(np.array([3, 30]), device=CPU))))


def test_few_rows_of_an_object_store_lie_in_few_shards():
    shards = np.arange(10_000) // 100
    rows = np.arange(0, 10_000, 2)
    for limit in (40, 1000):
        near, far = few_rows(rows, limit, shards=shards), few_rows(rows, limit)
        assert len(near) == len(far) == limit
        assert (np.diff(near) > 0).all()
        assert np.isin(near, rows).all()
        assert len(np.unique(shards[near])) == max(16, limit // 50)
        assert near[0] < 100
        assert near[-1] >= 9900
        assert len(np.unique(shards[far])) == min(limit, 100)
    assert few_rows(rows, 5000, shards=shards) is rows


def test_the_images_for_the_look_at_features_are_read_once(pack, tmp_path, monkeypatch):
    looks = []
    look = FrozenProbe._monitor
    read = Centre.canvases
    monkeypatch.setattr(FrozenProbe, "_monitor", lambda *given: (looks.append("look"), look(*given)))
    monkeypatch.setattr(Centre, "canvases", lambda *given: (looks.append("read"), read(*given))[1])
    words = ["--probe.monitor_every=2", "--probe.enabled=false", "--figures.enabled=false"]
    assert fit(pack, tmp_path / "run", *words) == 0
    assert looks == ["look", "read", "look", "look", "look"]


@pytest.fixture
def light(tmp_path):
    """A data set of a folder whose images are decoded on access; others stand in for what cannot be read."""
    for number in range(8):
        Image.fromarray(np.full((20, 24), 20 * number, np.uint8)).save(tmp_path / f"{number}.png")
    store = CanvasStore.open(
        Manifest.from_folder(tmp_path), size=24, cache_dir=tmp_path / ".canvas", limit_gb=0, max_bad=0
    )
    return StreamDataset(store, on_corrupt="skip", quarantine=Quarantine(8, limit=1, names=store.names))


@contextlib.contextmanager
def no_more_files(seconds):
    """Nothing can be opened for a while, as on a network disk that is away."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    again = threading.Timer(seconds, resource.setrlimit, (resource.RLIMIT_NOFILE, before))
    again.start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        again.join()


def test_an_image_that_is_out_of_reach_for_a_moment_is_waited_for(light, caplog):
    with no_more_files(0.7):
        assert light[3][2] == 3
    assert "Too many open files" in caplog.text
    assert not len(light.quarantine.rows)


@pytest.mark.parametrize("away", ["gone", "out of reach"])
def test_an_image_that_was_out_of_reach_is_read_after_a_restart(light, away, caplog):
    path = light.store.paths[3]
    if away == "gone":
        path.rename(path.with_suffix(".away"))
        assert light[3][2] != 3
        assert "trying again" not in caplog.text
        path.with_suffix(".away").rename(path)
    else:
        with no_more_files(3.8):
            assert light[3][2] != 3
    light.quarantine.report()
    assert f"left out: {path}, it or its shard is missing or out of reach" in caplog.text
    back = StreamDataset(light.store, on_corrupt="skip", quarantine=Quarantine(8, limit=1, names=light.store.names))
    back.quarantine.restore(light.quarantine.state())
    assert back[3][2] == 3
