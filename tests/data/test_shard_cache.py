"""Shards of an object store: fetched once, kept within a limit, mended, ahead of need, and refused in a sentence."""

import multiprocessing
import os
import threading

import numpy as np
import pytest

from cxrbase.data.datamodule import CXRDataModule
from cxrbase.data.images import default_cache
from cxrbase.data.shard_cache import ShardCache, shard_bytes, window_of
from cxrbase.data.shard_index import ShardIndex
from cxrbase.data.storage import Storage
from cxrbase.errors import ConfigError, ShardError
from packs import make_pack, picture
from waiting import until


@pytest.fixture
def pack(tmp_path):
    return make_pack(tmp_path / "pack", split=["train"] * 64)


def cached(pack, tmp_path, limit=10**9, **options):
    return ShardCache(f"file://{pack}", tmp_path / "cache", limit=limit, **{"pause_s": 0.01, **options})


def ready(pack, tmp_path, **options):
    words = {"image_size": 32, "batch_size": 8, "cache_dir": str(tmp_path / "cache"), "cache_gb": 1.0, **options}
    # Every image is drawn, those too that are held out of a pack without val and test.
    data = CXRDataModule(f"file://{pack}", pretrain_on=["train", "val", "test"], **words)
    data.prepare_data()
    data.setup("fit")
    return data


class Counting(ShardCache):
    """Writes down what it fetches, for all processes."""

    def __init__(self, *given, tally, **options):
        super().__init__(*given, **options)
        self.tally = tally

    def _fetch(self, name):
        with self.tally.open("a") as file:
            file.write(name + "\n")
        return super()._fetch(name)


def test_every_image_arrives_and_shards_are_kept(pack, tmp_path):
    data = ready(pack, tmp_path)
    paths = data.manifest.column("path")
    for batch in data.train_dataloader():
        for image, (height, width), row in zip(*batch, strict=True):
            np.testing.assert_array_equal(image[0, :height, :width], picture(int(paths[row].split("/")[1][:-4])))
    assert len(list((tmp_path / "cache" / "shards").iterdir())) == 8
    for path in (pack / "shards").iterdir():
        path.unlink()
    assert sum(len(batch[2]) for batch in data.train_dataloader()) == 64
    data.teardown("fit")


@pytest.mark.parametrize("way", [{}, {"num_workers": 2}, {"decode_threads": 2}])
def test_a_small_cache_stays_within_its_limit_and_nothing_is_lost(pack, tmp_path, way):
    index = ShardIndex(pack / "index.parquet")
    limit = 4 * (int(shard_bytes(index).max()) + 10240)
    data = ready(pack, tmp_path, cache_gb=limit / 1e9, **way)
    loader = data.train_dataloader()
    assert loader.sampler.plan.window == 2
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        rows = []
        for batch in loader:
            rows += batch[2].tolist()
            assert sum(status.st_size for _, status in data.store.place._files()) <= limit
        assert sorted(rows) == list(range(64))
    assert not len(loader.dataset.quarantine.rows)
    data.teardown("fit")


def test_a_process_that_is_forked_while_a_shard_is_fetched_keeps_no_lock(pack, tmp_path):
    cache, context = cached(pack, tmp_path), multiprocessing.get_context("fork")
    end = context.Event()
    child = context.Process(target=end.wait)
    with cache._locked("shards/made-000000.tar"):
        child.start()
    waiting = threading.Thread(target=cache.fetch, args=("shards/made-000000.tar",), daemon=True)
    waiting.start()
    waiting.join(timeout=20)
    locked_out = waiting.is_alive()
    end.set()
    child.join()
    assert not locked_out
    assert (cache.folder / "shards" / "made-000000.tar").is_file()


def test_shards_are_at_hand_before_they_are_asked_for(pack, tmp_path):
    data = ready(pack, tmp_path)
    loader = data.train_dataloader()
    next(iter(loader))
    until(lambda: len(list((tmp_path / "cache" / "shards").glob("*.tar"))) >= 8, seconds=30)
    data.teardown("fit")


