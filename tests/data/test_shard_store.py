"""Packed images: the same pixels, damage found and named, and what the stream does about it."""

import json
import logging
import pickle
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrbase.data.canvas import to_canvas
from cxrbase.data.dataset import StreamDataset
from cxrbase.data.order import Order
from cxrbase.data.quarantine import Quarantine
from cxrbase.data.shard_index import ShardIndex
from cxrbase.data.shard_store import LocalShards, ShardStore, usual_side
from cxrbase.data.stream import StreamLoader, StreamSampler
from cxrbase.errors import CorruptError, ManifestError, ShardError
from packs import make_pack, picture


@pytest.fixture
def pack(tmp_path):
    return make_pack(tmp_path / "pack", split=["train"] * 40, view_position=["PA", "AP"] * 20, label_x=[1, 0] * 20)


def opened(pack, **options):
    index = ShardIndex(pack / "index.parquet")
    return ShardStore(index, LocalShards(pack), **options)


def damage(path: Path, at: int, length: int = 4) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + length] = bytes(255 - value for value in data[at : at + length])
    path.write_bytes(data)


def test_every_image_is_the_one_that_was_packed(pack):
    store = opened(pack)
    assert len(store) == 40
    for row in store.rows:
        number = int(Path(store.index.key(row)).stem)
        np.testing.assert_array_equal(store.image(row), picture(number))
        canvas, size = store.read(row)
        assert canvas.shape == (store.size, store.size) == (48, 48)
        assert size == (40, 36)
        assert not canvas[40:].any()
        with tarfile.open(pack / store.index.shard_names[store.index.shard[row]]) as tar:
            assert tar.extractfile(f"made-{number:09d}.png").read() == store.encoded(row)


def test_large_jpegs_are_read_in_reduced_size_like_the_full_ones(tmp_path):
    pack = make_pack(tmp_path, codec="jpeg", size=400, images=lambda n: picture(n, 400, 400), split=["train"] * 4)
    full, half = opened(pack, size=400), opened(pack, size=200)
    for row in range(4):
        expected = full.image(row).reshape(200, 2, 200, 2).mean((1, 3))
        assert half.image(row).shape == (200, 200)
        assert np.abs(half.image(row) - expected).mean() < 1
        assert opened(pack, size=150).image(row).shape == (150, 150)


