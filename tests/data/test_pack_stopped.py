"""Packing that is killed, runs out of disk or may not write goes on where it stopped, and loses and doubles nothing."""

import os
import resource
import shutil
import signal
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import JPEG2000Lossless

import warm
from children import children
from commands import REPOSITORY
from cxrbase.cli import main
from cxrbase.data import shards
from cxrbase.data.audit_images import open_set
from cxrbase.data.datamodule import CXRDataModule
from cxrbase.data.storage import Storage
from cxrbase.errors import ShardError
from cxrbase.evaluation.task import Task, TaskSource
from cxrbase.evaluation.task_data import task_manifest
from data.test_decode_dicom import data_set, j2k, saved, with_codestream
from waiting import until

IMAGES, ROWS = 48, 2


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    """Images that take some milliseconds each, two of them cut off."""
    root = tmp_path_factory.mktemp("originals")
    noise = np.random.default_rng(0).integers(0, 2**16, (700, 700), np.uint16)
    for number in range(IMAGES):
        Image.fromarray(np.roll(noise, 37 * number, 0)).save(root / f"{number:02}.png", compress_level=1)
    for name in ("11.png", "30.png"):
        (root / name).write_bytes((root / name).read_bytes()[:999])
    return root


@pytest.fixture(scope="module")
def whole(originals, tmp_path_factory) -> dict[str, bytes]:
    """Every file of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    assert main(words(originals, out, "--jobs", "1")) == 0
    return content(out)


def words(root, out, *more):
    options = ["--size", "64", "--block_rows", str(ROWS), "--max_bad", "0.1", *more]
    return ["pack", "--source", "mine=folder", "--root", str(root), "--out", str(out), *options]


def content(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# As a disk that is full: a limit on the size of files makes a write fail half-way.
_LIMITED = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_FSIZE, (7000, 7000))
runpy.run_module("cxrbase", run_name="__main__", alter_sys=True)
"""


def begin(*given, before=("-m", "cxrbase")):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return warm.Process([*before, *given], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def finished_shards(out):
    """State of the shards whose block is finished."""
    blocks = [path.stem for path in (out / "blocks").glob("[!.]*.parquet")] if (out / "blocks").is_dir() else []
    files = [out / "shards" / f"{block}.tar" for block in blocks]
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes()) for path in files if path.exists()}


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def kill_midway(given, out, more):
    """Kills the parent with SIGKILL once `more` further blocks are finished; its children must end by themselves."""
    before = len(finished_shards(out))
    process = begin(*given)
    until(lambda: len(finished_shards(out)) >= before + more, process)
    workers = children(process.pid)
    assert workers
    process.kill()
    assert process.wait() == -signal.SIGKILL
    until(lambda: not any(map(running, workers)), seconds=120)
    process.stderr.close()
    process.stdout.close()


def test_killed_twice_nothing_is_lost_doubled_or_written_again(originals, whole, tmp_path):
    given = words(originals, tmp_path, "--jobs", "2")
    for _ in range(2):
        kill_midway(given, tmp_path, 3)
    assert not (tmp_path / shards.INDEX).exists()
    done = finished_shards(tmp_path)
    assert 6 <= len(done) < IMAGES // ROWS
    assert main(words(originals, tmp_path, "--jobs", "1")) == 0
    assert done.items() <= finished_shards(tmp_path).items()
    assert content(tmp_path) == whole
    paths = shards.read_index(tmp_path)["path"].to_pylist()
    assert sorted(paths) == [f"mine/{number:02}.png" for number in range(IMAGES) if number not in (11, 30)]


