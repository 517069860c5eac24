"""Features of whatever is named, in order, the same as the encoder gives, and resumed after a kill."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import pausing
from cxrbase.backbones import load_encoder
from cxrbase.cli import main
from cxrbase.data.phantom import make_phantom
from cxrbase.errors import ConfigError, ManifestError
from cxrbase.release.embed import embed
from cxrbase.release.inputs import find_images
from cxrbase.release.warnings import image_warnings
from packs import make_pack


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom")
    return make_phantom(root, patients=12, image_size=80, seed=0, workers=1)


def test_a_manifest_of_every_format_in_order(phantom, encoder_folder, tmp_path, capsys):
    out = tmp_path / "emb.parquet"
    words = ["embed", "--encoder", str(encoder_folder), str(phantom), "--out", str(out), "--batch_size", "5"]
    assert main([*words, "--device", "cpu", "--threads", "2"]) == 0
    table = pq.read_table(out)
    manifest = pq.read_table(phantom)
    assert table["path"].to_pylist() == [str(phantom.parent / path) for path in manifest["path"].to_pylist()]
    assert {Path(path).suffix for path in table["path"].to_pylist()} == {".jpg", ".png", ".dcm"}
    assert f"{len(manifest)} images, " in capsys.readouterr().out
    digest = hashlib.sha256(Path(table["path"][0].as_py()).read_bytes()).hexdigest()
    assert table["sha256"][0].as_py() == digest
    assert set(os.listdir(tmp_path)) == {"emb.parquet"}


def test_features_are_those_of_the_encoder(encoder_folder, tmp_path):
    grey = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    embed(str(encoder_folder), [str(tmp_path / "a.png")], out=tmp_path / "emb.parquet")
    table = pq.read_table(tmp_path / "emb.parquet")
    images = (torch.from_numpy(grey).float()[None, None] / 255 - 0.5) / 0.25
    with torch.inference_mode():
        tokens = load_encoder(encoder_folder).forward_features(images)[0].numpy()
    np.testing.assert_allclose(table["cls"][0].as_py(), tokens[0], atol=1e-5)
    np.testing.assert_allclose(table["patch_mean"][0].as_py(), tokens[1:].mean(0), atol=1e-5)


def test_bad_files_are_listed_and_counted_and_the_order_is_kept(encoder_folder, image_folder, tmp_path):
    good = sorted(image_folder.glob("*.png"))[:3]
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (tmp_path / "empty.dcm").write_bytes(b"")
    names = [good[1], tmp_path / "bad.png", good[0], tmp_path / "empty.dcm", good[2]]
    done = embed(str(encoder_folder), [str(name) for name in names], out=tmp_path / "e.parquet", batch_size=2)
    table = pq.read_table(done.path)
    assert table["path"].to_pylist() == [str(name) for name in names]
    assert [bool(error) for error in table["error"].to_pylist()] == [False, True, False, True, False]
    assert [row is None for row in table["cls"].to_pylist()] == [False, True, False, True, False]
    assert (done.images, done.bad) == (5, 2)


def test_only_bad_files_make_a_table_without_features(encoder_folder, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no")
    done = embed(str(encoder_folder), [str(tmp_path / "bad.png")], out=tmp_path / "e.parquet")
    assert (done.images, done.bad) == (1, 1)


def test_folders_globs_and_files_are_found_once_and_sorted(image_folder):
    files = [str(path) for path in sorted(image_folder.glob("*.png"))]
    assert [item.name for item in find_images([str(image_folder)])] == files
    assert [item.name for item in find_images([files[3], str(image_folder / "*.png")])] == [
        files[3],
        *files[:3],
        *files[4:],
    ]
    for missing in ("nothing.png", "none/*.png"):
        with pytest.raises(ManifestError, match="no image"):
            find_images([str(image_folder / missing)])


def test_dicom_files_without_a_suffix_are_embedded(encoder_folder, phantom, tmp_path):
    """As an archive writes them: IM0001 in a folder for each study."""
    given = sorted(phantom.parent.rglob("*.dcm"))[:2]
    for number, path in enumerate(given):
        (tmp_path / "images" / f"ST{number}").mkdir(parents=True)
        shutil.copy(path, tmp_path / "images" / f"ST{number}" / "IM0001")
    (tmp_path / "images" / "DICOMDIR").write_bytes(given[0].read_bytes())
    (tmp_path / "images" / "README").touch()
    for named in (tmp_path / "images", tmp_path / "images" / "**" / "*"):
        out = tmp_path / f"{named.name == '*'}.parquet"
        embed(str(encoder_folder), [str(named)], out=out)
        table = pq.read_table(out)
        assert table["path"].to_pylist() == [str(tmp_path / "images" / f"ST{n}" / "IM0001") for n in (0, 1)]
        assert table["error"].to_pylist() == ["", ""]
        assert table["sha256"].to_pylist() == [hashlib.sha256(path.read_bytes()).hexdigest() for path in given]


def test_a_killed_job_goes_on_and_gives_the_same_table(encoder_folder, image_folder, tmp_path):
    words = ["embed", "--encoder", str(encoder_folder), str(image_folder), "--part", "2", "--batch_size", "2"]
    out, whole = tmp_path / "killed.parquet", tmp_path / "whole.parquet"
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    job = pausing.start([*words, "--out", str(out)], ".killed.parquet.parts/*.parquet", count=3, **streams)
    job.kill()
    assert job.wait() == -signal.SIGKILL
    assert not out.exists()
    other = tmp_path / "other"
    shutil.copytree(encoder_folder, other)
    card = json.loads((other / "encoder.json").read_text())
    (other / "encoder.json").write_text(json.dumps(card | {"mean": card["mean"] + 0.1}))
    with pytest.raises(ConfigError, match="other images or another encoder"):
        embed(str(other), [str(image_folder)], out=out, part=2, batch_size=2)
    done = embed(str(encoder_folder), [str(image_folder)], out=out, part=2, batch_size=2)
    assert (done.resumed, done.images) == (6, 40)
    embed(str(encoder_folder), [str(image_folder)], out=whole, part=2, batch_size=2)
    assert pq.read_table(out).equals(pq.read_table(whole))


def test_parts_of_another_job_are_refused(encoder_folder, image_folder, tmp_path):
    parts = tmp_path / ".e.parquet.parts"
    parts.mkdir()
    (parts / "job.json").write_text("{}")
    with pytest.raises(ConfigError, match="other images or another encoder"):
        embed(str(encoder_folder), [str(image_folder)], out=tmp_path / "e.parquet")


@pytest.mark.parametrize(("name", "said"), [("taken.parquet", "exists already"), ("emb.csv", "ends in .parquet")])
def test_out_must_be_new_and_parquet(name, said, encoder_folder, image_folder, tmp_path):
    (tmp_path / "taken.parquet").write_text("mine")
    with pytest.raises(ConfigError, match=said):
        embed(str(encoder_folder), [str(image_folder)], out=tmp_path / name)
    assert (tmp_path / "taken.parquet").read_text() == "mine"


@pytest.mark.parametrize("device", ["foo", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_answered_in_one_sentence(device, encoder_folder, image_folder, tmp_path, capsys):
    words = ["embed", "--encoder", str(encoder_folder), str(image_folder), "--out", str(tmp_path / "e.parquet")]
    assert main([*words, "--device", device]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert f"--device must be auto, cpu or a device that is there, got {device!r}" in said
    assert list(tmp_path.iterdir()) == []


def test_packed_images_are_found_and_read(encoder_folder, tmp_path):
    import io

    import pyarrow as pa

    from cxrbase.data.shards import FORMAT_VERSION, parquet_bytes, write_tar

    grey = [np.full((40, 40), value, np.uint8) + np.arange(40, dtype=np.uint8) for value in (10, 90)]
    members = []
    for number, image in enumerate(grey):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        members.append((f"s-{number:09d}.png", file.getvalue()))
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    data, placed = write_tar(members)
    (tmp_path / "pack" / "shards").mkdir(parents=True)
    (tmp_path / "pack" / "shards" / "s-000000.tar").write_bytes(data)
    columns = {"path": ["s/0.png", "s/1.png"], "shard": ["shards/s-000000.tar"] * 2}
    columns |= {name: pa.array([getattr(m, name) for m in placed], pa.int64()) for name in ("offset", "size", "crc32")}
    columns |= {name: pa.array([40, 40], pa.int32()) for name in ("width", "height")} | {
        "sha1": [""] * 2,
        "phash": [""] * 2,
    }
    index = tmp_path / "pack" / "index.parquet"
    index.write_bytes(parquet_bytes(pa.table(columns), {"version": FORMAT_VERSION}))
    for name in (index, index.parent):
        out = tmp_path / f"{name.name}.out.parquet"
        embed(str(encoder_folder), [str(name)], out=out)
        table = pq.read_table(out)
        assert table["path"].to_pylist() == ["s/0.png", "s/1.png"]
        embed(
            str(encoder_folder),
            [str(tmp_path / "0.png"), str(tmp_path / "1.png")],
            out=tmp_path / f"{name.name}f.parquet",
        )
        files = pq.read_table(tmp_path / f"{name.name}f.parquet")
        for column in ("cls", "patch_mean"):
            np.testing.assert_array_equal(np.array(table[column].to_pylist()), np.array(files[column].to_pylist()))


def test_a_damaged_or_missing_shard_costs_its_images_alone(encoder_folder, tmp_path):
    root = make_pack(tmp_path / "pack", source=["made"] * 16)
    shards = sorted((root / "shards").glob("*.tar"))
    index = pq.read_table(root / "index.parquet").to_pylist()
    content = bytearray(shards[0].read_bytes())
    first = next(row for row in index if row["shard"].endswith(shards[0].name))
    content[first["offset"] + first["size"] // 2] ^= 1  # such an image may still decode
    shards[0].write_bytes(content)
    shards[-1].rename(tmp_path / "gone.tar")
    out = tmp_path / "features.parquet"
    embed(str(encoder_folder), [str(root)], out=out)
    errors = dict(zip(*(pq.read_table(out)[name].to_pylist() for name in ("path", "error")), strict=True))
    lost = {row["path"] for row in index if row["shard"].endswith(shards[-1].name)}
    assert len(shards) > 1
    assert {path for path, error in errors.items() if error} == lost | {first["path"]}
    assert "another checksum" in errors[first["path"]]


def test_packs_whose_images_have_the_same_names_are_refused(tmp_path):
    roots = [make_pack(tmp_path / name, source=["made"] * 4) for name in ("one", "other")]
    assert len(find_images([str(roots[0])] * 2)) == 4
    with pytest.raises(ManifestError, match="both hold an image"):
        find_images([str(root) for root in roots])


def test_warnings_name_what_is_odd():
    rows, columns = np.mgrid[:300, :300]
    body = np.uint8(np.clip(220 - 0.012 * ((rows - 150) ** 2 + (columns - 150) ** 2), 0, 255))
    assert "perhaps inverted" not in image_warnings(body)
    assert "perhaps inverted" in image_warnings(255 - body)
    assert image_warnings(np.full((300, 300), 7, np.uint8)) == ("no contrast",)
    assert image_warnings(body[::4, ::4]) == ("small",)
    assert "elongated" in image_warnings(np.repeat(np.repeat(body, 4, 0), 1, 1))
    assert "black and white only" in image_warnings(np.uint8(255 * (body > 128)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_warnings_never_fail(height, width, seed):
    image_warnings(np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8))
