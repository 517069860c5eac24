"""Exports open in the programs they are for, without this package, and give the features of the original."""

import hashlib
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save

import cxrbase
import warm
from cxrbase.cli import main
from cxrbase.errors import ConfigError, EncoderError
from cxrbase.release.export import export
from cxrbase.views import centre_view
from cxrbase.weights import load_any_encoder
from weight_files import eva_x

ALONE = "import sys; sys.modules['cxrbase'] = None\n"  # importing it fails from here on
FILES = {"model.safetensors", "encoder.json", "preprocessing.json", "README.md", "LICENSE", "SHA256SUMS"}


@pytest.fixture(scope="module")
def exported(encoder_folder, tmp_path_factory):
    """Folder of each export, made by the command line."""
    root = tmp_path_factory.mktemp("exports")
    for to in ("timm", "hf", "onnx", "torch"):
        assert main(["export", "--encoder", str(encoder_folder), "--to", to, "--out", str(root / to)]) == 0
    return root


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A smooth grey image that is not square, and the input that this package makes of it."""
    rows, columns = np.mgrid[:70, :96]
    grey = np.uint8(127 + 60 * np.sin(rows / 9) + 60 * np.cos(columns / 13))
    path = tmp_path_factory.mktemp("picture") / "grey.png"
    Image.fromarray(grey).save(path)
    canvas = torch.zeros(1, 1, 96, 96, dtype=torch.uint8)
    canvas[0, 0, :70] = torch.from_numpy(grey)
    return path, centre_view(canvas, torch.tensor([[70, 96]]), out=32, mean=0.5, std=0.25)


def alone(code, *words):
    """Runs code where this package cannot be imported, and returns the array that it writes."""
    run = warm.run(["-c", ALONE + code, *words])
    assert run.returncode == 0, run.stderr
    return np.load(words[-1])


def ours(encoder_folder, images):
    with torch.inference_mode():
        return cxrbase.load_encoder(encoder_folder).forward_features(images).numpy()


def check_prepared(theirs, encoder_folder, images):
    """Their input is ours but for 8-bit rounding and the whole pixel that they cut at; of it, features are ours."""
    prepared, mean = theirs
    difference = np.abs(prepared - images.numpy())
    assert difference.mean() < 0.08  # of about 4, the range of the input
    assert difference.max() < 0.5
    assert mean.mean() == pytest.approx(ours(encoder_folder, torch.from_numpy(prepared)).mean(), abs=1e-5)


def test_every_folder_has_what_a_user_needs_and_right_checksums(exported):
    for folder in exported.iterdir():
        held = {path.name for path in folder.iterdir()}
        assert held >= FILES
        sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
        assert set(sums) == held - {"SHA256SUMS"}
        for name, digest in sums.items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        assert "Apache License" in (folder / "LICENSE").read_text()
        assert "must not be used for diagnosis" in (folder / "README.md").read_text()


def test_load_encoder_reads_every_folder(exported, encoder_folder):
    images = torch.randn(2, 1, 32, 32)
    for folder in exported.iterdir():
        np.testing.assert_array_equal(ours(folder, images), ours(encoder_folder, images))


def test_timm_opens_the_folder_and_prepares_images_as_we_do(exported, encoder_folder, picture, tmp_path):
    path, images = picture
    code = """
import timm, torch, numpy, PIL.Image
model = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
images = transform(PIL.Image.open(sys.argv[2]))[None]
numpy.save(sys.argv[3], torch.stack([images, model.forward_features(images).detach().mean() + 0 * images]))
"""
    check_prepared(alone(code, exported / "timm", path, tmp_path / "out.npy"), encoder_folder, images)


def test_transformers_opens_the_folder_and_prepares_images_as_we_do(exported, encoder_folder, picture, tmp_path):
    path, images = picture
    code = """
