"""What stands in for unreadable images: of shards at hand, of other patients, and the same however it is read."""

import json

import numpy as np
import pytest

from cxrbase.data.datamodule import CXRDataModule
from cxrbase.data.dataset import StreamDataset
from cxrbase.data.order import REPEAT, Order, Part, Plan
from cxrbase.data.quarantine import Quarantine
from cxrbase.data.selection import Selection
from cxrbase.data.shard_cache import shard_bytes
from cxrbase.data.shard_index import ShardIndex
from cxrbase.data.stand_ins import StandIns
from cxrbase.data.stream import StreamSampler
from packs import make_pack

COUNT = 600
SHARDS, PATIENTS = np.arange(COUNT, dtype=np.int32) // 20, np.arange(COUNT, dtype=np.int32) // 3


class Squares:
    """A store of small images."""

    rows, size = np.arange(COUNT), 4

    def image(self, row):
        return np.zeros((4, 4), np.uint8)

    def names(self, rows):
        return [str(row) for row in rows]

    def __len__(self):
        return COUNT


def stream(bad, *, weights=None, apart=False, window=0, batch_size=8):
    """A sampler, and a data set of which some rows are unreadable."""
    parts = [Part(np.arange(300)), Part(np.arange(300, COUNT), weights or 1.0)]
    order = Order(parts, seed=3, patients=PATIENTS if apart else None, shards=SHARDS)
    made = StreamSampler(order, batch_size=batch_size, one_per_patient=apart, window=window)
    store = Squares()
    quarantine = Quarantine(COUNT, limit=1.0, names=store.names)
    quarantine.add(np.array(bad), "damaged")
    dataset = StreamDataset(store, seed=3, on_corrupt="skip", quarantine=quarantine)
    made.stand_ins = dataset.stand_ins = StandIns(order)
    return made, dataset


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("weights", [None, 1.5])
def test_stand_ins_are_of_the_same_window_and_in_no_batch_twice(apart, weights):
    bad = np.arange(40, 60)
    sampler, dataset = stream(bad, weights=weights, apart=apart, window=6)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        dataset.epoch.fill_(epoch)
        wanted = list(sampler)
        found = [dataset[row][2] for row in wanted]
        windows, ends = sampler.source.windows(epoch, sampler.plan)
        replaced = [place for place in range(len(wanted)) if found[place] != wanted[place]]
        assert {wanted[place] for place in replaced} == set(bad.tolist())
        near = [SHARDS[found[p] % REPEAT] in windows[np.searchsorted(ends, p, side="right")] for p in replaced]
        # That patients stay apart goes first, where a window has nobody else who is free.
        assert np.mean(near) > 0.9 if apart else all(near)
        batches = (np.array(found) % REPEAT).reshape(-1, 8)
        assert max(np.bincount(PATIENTS[batch]).max() for batch in batches) == 1 or not apart
        # One or two might be drawn for two places of a batch.
        assert weights or sum(len(set(batch.tolist())) < 8 for batch in batches) <= 1


def test_stand_ins_of_a_batch_share_no_patient_even_if_most_of_it_is_lost():
    # Batches of 32 of 200 patients: of any other rows, two of one patient would soon be drawn.
    sampler, dataset = stream(np.arange(0, COUNT, 2), apart=True, batch_size=32)
    for batch in np.array([dataset[row][2] for row in sampler]).reshape(-1, 32):
        assert len(set(PATIENTS[batch].tolist())) == 32


def test_a_window_without_any_readable_row_takes_others():
    sampler, dataset = stream([], window=1)
    wanted = list(sampler)
    lost = wanted[:20]
    dataset.quarantine.add(np.array(lost), "missing")
    found = [dataset[row][2] for row in wanted]
    assert not set(found) & set(lost)
    assert found[20:] == wanted[20:]


def test_without_windows_and_patients_stand_ins_are_drawn_from_all():
    bad = np.arange(40, 60)
    sampler, dataset = stream(bad)
    list(sampler)
    drawn = [dataset[row][2] for row in bad]
    # Nothing is left of an epoch that was begun with another plan.
    for plan in (Plan(0, 6), Plan(0, 0)):
        sampler.restore(0, images=0, batches=0, plan=plan)
        list(sampler)
        assert ([dataset[row][2] for row in bad] == drawn) == (plan.window == 0)
    dataset.stand_ins = None
    assert [dataset[row][2] for row in bad] == drawn


@pytest.fixture(scope="module")
def lost_shard(tmp_path_factory):
    pack = make_pack(tmp_path_factory.mktemp("pack"), split=["train"] * 96)
    (pack / "shards" / "made-000003.tar").unlink()
    return pack


def ready(pack, cache, **options):
    largest = int(shard_bytes(ShardIndex(pack / "index.parquet")).max()) + 10240
    words = {"image_size": 32, "batch_size": 8, "cache_dir": str(cache), "cache_gb": 6.2 * largest / 1e9}
    select = Selection(one_per_patient=True)
    data = CXRDataModule(
        f"file://{pack}", pretrain_on=["train", "val", "test"], select=select, max_bad=0.2, **words, **options
    )
    data.prepare_data()
    data.setup("fit")
    return data


def rows_of(stream):
    return [row for batch in stream for row in batch[2].tolist()]


@pytest.mark.parametrize(
    "way", [{}, {"decode_threads": 2}, {"num_workers": 2}, {"num_workers": 2, "start": "spawn"}], ids=str
)
def test_the_same_stand_in_however_images_are_read_and_after_a_stop(lost_shard, tmp_path, way):
    way = dict(way)
    start = way.pop("start", None)
    first = ready(lost_shard, tmp_path / "one").train_dataloader()
    expected = []
    for epoch in range(2):
        first.sampler.set_epoch(epoch)
        expected.append(rows_of(first))
        assert len(expected[-1]) == 96
        assert not set(expected[-1]) & set(range(24, 32))
    data = ready(lost_shard, tmp_path / "two", **way)
    loader = data.train_dataloader()
    assert loader.sampler.plan == (8, 3)
    loader.multiprocessing_context = start
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        assert rows_of(loader) == expected[epoch]
    loader.sampler.set_epoch(0)
    stopped = iter(loader)
    drawn = [row for _ in range(4) for row in next(stopped)[2].tolist()]
    state = json.loads(json.dumps(data.state_dict()))
    stopped.close()
    data.teardown("fit")
    resumed = ready(lost_shard, tmp_path / "three", **way)
    resumed.load_state_dict(state)
    assert drawn + rows_of(resumed.train_dataloader()) == expected[0]
    resumed.teardown("fit")