def test_interrupted_it_stops_with_what_to_do_and_goes_on(originals, whole, tmp_path):
    process = begin(*words(originals, tmp_path, "--jobs", "2"))
    until(lambda: len(finished_shards(tmp_path)) >= 2, process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to go on where it stopped" in error
    assert main(words(originals, tmp_path, "--jobs", "1")) == 0
    assert content(tmp_path) == whole


def test_a_worker_that_is_killed_is_told_and_made_up_for(originals, whole, tmp_path):
    process = begin(*words(originals, tmp_path, "--jobs", "2"))
    until(lambda: finished_shards(tmp_path), process)
    for pid in children(process.pid):
        # Not the process of multiprocessing that watches over shared memory.
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
            break
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "fewer --jobs" in error.strip().splitlines()[-1]
    assert main(words(originals, tmp_path, "--jobs", "1")) == 0
    assert content(tmp_path) == whole


def test_a_full_disk_stops_it_with_what_to_do(originals, whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", disk], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        process = begin(*words(originals, disk / "out", "--jobs", "2"))
        _, error = process.communicate(timeout=120)
        assert process.returncode == 1
        last = error.strip().splitlines()[-1]
        assert "No space left on device" in last
        assert "free space" in last
        assert not list((disk / "out").rglob("*.part"))
        done = finished_shards(disk / "out")
        subprocess.run(["mount", "-o", "remount,size=30m", disk], check=True)
        assert main(words(originals, disk / "out", "--jobs", "1")) == 0
        assert done.items() <= finished_shards(disk / "out").items()
        assert content(disk / "out") == whole
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_limit_of_file_sizes_stops_it_with_what_to_do(originals, tmp_path):
    process = begin(*words(originals, tmp_path, "--jobs", "1"), before=("-c", _LIMITED))
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "raise the quota" in error.strip().splitlines()[-1]
    assert not list(tmp_path.rglob("*.part"))


@pytest.fixture
def half_reached(tmp_path):
    """A folder in whose blocks the last image was out of reach, for want of room to decode it; gives its options."""
    root = tmp_path / "some"
    root.mkdir()
    noise = np.random.default_rng(0).integers(1, 4096, (700, 700)).astype(np.uint16)
    for number in range(6):
        Image.fromarray(np.uint8(np.roll(noise, 37 * number, 0) // 16)[:90, :90]).save(root / f"{number}.png")
        data = with_codestream(data_set(noise, PixelPaddingValue=0), j2k(noise), JPEG2000Lossless)
        saved(root / f"{number}x.dcm", data)
    given = words(root, tmp_path / "out", "--jobs", "1", "--max_bad", "0.5")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        assert main(given) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert shards.read_index(tmp_path / "out")["path"].to_pylist() == [f"mine/{number}.png" for number in range(6)]
    return given


def test_an_index_is_gone_while_its_shards_are_written_again(half_reached, tmp_path, capfd):
    out = tmp_path / "out"
    shard = out / shards.shard_name("mine", 3)
    shard.unlink()
    (shard / "in the way").mkdir(parents=True)  # stops it half-way
    assert main(half_reached) == 1
    assert not (out / shards.INDEX).exists()
    unfinished = "whose packing did not finish: run cxrbase pack again"
    data = CXRDataModule(str(out), image_size=32, batch_size=4)
    for use in (data.prepare_data, lambda: open_set(out), lambda: task_manifest(Task("t", "t", TaskSource(str(out))))):
        with pytest.raises(ShardError, match=unfinished):
            use()
    shutil.rmtree(shard)
    assert main(half_reached) == 0
    rows = shards.read_index(out).to_pylist()
    assert len(rows) == 12
    for row in rows:
        data = (out / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["size"]]
        assert zlib.crc32(data) == row["crc32"]


def test_a_finished_index_stays_while_another_source_is_added(originals, whole, tmp_path):
    assert main(words(originals, tmp_path, "--jobs", "1")) == 0
    index = tmp_path / shards.INDEX
    (tmp_path / shards.shard_name("more", 0)).mkdir()  # stops it at its first block
    assert main([*words(originals, tmp_path, "--jobs", "1"), "--source", "more=folder", "--root", str(originals)]) == 1
    assert index.read_bytes() == whole[shards.INDEX]


def test_a_folder_without_permission_is_named_with_what_to_do(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        with pytest.raises(ShardError, match=r"Permission denied.*change its permissions"):
            Storage(closed).write("shards/a.tar", b"")
        with pytest.raises(ShardError, match="Permission denied"), Storage(closed / "out").locked():
            pass
    finally:
        os.seteuid(user)