import numpy, torch, PIL.Image
from transformers import AutoImageProcessor, AutoModel
model = AutoModel.from_pretrained(sys.argv[1]).eval()
processor = AutoImageProcessor.from_pretrained(sys.argv[1])
images = processor(PIL.Image.open(sys.argv[2]), return_tensors="pt")["pixel_values"]
found = model(pixel_values=images)
assert (found.pooler_output == found.last_hidden_state[:, 0]).all()
numpy.save(sys.argv[3], torch.stack([images, found.last_hidden_state.detach().mean() + 0 * images]))
"""
    check_prepared(alone(code, exported / "hf", path, tmp_path / "out.npy"), encoder_folder, images)


def test_transformers_opens_the_timm_folder_through_timm(exported, encoder_folder, tmp_path):
    images = torch.randn(3, 1, 32, 32)
    np.save(tmp_path / "in.npy", images)
    code = """
import numpy, torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1]).eval()
numpy.save(sys.argv[3], model(torch.from_numpy(numpy.load(sys.argv[2]))).last_hidden_state.detach())
"""
    theirs = alone(code, exported / "timm", tmp_path / "in.npy", tmp_path / "out.npy")
    np.testing.assert_allclose(theirs, ours(encoder_folder, images), atol=1e-5)


@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_programs_run_alone_at_any_batch_size(to, exported, encoder_folder, tmp_path):
    images = torch.randn(7, 1, 32, 32)
    np.save(tmp_path / "in.npy", images)
    code = {
        "onnx": """
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1] + "/encoder.onnx")
features, patches = session.run(None, {"images": numpy.load(sys.argv[2])})
""",
        "torch": """