def test_a_damaged_copy_is_fetched_again(pack, tmp_path):
    data = ready(pack, tmp_path)
    list(data.train_dataloader())
    for path in (tmp_path / "cache" / "shards").iterdir():
        path.write_bytes(path.read_bytes()[:3000])
    again = ready(pack, tmp_path, on_corrupt="raise")
    assert sum(len(batch[2]) for batch in again.train_dataloader()) == 64


@pytest.mark.parametrize("way", [{}, {"num_workers": 2}, {"decode_threads": 2}])
def test_a_shard_that_is_damaged_in_the_store_is_fetched_once_more_and_not_for_each_image(pack, tmp_path, way, caplog):
    path = pack / "shards" / "made-000002.tar"
    index = ShardIndex(pack / "index.parquet")
    content = bytearray(path.read_bytes())
    for row in range(16, 23):
        content[index.offset[row] + 20] ^= 255
    path.write_bytes(content)
    tally = tmp_path / "fetched"
    data = ready(pack, tmp_path, max_bad=0.2, **way)
    data.store.place = Counting(f"file://{pack}", tmp_path / "cache", limit=10**9, tally=tally)
    data._look_ahead.cache = data.store.place
    loader = data.train_dataloader()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        rows = {row for batch in loader for row in batch[2].tolist()}
        # The one image of the shard that is as it was packed is still read.
        assert 23 in rows
        assert not rows & set(range(16, 23))
    assert data.quarantine.rows.tolist() == list(range(16, 23))
    fetched = tally.read_text().splitlines()
    # Two workers may see at the same moment that the first copy is wrong.
    assert 2 <= fetched.count("shards/made-000002.tar") <= (2 if not way else 4)
    assert {name: fetched.count(name) for name in set(fetched) - {"shards/made-000002.tar"}} == {
        f"shards/made-{number:06}.tar": 1 for number in range(8) if number != 2
    }
    data.teardown("fit")


def test_what_stands_in_for_a_lost_shard_costs_no_other_shards(tmp_path):
    pack = make_pack(tmp_path / "pack", split=["train"] * 192)
    (pack / "shards" / "made-000003.tar").unlink()
    largest = int(shard_bytes(ShardIndex(pack / "index.parquet")).max()) + 10240
    data = ready(pack, tmp_path, cache_gb=8.2 * largest / 1e9, max_bad=0.2)
    tally = tmp_path / "fetched"
    data.store.place = Counting(f"file://{pack}", tmp_path / "cache", limit=int(8.2 * largest), tally=tally)
    loader = data.train_dataloader()
    # What is fetched ahead may go again before it is read, where the reader is slow.
    loader.on_begin = loader.on_position = None
    assert loader.sampler.plan.window == 4
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        tally.write_text("")
        rows = [row for batch in loader for row in batch[2].tolist()]
        assert len(rows) == 192
        fetched = tally.read_text().splitlines()
        assert len(fetched) == len(set(fetched))
    data.teardown("fit")


@pytest.mark.parametrize(("before", "now"), [(100, 4), (6, 4), (4, 6), (4, 100)])
def test_an_epoch_that_goes_on_with_a_smaller_cache_says_what_it_needs(pack, tmp_path, before, now, caplog):
    index = ShardIndex(pack / "index.parquet")
    largest = int(shard_bytes(index).max()) + 10240
    data = ready(pack, tmp_path, cache_gb=before * 1.01 * largest / 1e9)
    stream = iter(data.train_dataloader())
    drawn = [row for _ in range(2) for row in next(stream)[2].tolist()]
    state = data.state_dict()
    stream.close()
    data.teardown("fit")
    resumed = ready(pack, tmp_path, cache_gb=now * 1.01 * largest / 1e9)
    resumed.load_state_dict(state)
    caplog.clear()
    loader = resumed.train_dataloader()
    said = [record.getMessage() for record in caplog.records]
    # The order stays that of the checkpoint, whatever it costs.
    drawn += [row for batch in loader for row in batch[2].tolist()]
    assert sorted(drawn) == list(range(64))
    resumed.teardown("fit")
    if before < now:
        assert not said
        return
    (line,) = said
    mixed = {100: "all", 6: "3"}[before]
    assert f"the epoch of the checkpoint mixes {mixed} shards at a time, more than data.cache_gb=" in line
    enough = float(line.rpartition(" ")[2])
    caplog.clear()
    again = ready(pack, tmp_path, cache_gb=enough)
    again.load_state_dict(state)
    caplog.clear()
    again.train_dataloader()
    assert not caplog.records
    assert enough * 1e9 < 1.02 * min(before, 8) * largest
    again.teardown("fit")