@pytest.mark.parametrize(("side", "taken"), [(299, 128), (128, 128), (100, 100), (508, 128)])
def test_jpegs_below_the_size_of_the_pack_fill_the_canvas_as_far_as_they_can(tmp_path, side, taken):
    shapes = [(512, 512), (side, side), (side, side // 2)]
    pack = make_pack(tmp_path, codec="jpeg", size=512, images=lambda n: picture(n, *shapes[n]), split=["train"] * 3)
    store, full = opened(pack, size=128), opened(pack, size=512)
    for row in (1, 2):
        expected, (height, width) = to_canvas(full.image(row), 128)
        assert max(height, width) == taken
        np.testing.assert_array_equal(store.image(row), expected[:height, :width])
    # The usual image is still decoded at a quarter of its size.
    quarter = cv2.imdecode(np.frombuffer(store.encoded(0), np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_4)
    np.testing.assert_array_equal(store.image(0), quarter)


def test_columns_stay_on_disk_and_are_read_as_a_manifest_would(pack):
    index = ShardIndex(pack / "index.parquet")
    held = sum(array.nbytes for array in (index.shard, index.offset, index.size, index.crc32))
    assert held == 20 * len(index)
    assert index.labels == ("x",)
    np.testing.assert_array_equal(index.label_matrix()[:, 0], [1, 0] * 20)
    codes, names = index.coded("view_position")
    assert [names[code] for code in codes] == ["PA", "AP"] * 20
    assert index.coded("nonsense") == (pytest.approx(np.zeros(40)), [""])
    patients = index.patients()
    assert patients[:3].tolist() == ["p0", "p0", "p1"]
    same = np.equal.outer
    assert (same(patients, patients) == same(index.patient_codes(), index.patient_codes())).all()
    with pytest.raises(ManifestError, match="no column sex2; its columns are path"):
        index.column("sex2")


def test_images_without_patient_are_patients_of_their_own_and_equal_ids_are_one_person(tmp_path):
    pack = make_pack(tmp_path, source=["a", "a", "b", "b", "a"], patient_id=["1", "1", "1", "", ""])
    index = ShardIndex(pack / "index.parquet")
    codes = index.patient_codes()
    assert index.patients().tolist() == ["1", "1", "a/4.png", "1", "b/3.png"]
    assert len(set(codes.tolist())) == 3
    assert codes[0] == codes[1] == codes[3]
    assert codes.min() >= 0


def test_an_index_without_splits_is_dealt_by_patient(tmp_path):
    pack = make_pack(tmp_path, split=[""] * 400)
    index = ShardIndex(pack / "index.parquet")
    splits, patients = index.splits(), index.patients()
    assert {split for split in splits} == {"train", "val", "test"}
    assert 0.6 < (splits == "train").mean() < 0.8
    for split in ("train", "val", "test"):
        assert not set(patients[splits == split]) & set(patients[splits != split])


@pytest.mark.parametrize("kind", ["flip", "cut", "gone", "empty"])
def test_damage_is_found_named_and_told_apart(pack, kind):
    store = opened(pack)
    row = 11
    path = pack / store.index.shard_names[store.index.shard[row]]
    if kind == "flip":
        damage(path, int(store.index.offset[row]) + 30)
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[: int(store.index.offset[row]) + 10])
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    name = r"made/11\.png in shards/made-000001\.tar"
    with pytest.raises(CorruptError, match=name) as caught:
        opened(pack).image(row)
    assert caught.value.reason == ("missing" if kind == "gone" else "checksum")
    assert caught.value.whole_shard == (kind == "gone")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.reason, again.whole_shard) == (str(caught.value), caught.value.reason, kind == "gone")
    assert opened(pack).image(3).shape == (40, 36)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_flipped_byte_is_served(tmp_path_factory, data):
    pack = make_pack(tmp_path_factory.mktemp("p"), split=["train"] * 3)
    store = opened(pack)
    row = data.draw(st.integers(0, 2))
    at = data.draw(st.integers(0, int(store.index.size[row]) - 1))
    damage(pack / store.index.shard_names[0], int(store.index.offset[row]) + at, 1)
    with pytest.raises(CorruptError, match="not those of the index"):
        store.image(row)


def test_bytes_that_are_no_image_are_named_even_if_the_checksum_holds(pack):
    store = opened(pack)
    with tarfile.open(pack / "shards/made-000000.tar") as tar:
        header = tar.getmembers()[0]
    at = int(store.index.offset[0])
    damage(pack / "shards/made-000000.tar", at, int(store.index.size[0]))
    assert header.offset_data == at
    with pytest.raises(CorruptError, match="not an image of a known format") as caught:
        opened(pack, verify=False).image(0)
    assert caught.value.reason == "damaged"


def loader(store, *, num_workers=0, decode_threads=0, on_corrupt="skip", max_bad=0.5, rows=None):
    rows = store.rows if rows is None else rows
    quarantine = Quarantine(len(store), limit=max_bad, names=store.names)
    dataset = StreamDataset(store, seed=1, on_corrupt=on_corrupt, quarantine=quarantine, pool=rows)
    sampler = StreamSampler(Order(rows, seed=1), batch_size=8)
    made = StreamLoader(dataset, batch_size=8, sampler=sampler, num_workers=num_workers, drop_last=True)
    made.decode_threads = decode_threads
    return made


WAYS = [{}, {"num_workers": 2}, {"decode_threads": 2}]


@pytest.mark.parametrize("way", WAYS)
def test_corrupt_images_are_replaced_counted_and_written_down(pack, way, tmp_path, caplog):
    store = opened(pack)
    damage(pack / "shards/made-000002.tar", int(store.index.offset[17]) + 20)
    (pack / "shards/made-000004.tar").unlink()
    bad = {17, *range(32, 40)}
    rows = store.rows[store.rows != 5]
    stream = loader(store, rows=rows, **way)
    stream.quarantine_file = tmp_path / "quarantine.csv"
    with caplog.at_level(logging.WARNING):
        seen = [(batch[2].tolist(), batch[0]) for batch in stream]
    drawn = [row for batch, _ in seen for row in batch]
    assert [len(batch) for batch, _ in seen] == [8] * 4
    assert not set(drawn) & (bad | {5})
    wanted = list(StreamSampler(Order(rows, seed=1), batch_size=8))
    for row, other in zip(drawn, wanted, strict=True):
        assert row == other or other in bad
    found = stream.dataset.quarantine.rows.tolist()
    assert set(range(32, 40)) < set(found) <= bad
    lines = stream.quarantine_file.read_text().splitlines()
    assert len(lines) == len(found)
    assert any("made/33.png in shards/made-000004.tar,missing" in line for line in lines)
    assert "left out: made/3" in caplog.text
    # A second loader, and one that takes the state up, draw the same.
    again = loader(opened(pack), rows=rows)
    assert [row for batch in again for row in batch[2].tolist()] == drawn
    resumed = loader(opened(pack), rows=rows, **way)
    resumed.load_state_dict(json.loads(json.dumps({**stream.state_dict(), "images": 16, "batches": 2})))
    caplog.clear()
    assert [row for batch in resumed for row in batch[2].tolist()] == drawn[16:]
    assert "left out" not in caplog.text


@pytest.mark.parametrize("way", WAYS)
def test_a_shard_that_came_back_is_read_after_a_restart(pack, way, tmp_path, caplog):
    shard, away = pack / "shards/made-000004.tar", tmp_path / "away.tar"
    wanted = list(StreamSampler(Order(np.arange(40), seed=1), batch_size=8))
    damaged = next(row for row in wanted[:16] if row < 32)
    index = opened(pack).index
    damage(pack / index.shard_names[index.shard[damaged]], int(index.offset[damaged]) + 20)
    shard.rename(away)
    stream = loader(opened(pack), **way)
    before = [row for batch in stream for row in batch[2].tolist()]
    assert stream.dataset.quarantine.rows.tolist() == sorted([damaged, *range(32, 40)])
    state = json.loads(json.dumps({**stream.state_dict(), "images": 16, "batches": 2}))
    still = loader(opened(pack), **way)
    still.load_state_dict(state)
    assert [row for batch in still for row in batch[2].tolist()] == before[16:]
    fewer = loader(opened(pack), max_bad=0.1, **way)
    fewer.load_state_dict(state)
    with pytest.raises(ShardError, match=r"9 of 40 .*; last: made/3\d\.png in shards/made-000004\.tar, it or its"):
        list(fewer)
    away.rename(shard)
    caplog.clear()
    back = loader(opened(pack), **way)
    for _ in range(2):
        back.load_state_dict(state)
    after = [row for batch in back for row in batch[2].tolist()]
    assert after == wanted[16:] != before[16:]
    said = "1 images that were unreadable before the stop stay left out, 8 that were missing or out of reach are tried "
    said += "again"
    assert [record.getMessage() for record in caplog.records] == [said]
    assert back.dataset.quarantine.rows.tolist() == [damaged]


def test_an_image_that_the_disk_fails_to_give_costs_no_whole_shard(pack, tmp_path, caplog):
    shard, away = pack / "shards/made-000004.tar", tmp_path / "away.tar"
    shard.rename(away)
    shard.symlink_to("/proc/self/mem")  # opens, and has an input/output error at an address without memory
    store = opened(pack)
    with pytest.raises(CorruptError, match="Input/output error") as caught:
        store.image(34)
    assert (caught.value.reason, caught.value.whole_shard) == ("missing", False)
    dataset = loader(store).dataset
    assert dataset[34][2] != 34
    assert dataset.quarantine.rows.tolist() == [34]
    assert "trying again for 3.5 s" in caplog.text
    # The file that failed is not kept open.
    shard.unlink()
    away.rename(shard)
    assert dataset[35][2] == 35


@pytest.mark.parametrize("way", WAYS)
def test_more_damage_than_allowed_ends_the_run_with_the_last_name(pack, way):
    for shard in range(3):
        (pack / f"shards/made-00000{shard}.tar").unlink()
    with pytest.raises(ShardError, match=r"images are unreadable, more than data\.max_bad=0\.2 allows; last: made/"):
        list(loader(opened(pack), max_bad=0.2, **way))


@pytest.mark.parametrize("way", WAYS)
def test_damage_ends_the_run_at_once_where_that_is_asked_for(pack, way):
    store = opened(pack)
    damage(pack / "shards/made-000000.tar", int(store.index.offset[2]) + 20)
    with pytest.raises(CorruptError, match="not those of the index"):
        list(loader(opened(pack), on_corrupt="raise", **way))


def test_a_set_without_a_readable_image_ends_the_run(pack):
    for path in (pack / "shards").iterdir():
        path.unlink()
    with pytest.raises(ShardError, match="unreadable too"):
        list(loader(opened(pack), max_bad=1.0))


def test_few_shards_are_kept_open(pack, monkeypatch):
    monkeypatch.setattr("cxrbase.data.shard_store._OPEN", 2)
    store = opened(pack)
    for row in [0, 39, 9, 20, 0, 30]:
        store.image(row)
        assert len(store._files) <= 2
    copy = pickle.loads(pickle.dumps(store))
    assert not copy._files
    np.testing.assert_array_equal(copy.image(9), store.image(9))


def test_the_usual_side_holds_almost_all(tmp_path):
    pack = make_pack(tmp_path, images=lambda n: picture(n, 60, 200 if n == 7 else 50), split=["train"] * 200)
    assert usual_side(ShardIndex(pack / "index.parquet")) == 64
    assert opened(pack).image(7).shape == (19, 64)


def test_files_that_are_no_index_are_refused_in_a_sentence(tmp_path, pack):
    with pytest.raises(ShardError, match="cxrbase pack"):
        ShardIndex(tmp_path / "index.parquet")
    (tmp_path / "index.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ShardError, match="cannot read"):
        ShardIndex(tmp_path / "index.parquet")
    table = pq.read_table(pack / "index.parquet")
    pq.write_table(table.drop_columns(["crc32"]), tmp_path / "index.parquet")
    with pytest.raises(ShardError, match="no column crc32"):
        ShardIndex(tmp_path / "index.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "index.parquet")
    with pytest.raises(ShardError, match="no rows"):
        ShardIndex(tmp_path / "index.parquet")


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_damaged_index_never_crashes(tmp_path_factory, data):
    pack = make_pack(tmp_path_factory.mktemp("p"), split=["train"] * 3)
    path = pack / "index.parquet"
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        store = ShardStore(ShardIndex(path), LocalShards(pack))
        store.image(0)
    except (ShardError, ManifestError) as error:
        assert len(str(error)) > 10  # noqa: PT017
