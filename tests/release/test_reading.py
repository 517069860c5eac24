"""An encoder and a model are fed images that are read as those of their training were, whichever command feeds them."""

import base64
import io
import json
import logging
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

import cxrbase
from cxrbase.backbones import load_encoder, read_card
from cxrbase.cli import main
from cxrbase.data.canvas import to_canvas
from cxrbase.data.decode import decode_uint8
from cxrbase.data.pack import pack
from cxrbase.data.pack_image import ImageOptions
from cxrbase.data.reading import Reading
from cxrbase.errors import EncoderError, ModelError
from cxrbase.evaluation.classifier import Classifier
from cxrbase.evaluation.suite.feature_store import encoder_hash
from cxrbase.models import FeatureRange, Model, load_model, save_model
from cxrbase.release.demo.analysis import Analysis
from cxrbase.release.embed import embed
from cxrbase.release.explain import explain
from cxrbase.release.explain_images import explain_image
from cxrbase.release.explained import open_explained
from cxrbase.release.export import export
from cxrbase.release.overlay import write_overlay
from cxrbase.release.predict import predict
from cxrbase.views import centre_view
from cxrbase.weights import load_any_encoder

CLASSES = ["effusion", "nodule"]
OLD = "of an earlier version"
# What encoder.json says, and how its images are to be read.
SAID = {
    OLD: ({}, Reading()),
    "default": (Reading().values(), Reading()),
    "dicom": (Reading("dicom").values(), Reading("dicom")),
    "crop": (Reading(crop_borders=True).values(), Reading(crop_borders=True)),
    "both": (Reading("dicom", True).values(), Reading("dicom", True)),
}
each = pytest.mark.parametrize("name", SAID)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A DICOM file of 12 bits with a window that is narrower than its values, and a black border."""
    rows, columns = np.mgrid[:170, :200]
    stored = np.uint16(2000 + 900 * np.sin(rows / 20) + 900 * np.cos(columns / 30))
    stored = np.pad(stored, ((30, 50), (10, 40)))
    meta, data = FileMetaDataset(), Dataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.file_meta, data.Modality = meta, "DX"
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.Rows, data.Columns = stored.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.WindowCenter, data.WindowWidth = 2200, 900
    data.PixelData = stored.tobytes()
    path = tmp_path_factory.mktemp("image") / "a.dcm"
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="module")
def encoders(encoder_folder, tmp_path_factory):
    """The same weights with another card each."""
    root = tmp_path_factory.mktemp("encoders")
    for name, (said, _) in SAID.items():
        shutil.copytree(encoder_folder, root / name)
        (root / name / "encoder.json").write_text(json.dumps(read_card(encoder_folder) | said))
    return root


@pytest.fixture(scope="module")
def models(encoders, tmp_path_factory):
    """A probe of random weights on each encoder."""
    root = tmp_path_factory.mktemp("models")
    described = {"classes": CLASSES, "kind": "multilabel", "mode": "probe", "task": {"name": "t"}, "canvas_size": 64}
    described |= {"temperatures": [1.0, 1.0], "thresholds": [0.5, None]}
    limits = FeatureRange(torch.zeros(96), torch.ones(96), torch.eye(96), 1.0)
    for name in SAID:
        torch.manual_seed(0)
        network = Classifier(load_encoder(encoders / name), CLASSES, mode="probe").eval()
        save_model(root / name, Model(network, described | {"encoder": read_card(encoders / name)}, limits))
    return root


def view_of(image, name):
    """What the network is to be fed, decoded with the options spelled out."""
    reading = SAID[name][1]
    pixels = decode_uint8(image, window=reading.window, crop=reading.crop_borders, min_side=64)
    canvas, taken = to_canvas(pixels, 64)
    return centre_view(torch.from_numpy(canvas)[None, None], torch.tensor([taken]), out=32, mean=0.5, std=0.25)


def pixels_of(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def test_the_readings_give_different_images(image):
    views = [view_of(image, name) for name in ("default", "dicom", "crop", "both")]
    assert all((a - b).abs().mean() > 0.1 for number, a in enumerate(views) for b in views[:number])
    assert torch.equal(view_of(image, OLD), views[0])


@each
def test_embed(name, image, encoders, tmp_path):
    embed(str(encoders / name), [str(image)], out=tmp_path / "e.parquet", device="cpu")
    (row,) = pq.read_table(tmp_path / "e.parquet").to_pylist()
    with torch.inference_mode():
        tokens = load_encoder(encoders / name).forward_features(view_of(image, name))[0]
    assert row["cls"] == pytest.approx(tokens[0].tolist(), abs=1e-5)
    about = json.loads(pq.read_schema(tmp_path / "e.parquet").metadata[b"cxrbase"])
    assert Reading.of(about) == SAID[name][1]


@each
def test_predict_and_embed_of_a_model(name, image, models, tmp_path):
    view = view_of(image, name)
    (found,) = predict(models / name, [str(image)], device="cpu")
    model = load_model(models / name)
    with torch.inference_mode():
        assert list(found.probabilities.values()) == pytest.approx(model.probabilities(view)[0].tolist(), abs=1e-5)
        tokens = model.network.encoder.forward_features(view)[0]
    embed(str(models / name), [str(image)], out=tmp_path / "e.parquet", device="cpu")
    assert pq.read_table(tmp_path / "e.parquet")["cls"][0].as_py() == pytest.approx(tokens[0].tolist(), abs=1e-5)


@each
@pytest.mark.parametrize("kind", ["encoder", "model"])
def test_explain(kind, name, image, encoders, models, tmp_path):
    place = (encoders if kind == "encoder" else models) / name
    explain_image(str(place), image, out=tmp_path, methods=["gradient"])
    view, reading = view_of(image, name), SAID[name][1]
    opened = open_explained(str(place))
    found = explain(opened.network, view, method="gradient", score=opened.choose(view, None)[1])[0].numpy()
    whole = decode_uint8(image, window=reading.window, crop=reading.crop_borders)
    write_overlay(whole, np.asarray(found, np.float32), tmp_path / "expected.png", view=(32, 32))
    drawn, expected = (np.asarray(Image.open(tmp_path / f"{stem}.png")) for stem in ("gradient", "expected"))
    np.testing.assert_array_equal(drawn, expected)


@each
@pytest.mark.parametrize("kind", ["encoder", "model"])
def test_demo(kind, name, image, encoders, models):
    analysis = Analysis(str((encoders if kind == "encoder" else models) / name))
    view = view_of(image, name)[0, 0]
    expected = ((view - view.min()) / (view.max() - view.min()) * 255).byte().numpy()
    np.testing.assert_array_equal(pixels_of(analysis(image.read_bytes())["input"]), expected)


@each
def test_exports_state_it_as_values(name, encoders, tmp_path):
    values = SAID[name][1].values()
    for to, config in (("timm", "config.json"), ("hf", "preprocessor_config.json"), ("onnx", None), ("torch", None)):
        if to in ("onnx", "torch") and name != "both":
            continue  # they write nothing of their own about images
        export(str(encoders / name), to=to, out=tmp_path / to)
        card = json.loads((tmp_path / to / "encoder.json").read_text())
        (decoding, *_) = json.loads((tmp_path / to / "preprocessing.json").read_text())["steps"]
        for said in (
            card,
            decoding,
            *([json.loads((tmp_path / to / config).read_text())["decoding"]] if config else ()),
        ):
            assert {key: said[key] for key in values} == values
        assert str(SAID[name][1]) in (tmp_path / to / "README.md").read_text()
        assert Reading.of(load_any_encoder(str(tmp_path / to))[1]) == SAID[name][1]


def test_encoders_of_others_take_the_default():
    _, card = load_any_encoder("timm:test_vit")
    assert (card["window"], card["crop_borders"]) == ("percentile", False)


def test_the_hash_of_an_encoder_tells_readings_apart_and_is_that_of_before_where_it_is_the_default(encoders):
    hashes = {name: encoder_hash(*load_any_encoder(str(encoders / name))) for name in SAID}
    assert hashes[OLD] == hashes["default"]
    assert len(set(hashes.values())) == 4


@pytest.mark.parametrize("wrong", [{"window": "lung"}, {"crop_borders": 1}])
def test_an_unknown_reading_is_one_sentence(wrong, encoders, models, tmp_path):
    for name, place, file in (("e", encoders / OLD, "encoder.json"), ("m", models / OLD, "model.json")):
        shutil.copytree(place, tmp_path / name)
        card = json.loads((place / file).read_text())
        changed = card | wrong if name == "e" else card | {"encoder": card["encoder"] | wrong}
        (tmp_path / name / file).write_text(json.dumps(changed))
    with pytest.raises(EncoderError, match=r"no known way to read images: .* must be"):
        cxrbase.load_encoder(tmp_path / "e")
    with pytest.raises(ModelError, match=r"no known way to read images: .* must be"):
        load_model(tmp_path / "m")


def test_packed_images_of_another_reading_are_warned_of_once(image, encoders, models, tmp_path, caplog):
    shutil.copytree(image.parent, tmp_path / "images")
    pack([("folder", str(tmp_path / "images"))], tmp_path / "pack", options=ImageOptions(size=64), jobs=1)
    words = ["predict", str(tmp_path / "pack"), str(image), "--device", "cpu"]
    for name in SAID:
        for give in (
            lambda name=name: embed(str(encoders / name), [str(tmp_path / "pack")], out=tmp_path / f"{name}.parquet"),
            lambda name=name: main([*words, "--model", str(models / name), "--out", str(tmp_path / f"{name}.csv")]),
        ):
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                give()
            said = [record.message for record in caplog.records if "pack them again with" in record.message]
            assert said == SAID[name][1].unlike(Reading())