import numpy, torch
features, patches = torch.export.load(sys.argv[1] + "/encoder.pt2").module()(torch.from_numpy(numpy.load(sys.argv[2])))
features, patches = features.detach(), patches.detach()
""",
    }[to] + "assert patches.shape == (7, 16, 32)\nnumpy.save(sys.argv[3], features)\n"
    theirs = alone(code, exported / to, tmp_path / "in.npy", tmp_path / "out.npy")
    tokens = ours(encoder_folder, images)
    np.testing.assert_allclose(theirs, np.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], 1), atol=1e-5)


def test_onnx_states_its_opset_and_a_free_batch(exported):
    import onnx

    model = onnx.load(exported / "onnx" / "encoder.onnx")
    assert [entry.version for entry in model.opset_import if not entry.domain] == [20]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_no_file_names_a_folder_of_this_machine(exported):
    package = str(cxrbase.__file__).rsplit("/", 2)[0].encode()
    for path in exported.rglob("*"):
        if path.is_file():
            held = path.read_bytes()
            assert package not in held, path
            assert str(exported).encode() not in held, path


def test_preprocessing_is_enough_to_make_the_input(exported, picture):
    path, images = picture
    steps = {step["step"]: step for step in json.loads((exported / "timm" / "preprocessing.json").read_text())["steps"]}
    grey = torch.from_numpy(np.asarray(Image.open(path), np.float32))
    top, left = (grey.shape[0] - 70) // 2, (grey.shape[1] - 70) // 2
    square = grey[top : top + 70, left : left + 70][None, None]
    size = (steps["resize"]["height"], steps["resize"]["width"])
    small = torch.nn.functional.interpolate(square, size, mode="bilinear", antialias=steps["resize"]["antialias"])
    found = (small / steps["scale"]["divide_by"] - steps["normalise"]["mean"]) / steps["normalise"]["std"]
    torch.testing.assert_close(found, images, atol=1e-4, rtol=0)


def test_licence_is_a_name_or_a_text(encoder_folder, tmp_path):
    (tmp_path / "terms.txt").write_text("ask first")
    export(str(encoder_folder), to="timm", out=tmp_path / "a", licence=str(tmp_path / "terms.txt"))
    assert (tmp_path / "a" / "LICENSE").read_text() == "ask first"
    words = ["export", "--encoder", str(encoder_folder), "--to=timm", f"--out={tmp_path / 'b'}"]
    assert main([*words, "--licence=cc-by-nc-4.0"]) == 0
    assert "CC-BY-NC-4.0" in (tmp_path / "b" / "LICENSE").read_text()
    assert "license: cc-by-nc-4.0" in (tmp_path / "b" / "README.md").read_text()
    export(str(encoder_folder), to="timm", out=tmp_path / "d", licence="mit or apache-2.0")
    assert "license: other\nlicense_name: MIT OR Apache-2.0\n" in (tmp_path / "d" / "README.md").read_text()
    for unknown in ("what / ever", "Apachee-2.0", "proprietary", ""):
        with pytest.raises(ConfigError, match="SPDX"):
            export(str(encoder_folder), to="timm", out=tmp_path / "c", licence=unknown)
    with pytest.raises(ConfigError, match=r"no file licence\.txt: give an existing one"):
        export(str(encoder_folder), to="timm", out=tmp_path / "c", licence="licence.txt")
    (tmp_path / "terms.txt").write_bytes(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"terms\.txt is no text of a licence: it is not UTF-8 .byte 0"):
        export(str(encoder_folder), to="timm", out=tmp_path / "c", licence=str(tmp_path / "terms.txt"))
    assert not (tmp_path / "c").exists()


def test_a_folder_that_holds_something_is_left_alone(encoder_folder, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        export(str(encoder_folder), to="timm", out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_transformers_refuses_what_its_vit_has_no_place_for(tmp_path):
    with pytest.raises(EncoderError, match="use --to timm"):
        export("timm:vit_small_patch14_reg4_dinov2", to="hf", out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_network_that_one_onnx_file_cannot_hold_is_refused_before_it_is_traced(encoder_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("cxrbase.release.export_graph._MOST_IN_ONNX", 1000)
    with pytest.raises(EncoderError, match="use --to torch"):
        export(str(encoder_folder), to="onnx", out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_eva_network_goes_to_timm(tmp_path):
    assert export("timm:eva02_tiny_patch14_224", to="timm", out=tmp_path / "out")["max_difference"] < 1e-6


def test_a_description_cannot_name_weights_elsewhere(exported, tmp_path):
    card = json.loads((exported / "timm" / "encoder.json").read_text())
    for name in ("../model.safetensors", "/etc/passwd", "weights.bin", 3, ""):
        (tmp_path / "encoder.json").write_text(json.dumps({**card, "weights": name}))
        with pytest.raises(EncoderError, match="beside the description"):
            cxrbase.load_encoder(tmp_path)


def test_an_export_of_eva_x_is_read_as_an_encoder(tmp_path):
    path, _, _ = eva_x(tmp_path)
    export(str(path), to="timm", out=tmp_path / "out")
    original, card = load_any_encoder(str(path))
    images = torch.randn(2, 1, card["image_size"], card["image_size"])
    for read in (cxrbase.load_encoder(tmp_path / "out"), load_any_encoder(str(tmp_path / "out"))[0]):
        assert read.has_class_token
        with torch.inference_mode():
            torch.testing.assert_close(read.forward_features(images), original.forward_features(images))


def test_a_description_of_what_is_no_vision_transformer_is_refused(tmp_path, encoder_folder):
    network = timm.create_model("resnet10t", in_chans=1, num_classes=0)
    (tmp_path / "encoder.safetensors").write_bytes(save(network.state_dict()))
    card = json.loads((encoder_folder / "encoder.json").read_text())
    card |= {"timm_name": "resnet10t", "timm_args": {"in_chans": 1, "num_classes": 0}}
    (tmp_path / "encoder.json").write_text(json.dumps(card))
    with pytest.raises(EncoderError, match="must be a Vision Transformer, 'resnet10t' is a ResNet"):
        cxrbase.load_encoder(tmp_path)
