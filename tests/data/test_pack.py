"""What is packed is what was read: pixels, places, columns and reasons, the same however it was done."""

import csv
import io
import json
import re
import zlib

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxrbase.cli import main
from cxrbase.data import shards
from cxrbase.data.decode import decode_uint8
from cxrbase.data.fingerprint import perceptual_hash, pixel_sha1
from cxrbase.data.manifest import Manifest
from cxrbase.data.pack import pack
from cxrbase.data.pack_block import BlockTask, pack_block
from cxrbase.data.pack_image import ImageOptions, encode, resize_short_side
from cxrbase.data.pack_index import finished
from cxrbase.data.sources.catalogue import SOURCES
from cxrbase.data.storage import Storage
from cxrbase.errors import ConfigError, ManifestError, ShardError
from data.sources.trees_large import MAKERS
from data.sources.trees_small import TREES

SMALL = ImageOptions(size=32)
LAYOUTS = {**MAKERS, **TREES}


def content(folder):
    """Bytes of every file, by name."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def run(*words):
    return main(["pack", *map(str, words)])


def images_of(folder):
    """Index rows and the images at the places they name."""
    for row in shards.read_index(folder).to_pylist():
        data = (folder / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["size"]]
        assert zlib.crc32(data) == row["crc32"]
        with Image.open(io.BytesIO(data)) as image:
            yield row, np.asarray(image)


@pytest.fixture
def folder(image_folder, tmp_path):
    """The small images, one of them cut off and one of another depth, with a manifest."""
    root = tmp_path / "originals"
    root.mkdir()
    for path in image_folder.glob("*.png"):
        (root / path.name).write_bytes(path.read_bytes())
    (root / "05.png").write_bytes((root / "05.png").read_bytes()[:60])
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 15).save(root / "06.png")
    rows = [
        f"{number:02}.png,p{number // 2},{'PA' if number % 3 else 'AP'},{number % 2},x{number}" for number in range(40)
    ]
    (root / "manifest.csv").write_text("\n".join(["path,patient_id,view_position,label_x,width", *rows]) + "\n")
    return root


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_layout_is_packed(name, tmp_path):
    LAYOUTS[name](tmp_path / "root")
    manifest = SOURCES[name].read(tmp_path / "root", partial=True)
    done = pack([(name, str(tmp_path / "root"))], tmp_path / "out", options=SMALL, max_bad=1, jobs=1, partial=True)
    index = Manifest.read(tmp_path / "out" / shards.INDEX)
    assert (done.images + done.refused, done.images) == (len(manifest), len(index))
    packed = {path.removeprefix(f"{name}/"): row for row, path in enumerate(index.column("path"))}
    for column in ("patient_id", "study_id", "view_position", "split", "age", "sex"):
        known = dict(zip(manifest.column("path"), manifest.column(column), strict=True))
        np.testing.assert_array_equal([known[path] for path in packed], index.column(column)[list(packed.values())])
    assert index.labels == manifest.labels


def test_images_are_the_originals_shrunk_and_the_index_says_what_they_are(folder, tmp_path):
    out = tmp_path / "out"
    words = ["--codec", "png", "--size", 32, "--max_bad", 0.05, "--jobs", 1, "--block_rows", 7]
    assert run("--source", "csv-manifest", "--root", folder, "--out", out, *words) == 0
    seen = 0
    for row, image in images_of(out):
        original = decode_uint8(folder / row["path"].removeprefix("csv-manifest/"), min_side=32)
        np.testing.assert_array_equal(image, resize_short_side(original, 32))
        assert (row["height"], row["width"]) == image.shape
        assert (row["sha1"], row["phash"]) == (pixel_sha1(image), perceptual_hash(image))
        assert row["original_width"] == f"x{int(row['path'][-6:-4])}"
        seen += 1
    assert seen == 39
    table = shards.read_index(out)
    places = list(zip(table["shard"].to_pylist(), table["offset"].to_pylist(), strict=True))
    assert places == sorted(places)
    metadata = shards.metadata_of(table.schema)
    assert (metadata["size"], metadata["codec"], metadata["quality"], metadata["images"]) == (32, "png", None, 39)
    index = Manifest.read(out / shards.INDEX)
    assert index.labels == ("x",)
    refused = list(csv.DictReader((out / "refused.csv").open()))
    assert [(row["source"], row["path"]) for row in refused] == [("csv-manifest", "05.png")]
    assert "damaged" in refused[0]["reason"]


def test_jpeg_quality_window_and_borders_reach_the_images(folder, tmp_path):
    padded = np.pad(np.full((40, 60), 200, np.uint8), ((10, 30), (0, 20)))
    Image.fromarray(padded).save(folder / "07.png")
    sizes = {}
    for name, words in {"low": ["--quality", 30], "high": ["--quality", 95], "crop": ["--crop_borders"]}.items():
        out = tmp_path / name
        words = [*words, "--window", "dicom", "--size", 32, "--max_bad", 1, "--jobs", 1]
        assert run("--source", "mine=folder", "--root", folder, "--out", out, *words) == 0
        sizes[name] = sum(row["size"] for row, _ in images_of(out))
        shapes = {row["path"]: image.shape for row, image in images_of(out)}
        assert shapes["mine/07.png"] == ((32, 48) if name == "crop" else (32, 32))
        metadata = shards.metadata_of(shards.read_index(out).schema)
        assert (metadata["window"], metadata["crop_borders"]) == ("dicom", name == "crop")
        assert "VOI LUT" in metadata["intensity"]
    assert sizes["low"] < 0.8 * sizes["high"]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(16, 40), st.integers(0, 2**32 - 1))
def test_shrinking_averages_the_area_below_each_pixel(height, width, size, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    small = resize_short_side(image, size)
    if min(height, width) <= size:
        np.testing.assert_array_equal(small, image)
        return
    assert min(small.shape) == size
    assert max(small.shape) == round(max(height, width) * size / min(height, width))
    # Cut into so many equal parts that each new pixel covers whole ones.
    fine = image.repeat(small.shape[0], 0).repeat(small.shape[1], 1).astype(float)
    exact = fine.reshape(small.shape[0], height, small.shape[1], width).mean((1, 3))
    assert np.abs(small - exact).max() <= 1.01


def test_jpeg_is_what_the_encoder_was_asked_for():
    image = np.random.default_rng(0).integers(0, 256, (64, 80), np.uint8)
    data = encode(image, ImageOptions(quality=70))
    reference = io.BytesIO()
    Image.fromarray(image).save(reference, "JPEG", quality=70)
    tables = [Image.open(io.BytesIO(file)).quantization for file in (data, reference.getvalue())]
    assert tables[0] == tables[1]
    with pytest.raises(ValueError, match="too long"):
        encode(np.zeros((1, 65_501), np.uint8), ImageOptions())
    assert (
        cv2.imdecode(np.frombuffer(encode(image, ImageOptions(codec="png")), np.uint8), -1).tolist() == image.tolist()
    )


def test_processes_do_not_change_a_byte_and_a_second_run_changes_nothing(folder, tmp_path, capfd):
    words = ["--source", "csv-manifest", "--root", folder, "--size", 32, "--max_bad", 0.05, "--block_rows", 6]
    assert run(*words, "--out", tmp_path / "one", "--jobs", 1) == 0
    assert run(*words, "--out", tmp_path / "two", "--jobs", 2) == 0
    assert content(tmp_path / "one") == content(tmp_path / "two")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "two" / "shards").iterdir()}
    assert run(*words, "--out", tmp_path / "two", "--jobs", 1) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "two" / "shards").iterdir()}
    assert content(tmp_path / "one") == content(tmp_path / "two")
    captured = capfd.readouterr()
    assert "nothing was left to do" in captured.out
    assert "packing" in captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", 48], "size=32"),
        (["--codec", "png"], "codec=jpeg"),
        (["--quality", 80], "quality=90"),
        (["--crop_borders"], "crop_borders=False"),
        (["--window", "dicom"], "window=percentile"),
        (["--block_rows", 9], "block_rows=6"),
        (["--exclude", "list.csv"], "exclusion lists"),
        (["--source", "other=folder", "--root", ".", "--quality", 80], "quality=90"),
    ],
)
def test_other_settings_are_refused_in_a_sentence(folder, tmp_path, capfd, monkeypatch, words, message):
    monkeypatch.chdir(folder)
    (folder / "list.csv").write_text("source,path\n,01.png\n")
    start = ["--source", "csv-manifest", "--root", folder, "--out", tmp_path / "out", "--max_bad", 0.05, "--jobs", 1]
    assert run(*start, "--size", 32, "--block_rows", 6) == 0
    before = content(tmp_path / "out")
    own = {"--size": 32, "--block_rows": 6}
    kept = [word for option, value in own.items() if option not in words for word in (option, value)]
    assert run(*start, *kept, *words) == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert "another --out" in error
    assert content(tmp_path / "out") == before


def test_other_images_and_fewer_sources_are_refused(folder, tmp_path):
    pair = [("mine=folder", str(folder)), ("csv-manifest", str(folder))]
    pack(pair, tmp_path, options=SMALL, max_bad=1, jobs=1)
    with pytest.raises(ShardError, match="also holds mine"):
        pack(pair[1:], tmp_path, options=SMALL, max_bad=1, jobs=1)
    (folder / "39.png").unlink()
    with pytest.raises(ShardError, match="other images of mine"):
        pack(pair, tmp_path, options=SMALL, max_bad=1, jobs=1, partial=True)


def test_going_on_with_other_code_is_warned_of(folder, tmp_path, package, caplog):
    def images(out):
        caplog.clear()
        return pack([("mine=folder", str(folder))], out, options=SMALL, max_bad=1, jobs=1, block_rows=8).new

    assert images(tmp_path / "a") == 40
    for path in ("decode_dicom.py", "pack_image.py"):
        (package / "data" / path).write_text("# other\n")
        assert images(tmp_path / "a") == 0
        assert not caplog.messages
        (tmp_path / "a/blocks/mine-000001.parquet").unlink()
        assert images(tmp_path / "a") == 8
        assert "begun for mine with another version of the code" in caplog.text
    # As earlier versions wrote them.
    plan = tmp_path / "a/plans/mine.json"
    plan.write_text(json.dumps({key: value for key, value in json.loads(plan.read_text()).items() if key != "code"}))
    (tmp_path / "a/blocks/mine-000001.parquet").unlink()
    assert images(tmp_path / "a") == 8
    assert not caplog.messages


def test_a_source_is_added_to_a_finished_pack(folder, tmp_path):
    pack([("csv-manifest", str(folder))], tmp_path / "a", options=SMALL, max_bad=1, jobs=1)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a" / "shards").iterdir()}
    both = [("csv-manifest", str(folder)), ("mine=folder", str(folder))]
    assert pack(both, tmp_path / "a", options=SMALL, max_bad=1, jobs=1).new == 40
    assert pack(both[::-1], tmp_path / "b", options=SMALL, max_bad=1, jobs=1).new == 80
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "a" / "shards").iterdir()
    }.items() >= times.items()
    index = Manifest.read(tmp_path / "a" / shards.INDEX)
    assert set(index.column("source")) == {"csv-manifest", "mine"}


def test_too_many_refused_images_stop_the_run_and_their_list_excludes_them(folder, tmp_path, capfd):
    words = ["--source", "csv-manifest", "--root", folder, "--size", 32, "--jobs", 1]
    assert run(*words, "--out", tmp_path / "a", "--max_bad", 0.02) == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert "1 of 40 images are refused, more than --max_bad=0.02" in error
    assert not (tmp_path / "a" / shards.INDEX).exists()
    assert "05.png" in (tmp_path / "a" / "refused.csv").read_text()
    assert run(*words, "--out", tmp_path / "b", "--max_bad", 0, "--exclude", tmp_path / "a" / "refused.csv") == 0
    assert len(Manifest.read(tmp_path / "b" / shards.INDEX)) == 39
    assert run(*words, "--out", tmp_path / "a", "--max_bad", 0.025) == 0
    assert len(Manifest.read(tmp_path / "a" / shards.INDEX)) == 39


def test_a_block_with_images_that_were_out_of_reach_is_tried_again(folder, tmp_path):
    table = Manifest.from_columns({"path": ["01.png", "05.png"]}, root=folder).table
    task = BlockTask(str(tmp_path), "mine", 0, str(folder), table, [0, 1], SMALL)
    (folder / "01.png").rename(folder / "away")
    assert len(pack_block(task).table) == 0
    assert finished(Storage(tmp_path), "mine", folder) == {}
    (folder / "away").rename(folder / "01.png")
    assert pack_block(task).table["path"].to_pylist() == ["mine/01.png"]
    record = finished(Storage(tmp_path), "mine", folder)[0]
    assert [entry["path"] for entry in record.facts["refused"]] == ["05.png"]


def test_refused_files_that_were_mended_are_packed(folder, tmp_path, capfd):
    words = ["--source", "mine=folder", "--root", folder, "--out", tmp_path / "a", "--size", 32, "--jobs", 1]
    words += ["--block_rows", 4]
    assert run(*words, "--max_bad", 0.02) == 1
    assert "mend these files and run again" in capfd.readouterr().err
    assert run(*words, "--max_bad", 0.025) == 0
    before = content(tmp_path / "a")
    assert run(*words, "--max_bad", 0.025) == 0
    assert "nothing was left to do" in capfd.readouterr().out
    assert content(tmp_path / "a") == before
    (folder / "05.png").write_bytes((folder / "06.png").read_bytes())
    assert run(*words, "--max_bad", 0.02) == 0
    index = Manifest.read(tmp_path / "a" / shards.INDEX).column("path").tolist()
    assert sorted(index) == [f"mine/{number:02}.png" for number in range(40)]
    changed = {name for name, data in content(tmp_path / "a").items() if before[name] != data}
    assert {name for name in changed if "/" in name} == {"shards/mine-000001.tar", "blocks/mine-000001.parquet"}


def test_a_block_of_an_earlier_version_without_states_stays_finished(folder, tmp_path):
    pack([("mine=folder", str(folder))], tmp_path, options=SMALL, max_bad=1, jobs=1)
    for path in (tmp_path / "blocks").iterdir():
        table = pq.read_table(path)
        facts = shards.metadata_of(table.schema)
        for entry in facts["refused"]:
            del entry["state"]
        path.write_bytes(shards.parquet_bytes(table, facts))
    (folder / "05.png").write_bytes((folder / "06.png").read_bytes())
    assert pack([("mine=folder", str(folder))], tmp_path, options=SMALL, max_bad=1, jobs=1).new == 0


def test_a_source_that_is_excluded_whole_stays_in_the_reports(folder, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/a.png").write_bytes((folder / "01.png").read_bytes())
    (tmp_path / "list.csv").write_text("source,path\nmore,a.png\n")
    both = [("mine=folder", str(folder)), ("more=folder", str(tmp_path / "more"))]
    packs = dict(options=SMALL, max_bad=1, jobs=1, exclude=[tmp_path / "list.csv"])
    assert pack(both, tmp_path / "out", **packs).images == 39
    assert "| more | 0 | 0 | 0 |" in (tmp_path / "out/report.md").read_text()
    assert set(Manifest.read(tmp_path / "out" / shards.INDEX).column("source")) == {"mine"}


def test_a_later_try_that_reaches_fewer_images_leaves_what_there_is(folder, tmp_path):
    names = ["01.png", "02.png", "03.png"]
    table = Manifest.from_columns({"path": names}, root=folder).table
    task = BlockTask(str(tmp_path / "out"), "mine", 0, str(folder), table, [0, 1, 2], SMALL)
    (folder / "01.png").rename(folder / "away1")
    assert len(pack_block(task).table) == 2
    before = content(tmp_path / "out")
    for name in ("02.png", "03.png"):
        (folder / name).rename(folder / f"away{name[1]}")
        assert pack_block(task).table["path"].to_pylist() == ["mine/02.png", "mine/03.png"]
        assert content(tmp_path / "out") == before
    # What the record does not fit is not kept.
    shard = tmp_path / "out" / shards.shard_name("mine", 0)
    shard.write_bytes(shard.read_bytes()[::-1])
    assert len(pack_block(task).table) == 0
    for name in names:
        (folder / f"away{name[1]}").rename(folder / name)
    assert len(pack_block(task).table) == 3


def test_lists_that_name_nothing_are_said_and_all_excluded_is_refused(folder, tmp_path, caplog):
    (tmp_path / "list.csv").write_text("source,path\nelse,01.png\n")
    pack(
        [("mine=folder", str(folder))],
        tmp_path / "a",
        options=SMALL,
        max_bad=1,
        jobs=1,
        exclude=[tmp_path / "list.csv"],
    )
    assert "name no image of mine" in caplog.text
    (tmp_path / "all.csv").write_text("path\n" + "".join(f"{number:02}.png\n" for number in range(40)))
    with pytest.raises(ManifestError, match="every image"):
        pack([("mine=folder", str(folder))], tmp_path / "b", options=SMALL, exclude=[tmp_path / "all.csv"])


def test_sources_that_are_no_manifest_together_are_refused_before_work(folder, tmp_path):
    for name, split, label in (("a", "train", "1"), ("b", "test", "1"), ("c", "train", "some text")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "01.png").write_bytes((folder / "01.png").read_bytes())
        (tmp_path / name / "manifest.csv").write_text(f"path,patient_id,split,label_x\n01.png,p,{split},{label}\n")
    sources = {name: (f"{name}=csv-manifest", str(tmp_path / name)) for name in "abc"}
    with pytest.raises(ManifestError, match="patient p is in split"):
        pack([sources["a"], sources["b"]], tmp_path / "out", options=SMALL)
    with pytest.raises(ManifestError, match="do not fit together"):
        pack([sources["a"], sources["c"]], tmp_path / "out", options=SMALL)
    with pytest.raises(ConfigError, match="given twice"):
        pack([sources["a"], sources["a"]], tmp_path / "out", options=SMALL)
    assert not (tmp_path / "out").exists()


def test_a_label_that_is_blank_throughout_in_one_source_is_unknown_beside_others(folder, tmp_path):
    """As of a CSV that was written from a template; a remark that nobody made is blank in the same way."""
    for name, number, label, remark in (("a", 1, "", "left"), ("b", 2, "1", ""), ("c", 3, "", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes((folder / f"0{number}.png").read_bytes())
        (tmp_path / name / "manifest.csv").write_text(f"path,label_tb,label_detail\n0.png,{label},{remark}\n")
    Manifest.from_columns({"path": ["0.png"], "label_detail": [np.nan]}, root=".").write(
        tmp_path / "c/manifest.parquet"
    )
    pack([(f"{name}=csv-manifest", str(tmp_path / name)) for name in "abc"], tmp_path / "out", options=SMALL)
    table = Manifest.read(tmp_path / "out" / shards.INDEX)
    assert table.labels == ("tb",)
    np.testing.assert_array_equal(table.column("label_tb"), [np.nan, 1, np.nan])
    assert table.column("label_detail").tolist() == ["left", "", ""]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "folder"], "needs its --root"),
        (["--max_bad", 2], r"max_bad must be in \[0, 1\]"),
        (["--size", 8], "size must be at least 16"),
        (["--quality", 101], "quality must be from 1 to 100"),
        (["--engine", "ray", "--jobs", 2], "--jobs is for the local engine"),
        (["--exclude", "absent.csv"], "no exclusion list"),
    ],
)
def test_mistakes_are_answered_with_a_sentence(folder, tmp_path, capfd, words, message):
    assert run("--source", "folder", "--root", folder, "--out", tmp_path / "out", *words) == 1
    assert re.search(message, capfd.readouterr().err)


def test_a_part_of_a_download_is_packed_on_request(tmp_path, capfd):
    MAKERS["nih"](tmp_path / "nih")
    words = ["--source", "nih", "--root", tmp_path / "nih", "--out", tmp_path / "out", "--size", 32, "--jobs", 1]
    assert run(*words, "--max_bad", 1) == 1
    assert "--partial" in capfd.readouterr().err
    assert run(*words, "--max_bad", 1, "--partial") == 0


def test_a_lost_or_damaged_block_is_packed_again(folder, tmp_path):
    packs = dict(options=SMALL, max_bad=1, jobs=1, block_rows=6)
    pack([("mine=folder", str(folder))], tmp_path, **packs)
    whole = content(tmp_path)
    (tmp_path / "shards" / "mine-000001.tar").unlink()
    (tmp_path / "shards" / "mine-000002.tar").write_bytes(b"short")
    (tmp_path / "blocks" / "mine-000004.parquet").write_bytes(b"junk")
    assert pack([("mine=folder", str(folder))], tmp_path, **packs).new == 18
    assert content(tmp_path) == whole


def test_reports_hold_counts_reasons_and_pictures_and_no_markup_of_names(folder, tmp_path):
    (folder / "<b>x|y*.png").write_bytes(b"junk")
    pack([("mine=folder", str(folder))], tmp_path, options=SMALL, max_bad=1, jobs=1)
    page, text = ((tmp_path / name).read_text() for name in ("report.html", "report.md"))
    assert page.count("data:image/png;base64,") == 2 + 8
    assert "<p>39 images" in page
    assert "http" not in page
    assert "&lt;b&gt;x|y*.png" in page
    assert r"&lt;b&gt;x\|y\*.png" in text
    assert "prefers-color-scheme: dark" in page
    facts = pq.read_schema(tmp_path / "blocks" / "mine-000000.parquet").metadata[shards.METADATA_KEY]
    assert sum(json.loads(facts)["histogram"]) > 0
