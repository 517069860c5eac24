"""Packing on a Ray cluster and into object storage gives the files of one process on one disk."""

import threading

import numpy as np
import pytest
from PIL import Image

from cxrbase.cli import main
from cxrbase.data import shards
from cxrbase.data.datamodule import CXRDataModule
from cxrbase.data.shard_cache import shard_bytes
from cxrbase.data.shard_index import ShardIndex
from cxrbase.data.storage import Storage
from packs import make_pack, picture
from waiting import until

OPTIONS = ["--size", "32", "--block_rows", "2"]


def words(root, out, *more):
    return ["pack", "--source", "mine=folder", "--root", str(root), "--out", str(out), *OPTIONS, *more]


def content(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def whole(image_folder, tmp_path):
    """Every file of a run in one process."""
    assert main(words(image_folder, tmp_path / "whole", "--jobs", "1")) == 0
    return content(tmp_path / "whole")


@pytest.fixture
def bucket(monkeypatch):
    """A bucket of a real S3 server on this machine, and its client."""
    boto3 = pytest.importorskip("boto3")
    s3fs = pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="cxr")
    yield client
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_object_storage_gets_the_same_files_and_a_run_goes_on_there(image_folder, whole, bucket):
    assert main(words(image_folder, "s3://cxr/packed", "--jobs", "1")) == 0

    def objects():
        listed = bucket.list_objects_v2(Bucket="cxr", Prefix="packed/")["Contents"]
        return {entry["Key"].removeprefix("packed/"): entry for entry in listed}

    first = objects()
    bodies = {key: bucket.get_object(Bucket="cxr", Key=f"packed/{key}")["Body"].read() for key in first}
    assert bodies == whole
    for block in range(3):
        bucket.delete_object(Bucket="cxr", Key=f"packed/{shards.block_name('mine', block)}")
    assert main(words(image_folder, "s3://cxr/packed", "--jobs", "2")) == 0
    second = objects()
    assert second.keys() == first.keys()
    again = [shards.shard_name("mine", block) for block in range(3)]
    kept = [key for key in first if key.startswith("shards/") and key not in again]
    assert len(kept) == 17
    assert all(first[key]["LastModified"] == second[key]["LastModified"] for key in kept)
    assert len(shards.read_index("s3://cxr/packed")) == 40
    row = shards.read_index("s3://cxr/packed").to_pylist()[0]
    data = Storage("s3://cxr/packed").read(row["shard"], row["offset"], row["offset"] + row["size"])
    assert data[:2] == b"\xff\xd8"
    assert len(data) == row["size"]


@pytest.mark.parametrize("way", [{"decode_threads": 2}, {"num_workers": 2}], ids=["threads", "workers"])
def test_a_run_streams_from_object_storage_through_a_cache_that_holds_half_of_it(bucket, tmp_path, way):
    pack = make_pack(tmp_path / "pack", split=["train"] * 64)
    for name in content(pack):
        bucket.upload_file(str(pack / name), "cxr", f"pack/{name}")
    limit = 4 * (int(shard_bytes(ShardIndex(pack / "index.parquet")).max()) + 10240)
    place = {"cache_dir": str(tmp_path / "cache"), "cache_gb": limit / 1e9}
    every = ["train", "val", "test"]  # those too that are held out of a pack without val and test
    data = CXRDataModule("s3://cxr/pack", image_size=32, batch_size=8, pretrain_on=every, **place, **way)
    data.prepare_data()
    data.setup("fit")
    loader, paths = data.train_dataloader(), data.manifest.column("path")
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        rows = []
        for batch in loader:
            for image, (height, width), row in zip(*batch, strict=True):
                wanted = picture(int(paths[row].split("/")[1][:-4]))
                np.testing.assert_array_equal(image[0, :height, :width], wanted)
                rows.append(int(row))
            assert sum(status.st_size for _, status in data.store.place._files()) <= limit
        assert sorted(rows) == list(range(64))
    data.teardown("fit")


@pytest.mark.parametrize("url", ["s3://absent/packed", "s3://cxr/packed"])
def test_a_place_that_cannot_be_reached_is_named(image_folder, bucket, monkeypatch, capfd, url):
    if "cxr" in url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert main(words(image_folder, url, "--jobs", "1")) == 1
    assert url in capfd.readouterr().err.strip().splitlines()[-1]


def test_without_a_cluster_ray_says_what_to_do(image_folder, tmp_path, monkeypatch, capfd):
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Where Ray would find traces of a cluster that once ran here.
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert main(words(image_folder, tmp_path / "out", "--engine", "ray")) == 1
    assert "no Ray cluster" in capfd.readouterr().err


@pytest.fixture
def many(tmp_path):
    """Two hundred names of four images that take a while to decode."""
    root = tmp_path / "many"
    root.mkdir()
    noise = np.random.default_rng(0).integers(0, 2**16, (1200, 1200), np.uint16)
    for number in range(200):
        path = root / f"{number:03}.png"
        if number < 4:
            Image.fromarray(np.roll(noise, 37 * number, 0)).save(path, compress_level=1)
        else:
            path.hardlink_to(root / f"{number % 4:03}.png")
    return root


def finished(names):
    return sum(name.endswith(".parquet") for name in names if not name.startswith("."))


def pack_on_a_cluster_that_loses_a_node(root, out, done, ray, cluster):
    """Packs with Ray and kills one of two nodes after some blocks; `done` counts those there are."""
    killed = []
    node = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)

    def kill():
        until(lambda: done() >= 4)
        cluster.remove_node(node, allow_graceful=False)
        killed.append(done())

    threading.Thread(target=kill, daemon=True).start()
    assert main(words(root, out, "--engine", "ray")) == 0
    assert ray.get_runtime_context().gcs_address == cluster.address
    assert killed
    assert killed[0] < 100, "the node died after the work was done"
    # Ray strikes a killed node from its list only after some missed heartbeats.
    until(lambda: sum(entry["Alive"] for entry in ray.nodes()) == 1)


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_midway_gives_the_same_files(many, tmp_path, ray, cluster):
    assert main(words(many, tmp_path / "whole", "--jobs", "1")) == 0
    blocks = tmp_path / "out" / "blocks"

    def done():
        return finished(path.name for path in blocks.iterdir()) if blocks.exists() else 0

    pack_on_a_cluster_that_loses_a_node(many, tmp_path / "out", done, ray, cluster)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.slow
def test_so_it_does_into_object_storage(many, tmp_path, bucket, ray, cluster):
    assert main(words(many, tmp_path / "whole", "--jobs", "1")) == 0

    def objects(prefix="packed/"):
        pages = bucket.get_paginator("list_objects_v2").paginate(Bucket="cxr", Prefix=prefix)
        return [entry["Key"].removeprefix("packed/") for page in pages for entry in page.get("Contents", [])]

    def done():
        return finished(objects("packed/blocks/"))

    pack_on_a_cluster_that_loses_a_node(many, "s3://cxr/packed", done, ray, cluster)
    bodies = {key: bucket.get_object(Bucket="cxr", Key=f"packed/{key}")["Body"].read() for key in objects()}
    assert bodies == content(tmp_path / "whole")
