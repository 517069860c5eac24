"""Shards are tars that other tools read, at the places that the index says, and damaged indices are refused."""

import contextlib
import os
import subprocess
import tarfile
import zlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrbase.data import shards
from cxrbase.data.storage import Storage
from cxrbase.errors import ShardError

MEMBERS = [(shards.member_name("nih", row, "jpeg"), os.urandom(size)) for row, size in ((0, 1), (7, 512), (8, 1300))]


def index_bytes(**changes):
    columns = {"path": ["nih/a.png"], "shard": ["shards/nih-000000.tar"], "sha1": [""], "phash": [""]}
    columns |= {"offset": [512], "size": [1], "crc32": [0], "width": [1], "height": [1]}
    table = pa.table(columns | changes)
    fields = [pa.field("path", pa.string()), *shards.PACKED_FIELDS]
    return table, fields


def write_index(folder, metadata, **changes):
    table, fields = index_bytes(**changes)
    kept = [field for field in fields if field.name in table.column_names]
    cast = table.select([field.name for field in kept]).cast(pa.schema(kept))
    Storage(folder).write(shards.INDEX, shards.parquet_bytes(cast, metadata))


def test_tar_and_python_read_what_was_written(tmp_path):
    data, placed = shards.write_tar(MEMBERS)
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    listed = subprocess.run(["tar", "tvf", path, "--numeric-owner"], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in listed.splitlines()] == [name for name, _ in MEMBERS]
    assert all("0/0" in line and "1970-01-01" in line for line in listed.splitlines())
    with tarfile.open(path) as tar:
        for member, info in zip(placed, tar, strict=True):
            assert (member.name, member.offset, member.size) == (info.name, info.offset_data, info.size)
    for member, (_, content) in zip(placed, MEMBERS, strict=True):
        assert data[member.offset : member.offset + member.size] == content
        assert member.crc32 == zlib.crc32(content)


def test_webdataset_reads_the_same(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    path = tmp_path / "nih-000000.tar"
    path.write_bytes(shards.write_tar(MEMBERS)[0])
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [(f"{sample['__key__']}.jpg", sample["jpg"]) for sample in samples] == MEMBERS


def test_the_same_images_make_the_same_bytes():
    assert shards.write_tar(MEMBERS)[0] == shards.write_tar(MEMBERS)[0]
    table, _ = index_bytes()
    assert shards.parquet_bytes(table, {"a": 1, "b": 2}) == shards.parquet_bytes(table, {"b": 2, "a": 1})


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "-a", "ä", "a" * 65, "a b"])
def test_names_that_would_be_split_are_refused(name):
    with pytest.raises(ShardError, match="letters"):
        shards.check_source_name(name)


def test_index_is_read_as_written(tmp_path):
    write_index(tmp_path, {"version": shards.FORMAT_VERSION, "size": 512})
    table = shards.read_index(tmp_path)
    assert table["offset"].to_pylist() == [512]
    assert shards.metadata_of(table.schema)["size"] == 512


def test_what_is_no_index_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ShardError, match=r"no index\.parquet"):
        shards.read_index(tmp_path)
    for metadata, message in [({"version": 2}, "format 2"), ({}, "format None")]:
        write_index(tmp_path, metadata)
        with pytest.raises(ShardError, match=message):
            shards.read_index(tmp_path)
    table, _ = index_bytes()
    Storage(tmp_path).write(shards.INDEX, shards.parquet_bytes(table.drop_columns(["phash"]), {"version": 1}))
    with pytest.raises(ShardError, match="no column"):
        shards.read_index(tmp_path)
    Storage(tmp_path).write(shards.INDEX, shards.parquet_bytes(table, {"version": 1})[:-9])
    with pytest.raises(ShardError, match="pack it again"):
        shards.read_index(tmp_path)


@settings(deadline=None)
@given(st.binary(max_size=40), st.floats(0, 1))
def test_damaged_indices_are_refused_or_read(tmp_path_factory, junk, where):
    folder = tmp_path_factory.mktemp("index")
    write_index(folder, {"version": 1})
    data = (folder / shards.INDEX).read_bytes()
    at = int(where * len(data))
    (folder / shards.INDEX).write_bytes(data[:at] + junk + data[at + len(junk) :])
    with contextlib.suppress(ShardError):
        shards.read_index(folder)


def test_files_of_a_storage_appear_whole_and_are_listed(tmp_path):
    storage = Storage(tmp_path / "new")
    assert storage.sizes("blocks") == {}
    storage.write("blocks/b", b"0123")
    storage.write("blocks/a", b"")
    assert storage.sizes("blocks") == {"a": 0, "b": 4}
    assert (storage.exists("blocks/a"), storage.exists("a")) == (True, False)
    assert (storage.read("blocks/b"), storage.read("blocks/b", 1, 3)) == (b"0123", b"12")
    with pytest.raises(ShardError, match="give an existing place"):
        storage.read("c")


def test_one_process_at_a_time_writes_and_sweeps_what_a_killed_one_left(tmp_path):
    storage = Storage(tmp_path)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / ".x.tar.00.part").write_bytes(b"half")
    with storage.locked():
        assert not list((tmp_path / "shards").iterdir())
        with pytest.raises(ShardError, match="another process"), Storage(tmp_path).locked():
            pass
    with storage.locked():
        pass


def test_places_of_no_known_kind_are_named():
    with pytest.raises(ShardError, match="nonsense"):
        Storage("nonsense://x/y")


def test_a_storage_in_memory_keeps_files():
    storage = Storage("memory://packed")
    storage.write("shards/a", np.arange(3, dtype=np.uint8).tobytes())
    assert storage.sizes("shards") == {"a": 3}
    assert storage.read("shards/a", 1, 2) == b"\x01"
    with storage.locked():
        pass
