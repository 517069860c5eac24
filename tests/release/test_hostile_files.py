"""Damaged and hostile files end in our errors, without much memory, without code run, without files elsewhere."""

import json
import os
import pickle
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import cxrbase
import hostile_files as hostile
from commands import EXPERIMENTS
from cxrbase.data.decode import decode
from cxrbase.data.phantom import make_phantom
from cxrbase.errors import CXRBaseError, DecodeError, EncoderError
from cxrbase.weights import load_any_encoder

FUZZ = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory, encoder_folder):
    """Good files to damage, by reader."""
    root = tmp_path_factory.mktemp("seeds")
    manifest = make_phantom(root, patients=6, image_size=48, seed=0, workers=1)
    images = [(path.suffix, path.read_bytes()) for path in sorted((root / "images").iterdir())]
    images += [(".png", hostile.png_header(48, 48)), (".dcm", hostile.dicom(48, 48, pixels=b"\0" * 2 * 48 * 48))]
    return {
        "image": images,
        "manifest": [(".parquet", manifest.read_bytes()), (".csv", b"path,patient_id,split\na.png,1,train\n")],
        "encoder": [(path.suffix, path.read_bytes()) for path in sorted(encoder_folder.iterdir())],
        "pack": [(".parquet", manifest.read_bytes())],
        "config": [(".yaml", path.read_bytes()) for path in sorted((EXPERIMENTS / "task").glob("p*.yaml"))],
    }


@pytest.mark.parametrize("kind", hostile.READERS)
@FUZZ
@given(data=st.data())
def test_damaged_files_end_in_our_errors(kind, seeds, data):
    suffix, good = data.draw(st.sampled_from(seeds[kind]), label="file")
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6), label="changes")):
        place = data.draw(st.integers(0, max(len(damaged) - 1, 0)))
        damaged[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    cut = data.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))
    hostile.feed(kind, bytes(damaged[:cut]), suffix)


@pytest.mark.parametrize("kind", hostile.READERS)
@FUZZ
@given(data=st.binary(max_size=400), number=st.integers(0, 10))
def test_any_bytes_end_in_our_errors(kind, data, number):
    suffixes = hostile.READERS[kind][1]
    hostile.feed(kind, data, suffixes[number % len(suffixes)])


LIMIT = """
import resource, sys
from cxrbase.data.decode import decode
from cxrbase.errors import DecodeError
import pydicom, SimpleITK
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(sys.argv[1])
except DecodeError as error:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("wide.png", hostile.png_header(65_535, 65_535)),
        ("widest.png", hostile.png_header(2**31 - 1, 2**31 - 1)),
        ("bomb.png", hostile.png_header(60_000, 60_000, data=zlib.compress(b"\0" * 50_000_000, 9))),
        ("wide.dcm", hostile.dicom(65_535, 65_535)),
        ("frames.dcm", hostile.dicom(64, 64, frames=10**9)),
        ("short.dcm", hostile.dicom(9_999, 9_999)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_large_claims_take_no_memory(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    run = subprocess.run(
        [sys.executable, "-c", LIMIT, str(tmp_path / name)], capture_output=True, text=True, timeout=120, check=True
    )
    assert int(run.stdout) < 300, "MB"


def test_an_image_of_a_thousand_frames_is_refused(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), number, np.uint8)) for number in range(20)]
    frames[0].save(tmp_path / "many.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(DecodeError, match="frame"):
        decode(tmp_path / "many.tif")


class Evil:
    def __reduce__(self):
        return os.system, ("touch hacked",)


def test_weights_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"patch_embed.proj.weight": Evil()}))
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "encoder.json").write_text(json.dumps({"timm_name": "local-dir:" + str(tmp_path)}))
    for name in ("evil.pth", "evil.pt"):
        with pytest.raises(EncoderError):
            load_any_encoder(str(tmp_path / name))
    with pytest.raises(CXRBaseError):
        cxrbase.load_encoder(tmp_path)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "local-dir:/tmp", "../vit", "vit_tiny_patch16_224.nothing"])
def test_a_description_cannot_fetch_a_network(name, tmp_path, encoder_folder):
    card = json.loads((encoder_folder / "encoder.json").read_text())
    (tmp_path / "encoder.json").write_text(json.dumps({**card, "timm_name": name}))
    (tmp_path / "encoder.safetensors").write_bytes((encoder_folder / "encoder.safetensors").read_bytes())
    with pytest.raises(EncoderError):
        cxrbase.load_encoder(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        {"pretrained": True},
        {"checkpoint_path": "/etc/passwd"},
        {"depth": 10**6},
        {"embed_dim": 16_000, "num_heads": 1},
        {"img_size": 10**9},
    ],
    ids=str,
)
def test_a_description_cannot_load_other_files_or_fill_the_memory(arguments, tmp_path, encoder_folder):
    card = json.loads((encoder_folder / "encoder.json").read_text())
    (tmp_path / "encoder.json").write_text(json.dumps({**card, "timm_args": {**card["timm_args"], **arguments}}))
    (tmp_path / "encoder.safetensors").write_bytes((encoder_folder / "encoder.safetensors").read_bytes())
    with pytest.raises(EncoderError, match=r"may not hold|larger than|too small"):
        cxrbase.load_encoder(tmp_path)
