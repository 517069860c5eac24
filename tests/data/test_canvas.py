"""Canvases: geometry, the cache on disk, what is done about unreadable images, and workers."""

import fcntl
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from commands import REPOSITORY
from cxrbase.data.canvas import CanvasStore, to_canvas
from cxrbase.data.decode import decode, to_uint8
from cxrbase.data.manifest import Manifest
from cxrbase.errors import DecodeError, ManifestError


def smooth(height, width, period=11.0):
    rows, columns = np.mgrid[:height, :width]
    return np.uint8(127 + 60 * np.sin(rows / period) + 60 * np.cos(columns / period))


def fill(folder, count=6):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(smooth(80, 60 + 10 * number, 5.0 + number)).save(folder / f"{number}.png")
    return Manifest.from_folder(folder)


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def expect(manifest, row, size):
    return to_canvas(to_uint8(decode(manifest.paths[row])), size)


@pytest.mark.parametrize(("height", "width"), [(400, 200), (200, 400), (129, 128), (1000, 3), (64, 300)])
def test_the_aspect_ratio_is_kept_and_the_rest_is_zero(height, width):
    canvas, (tall, wide) = to_canvas(smooth(height, width), 64)
    assert canvas.shape == (64, 64)
    assert max(tall, wide) == 64
    assert abs(tall - 64 * height / max(height, width)) <= 0.5 or tall == 1
    assert abs(wide - 64 * width / max(height, width)) <= 0.5 or wide == 1
    assert not canvas[tall:].any()
    assert not canvas[:, wide:].any()


def test_small_images_are_not_enlarged():
    image = smooth(20, 33)
    canvas, taken = to_canvas(image, 64)
    assert taken == (20, 33)
    np.testing.assert_array_equal(canvas[:20, :33], image)


def test_shrinking_preserves_the_mean_and_does_not_alias():
    image = smooth(512, 384, 40.0)
    canvas, (tall, wide) = to_canvas(image, 64)
    assert (tall, wide) == (64, 48)
    blocks = image.reshape(64, 8, 48, 8).mean(axis=(1, 3))
    assert abs(canvas[:64, :48].mean() - image.mean()) < 0.5
    assert np.abs(canvas[:64, :48] - blocks).mean() < 1.5
    stripes = np.where(np.arange(512) % 2, 255, 0).astype(np.uint8)[None].repeat(512, 0)
    assert np.abs(to_canvas(stripes, 100)[0][5:-5, 5:-5].astype(float) - 127.5).max() < 12


def test_a_store_reads_what_decoding_gives(tmp_path):
    manifest = fill(tmp_path / "images")
    store = CanvasStore.open(manifest, size=64, cache_dir=tmp_path / "cache")
    assert len(store) == 6
    assert store.rows.tolist() == [0, 1, 2, 3, 4, 5]
    for row in range(6):
        pixels, taken = store.read(row)
        expected, size = expect(manifest, row, 64)
        np.testing.assert_array_equal(pixels, expected)
        assert taken == size