def test_the_least_recently_used_goes_first(pack, tmp_path):
    size = (pack / "shards" / "made-000000.tar").stat().st_size
    cache = cached(pack, tmp_path, limit=int(2.5 * size))
    names = [f"shards/made-00000{number}.tar" for number in range(3)]
    for number, name in enumerate([names[0], names[1], names[0], names[2]]):
        cache.open(name).close()
        os.utime(cache.folder / name, (number, number))
    assert sorted(path.name for path in (cache.folder / "shards").iterdir()) == ["made-000000.tar", "made-000002.tar"]
    with pytest.raises(ShardError, match=r"raise data\.cache_gb"):
        cached(pack, tmp_path / "other", limit=size // 2).open(names[0])


def test_a_shard_that_is_opened_again_counts_as_used(pack, tmp_path):
    cache, name = cached(pack, tmp_path, limit=10**9), "shards/made-000000.tar"
    cache.open(name).close()
    os.utime(cache.folder / name, (1, 1))
    cache.open(name).close()
    assert (cache.folder / name).stat().st_mtime > 1


def test_a_store_that_fails_now_and_then_is_asked_again_and_a_missing_shard_is_not(pack, tmp_path, monkeypatch):
    asked = []
    read = Storage.read

    def unsteady(self, name):
        asked.append(name)
        if len(asked) < 3:
            raise ShardError("the network is away")
        return read(self, name)

    monkeypatch.setattr(Storage, "read", unsteady)
    cached(pack, tmp_path).open("shards/made-000001.tar").close()
    assert len(asked) == 3
    with pytest.raises(ShardError, match="nothing"):
        cached(pack, tmp_path).open("shards/nothing.tar")
    assert len(asked) == 4
    asked.clear()
    with pytest.raises(ShardError, match="network is away"):
        cached(pack, tmp_path / "other", retries=1).open("shards/made-000001.tar")
    assert len(asked) == 2


def _open(cache, name, queue):
    queue.put(len(cache.open(name).read()))


def test_processes_of_a_node_fetch_a_shard_once(pack, tmp_path):
    cache, queue = cached(pack, tmp_path), multiprocessing.get_context("fork").Queue()
    name = "shards/made-000003.tar"
    processes = [multiprocessing.get_context("fork").Process(target=_open, args=(cache, name, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    sizes = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(60)
    assert sizes == {(pack / name).stat().st_size}
    assert not list(cache.folder.rglob("*.part"))


def test_limits_that_cannot_work_are_refused_and_poor_ones_are_said(pack, tmp_path, caplog):
    index = ShardIndex(pack / "index.parquet")
    largest = int(shard_bytes(index).max()) + 10240
    with pytest.raises(ConfigError, match=r"cannot hold two shards .* set it to .* at least"):
        window_of(index, int(1.9 * largest))
    assert window_of(index, 100 * largest) == 0
    assert window_of(index, 4 * largest) == 2
    assert "better shuffle" in caplog.text


def test_each_store_has_a_folder_of_its_own(tmp_path):
    first, second = (default_cache(f"s3://bucket/{name}") for name in ("a", "b"))
    assert first != second
    assert default_cache(str(tmp_path)) == tmp_path / ".canvas"