def test_the_second_opening_decodes_nothing(tmp_path):
    manifest = fill(tmp_path / "images")
    first = CanvasStore.open(manifest, size=64, cache_dir=tmp_path / "cache").read(2)[0].copy()
    before, status = files(tmp_path / "cache"), manifest.paths[2].stat()
    # Other bytes behind the same size and time: only a second decoding would notice.
    manifest.paths[2].write_bytes(bytes(status.st_size))
    os.utime(manifest.paths[2], ns=(status.st_atime_ns, status.st_mtime_ns))
    again = CanvasStore.open(manifest, size=64, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(again.read(2)[0], first)
    assert files(tmp_path / "cache") == before


def test_a_changed_file_another_size_and_another_order_are_noticed(tmp_path):
    manifest = fill(tmp_path / "images")
    CanvasStore.open(manifest, size=64, cache_dir=tmp_path / "cache")
    Image.fromarray(np.full((30, 30), 77, np.uint8)).save(manifest.paths[1])
    pixels, taken = CanvasStore.open(manifest, size=64, cache_dir=tmp_path / "cache").read(1)
    assert taken == (30, 30)
    assert (pixels[:30, :30] == 77).all()
    assert CanvasStore.open(manifest, size=32, cache_dir=tmp_path / "cache").read(0)[0].shape == (32, 32)
    backwards = Manifest.from_columns({"path": manifest.column("path")[::-1]}, root=manifest.root)
    store = CanvasStore.open(backwards, size=64, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(store.read(0)[0], expect(manifest, 5, 64)[0])


def test_unreadable_images_are_left_out_and_named(tmp_path, caplog):
    manifest = fill(tmp_path / "images")
    manifest.paths[3].write_bytes(b"nonsense")
    manifest.paths[5].unlink()
    store = CanvasStore.open(manifest, size=64, cache_dir=tmp_path / "cache", max_bad=0.34)
    assert store.rows.tolist() == [0, 1, 2, 4]
    assert len(store) == 6
    assert str(manifest.paths[3]) in caplog.text
    assert str(manifest.paths[5]) in caplog.text
    np.testing.assert_array_equal(store.read(4)[0], expect(manifest, 4, 64)[0])


def test_too_many_unreadable_images_are_refused_and_leave_nothing_behind(tmp_path):
    manifest = fill(tmp_path / "images")
    manifest.paths[3].write_bytes(b"nonsense")
    for _ in range(2):
        with pytest.raises(ManifestError, match="1 of 6 images are unreadable, more than") as raised:
            CanvasStore.open(manifest, size=64, cache_dir=tmp_path / "cache", max_bad=0.1)
        assert str(manifest.paths[3]) in str(raised.value)
    assert files(tmp_path / "cache") == {}


def test_every_opening_names_the_unreadable_images_and_judges_them_by_its_own_limit(tmp_path, caplog):
    manifest = fill(tmp_path / "images")
    manifest.paths[3].write_bytes(b"nonsense")
    for prepared in (False, True, False):
        caplog.clear()
        opened = CanvasStore.open(manifest, size=64, cache_dir=tmp_path / "cache", max_bad=0.2, prepared=prepared)
        assert opened.rows.tolist() == [0, 1, 2, 4, 5]
        said = caplog.text.count(f"left out: cannot read {manifest.paths[3]}: it is not an image")
        assert said == (0 if prepared else 1)
    before = files(tmp_path / "cache")
    with pytest.raises(
        ManifestError, match=r"1 of 6 images are unreadable, more than --data\.max_bad=0\.1 .*3\.png: it is not"
    ):
        CanvasStore.open(manifest, size=64, cache_dir=tmp_path / "cache", max_bad=0.1)
    assert files(tmp_path / "cache") == before


def test_a_lost_list_of_unreadable_images_is_made_again(tmp_path, caplog):
    manifest = fill(tmp_path / "images")
    manifest.paths[3].write_bytes(b"nonsense")
    for content in (b"", b"[1]", b"[{}]", None):
        CanvasStore.open(manifest, size=64, cache_dir=tmp_path / "cache", max_bad=0.2)
        (listed,) = (tmp_path / "cache").glob("*-unreadable.json")
        (entry,) = json.loads(listed.read_text())
        assert (entry["row"], entry["path"]) == (3, str(manifest.paths[3]))
        if content is None:
            listed.unlink()  # as a cache that an earlier version made
        else:
            listed.write_bytes(content)
    caplog.clear()
    CanvasStore.open(manifest, size=64, cache_dir=tmp_path / "cache", max_bad=0.2)
    assert f"left out: cannot read {manifest.paths[3]}: it is not an image" in caplog.text


@pytest.mark.parametrize("limit_gb", [8.0, 1e-6])
def test_what_the_operating_system_could_not_reach_is_tried_again(tmp_path, caplog, limit_gb):
    manifest = fill(tmp_path / "images")
    manifest.paths[3].write_bytes(b"nonsense")
    content = manifest.paths[4].read_bytes()
    state = out_of_reach(manifest.paths[4], len(content))
    options = {"size": 64, "cache_dir": tmp_path / "cache", "max_bad": 0.4, "limit_gb": limit_gb}
    for prepared in (False, False, True):
        caplog.clear()
        assert CanvasStore.open(manifest, **options, prepared=prepared).rows.tolist() == [0, 1, 2, 5]
        assert ("Is a directory" in caplog.text) != prepared
    with pytest.raises(ManifestError, match="2 of 6 images"):
        CanvasStore.open(manifest, **options | {"max_bad": 0.2}, prepared=True)
    shutil.rmtree(manifest.paths[4])
    manifest.paths[4].write_bytes(content.ljust(state.st_size, b"\0"))
    os.utime(manifest.paths[4], ns=(state.st_atime_ns, state.st_mtime_ns))
    before = files(tmp_path / "cache")
    # All processes of a run need the same rows, so only the first opening tries.
    assert CanvasStore.open(manifest, **options, prepared=True).rows.tolist() == [0, 1, 2, 5]
    assert files(tmp_path / "cache") == before
    for prepared in (False, True):
        back = CanvasStore.open(manifest, **options, prepared=prepared)
        assert back.rows.tolist() == [0, 1, 2, 4, 5]
        np.testing.assert_array_equal(back.read(4)[0], expect(manifest, 4, 64)[0])
    assert files(tmp_path / "cache").keys() == before.keys()


def out_of_reach(path, size):
    """Puts what the operating system does not read in the place of a file, and returns its state: size and time."""
    path.unlink()
    path.mkdir()
    for number in range(size):
        if path.stat().st_size >= size:
            break
        (path / f"{number}").touch()
    return path.stat()


def test_above_the_limit_images_are_decoded_on_access_to_the_same_pixels(tmp_path):
    manifest = fill(tmp_path / "images")
    manifest.paths[0].write_bytes(b"nonsense")
    kept = CanvasStore.open(manifest, size=64, cache_dir=tmp_path / "kept", max_bad=0.5)
    light = CanvasStore.open(manifest, size=64, cache_dir=tmp_path / "light", max_bad=0.5, limit_gb=1e-6)
    assert sum(path.stat().st_size for path in (tmp_path / "light").iterdir()) < 1000
    assert light.rows.tolist() == kept.rows.tolist() == [1, 2, 3, 4, 5]
    for row in kept.rows:
        np.testing.assert_array_equal(light.read(row)[0], kept.read(row)[0])
        assert light.read(row)[1] == kept.read(row)[1]
    manifest.paths[4].unlink()
    with pytest.raises(DecodeError, match=r"4\.png"):
        light.read(4)


def test_a_cache_that_cannot_be_written_is_refused_with_the_setting_to_change(tmp_path):
    manifest = fill(tmp_path / "images")
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(ManifestError, match=r"cannot write .* set --data\.cache_dir"):
            CanvasStore.open(manifest, size=64, cache_dir=place)


# Makes canvases; with a third word it is killed once it has decoded some.
_OPENS = """
import os, signal, sys
from pathlib import Path
from cxrbase.data.canvas import CanvasStore
from cxrbase.data.manifest import Manifest
from cxrbase.data.reading import Reading

class Killed(Reading):
    def __call__(self, path, **given):
        if path.name == "4.png":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(path, **given)

read = Killed() if len(sys.argv) > 4 else None
CanvasStore.open(Manifest.from_folder(Path(sys.argv[1])), size=int(sys.argv[3]), cache_dir=sys.argv[2], read=read)
"""


def opens(*words):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    given = [sys.executable, "-c", _OPENS, *map(str, words)]
    return subprocess.run(given, env=environment, capture_output=True, text=True, check=False)


def test_a_full_disk_is_said_with_the_setting_to_change(tmp_path):
    fill(tmp_path / "images")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        # 1.5 MB; in a process of its own, because writing to a mapped file on a full disk kills.
        done = opens(tmp_path / "images", disk / "cache", 512)
        assert done.returncode == 1
        assert "No space left on device): set --data.cache_dir to a folder with 0.00 GB" in done.stderr
        assert list((disk / "cache").iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_what_a_killed_maker_left_is_removed_and_what_a_living_one_fills_is_not(tmp_path):
    manifest = fill(tmp_path / "images")
    cache = tmp_path / "cache"
    assert opens(tmp_path / "images", cache, 64, "killed").returncode == -signal.SIGKILL
    (left,) = cache.iterdir()
    living = left.with_name(f"{left.name.removesuffix('.part')}0.part")
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        store = CanvasStore.open(manifest, size=64, cache_dir=cache)
        assert [path for path in cache.iterdir() if path.suffix == ".part"] == [living]
    np.testing.assert_array_equal(store.read(4)[0], expect(manifest, 4, 64)[0])


@pytest.mark.parametrize("limit_gb", [8.0, 1e-6])
def test_other_code_makes_canvases_again_in_the_place_of_the_old_ones(tmp_path, package, limit_gb):
    manifest = fill(tmp_path / "images")
    options = {"size": 64, "cache_dir": tmp_path / "cache", "max_bad": 0.5, "limit_gb": limit_gb}
    running = CanvasStore.open(manifest, **options)
    seen, status = running.read(2)[0].copy(), manifest.paths[2].stat()
    names = files(tmp_path / "cache").keys()
    # Other bytes behind the same size and time, which only decoding notices.
    manifest.paths[2].write_bytes(bytes(status.st_size))
    os.utime(manifest.paths[2], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert CanvasStore.open(manifest, **options).rows.tolist() == [0, 1, 2, 3, 4, 5]
    (package / "data/decode_image.py").write_text("# other\n")
    for _ in range(2):
        assert CanvasStore.open(manifest, **options).rows.tolist() == [0, 1, 3, 4, 5]
        assert files(tmp_path / "cache").keys() == names
    if limit_gb == 8.0:
        np.testing.assert_array_equal(running.read(2)[0], seen)
    # As earlier versions left them.
    (made_by,) = (tmp_path / "cache").glob("*-code.txt")
    made_by.unlink()
    assert CanvasStore.open(manifest, **options).rows.tolist() == [0, 1, 3, 4, 5]
    assert made_by.is_file()


def test_a_store_travels_to_workers_without_its_pixels(tmp_path):
    manifest = fill(tmp_path / "images", count=40)
    store = CanvasStore.open(manifest, size=128, cache_dir=tmp_path / "cache")
    first = store.read(7)[0].copy()
    packed = pickle.dumps(store)
    assert len(packed) < 20_000
    np.testing.assert_array_equal(pickle.loads(packed).read(7)[0], first)
    assert not store.read(7)[0].flags.writeable


def test_borders_are_cut_and_windows_of_files_used_where_asked_for(tmp_path):
    import pydicom
    from pydicom.data import get_testdata_file

    from cxrbase.data.decode import decode_uint8
    from cxrbase.data.reading import Reading

    framed = np.zeros((40, 40), np.uint8)
    framed[6:30, 4:36] = 90
    Image.fromarray(framed).save(tmp_path / "a.png")
    data = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    data.WindowCenter, data.WindowWidth = 1000, 200
    data.save_as(tmp_path / "b.dcm")
    manifest = Manifest.from_folder(tmp_path)
    plain = CanvasStore.open(manifest, size=128, cache_dir=tmp_path / ".c")
    asked = CanvasStore.open(
        manifest, size=128, cache_dir=tmp_path / ".c", read=Reading(window="dicom", crop_borders=True)
    )
    assert (plain.image(0).shape, asked.image(0).shape) == ((40, 40), (24, 32))
    expected = decode_uint8(tmp_path / "b.dcm", window="dicom", crop=True)
    np.testing.assert_array_equal(asked.image(1), expected)
    assert plain.image(1).shape != expected.shape or (plain.image(1) != expected).any()
    assert "black borders cut off" in asked.reading.convention
