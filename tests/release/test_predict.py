"""Probabilities of a model folder, computed another way, with thresholds, warnings, and files that cannot be read."""

import csv
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import warm
from cxrbase.cli import main
from cxrbase.errors import ConfigError, ModelError
from cxrbase.evaluation.classifier import Features
from cxrbase.evaluation.lateral_check import LateralCheck
from cxrbase.models import save_model
from cxrbase.release.doubt import unproven
from cxrbase.release.embed import embed
from cxrbase.release.explain_images import explain_image
from cxrbase.release.export import export
from cxrbase.release.feature_warnings import LATERAL, UNLIKE, feature_warnings
from cxrbase.release.inputs import find_images
from cxrbase.release.predict import predict, write_predictions
from fine_tuned import CLASSES, TEMPERATURES, make_model, smooth, view_of, write_images
from waiting import until


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def model(encoder_folder, tmp_path_factory):
    return make_model(encoder_folder, tmp_path_factory.mktemp("run") / "model")


@pytest.mark.parametrize("kind", ["model", "encoder"])
def test_weights_that_are_not_finite_are_refused(kind, model, encoder_folder, images, tmp_path, capfd):
    place = shutil.copytree(model if kind == "model" else encoder_folder, tmp_path / "broken")
    file = place / ("model.safetensors" if kind == "model" else "encoder.safetensors")
    state = load_file(file)
    name = next(name for name, value in state.items() if value.is_floating_point())
    save_file(state | {name: torch.full_like(state[name], torch.nan)}, file)
    inputs, image = ["--device=cpu", str(images)], str(images / "00.png")
    commands = {
        "embed": [f"--encoder={place}", f"--out={tmp_path / 'e.parquet'}", *inputs],
        "explain": [f"--model={place}", f"--out={tmp_path / 'x'}", image],
        "predict": [f"--model={place}", f"--out={tmp_path / 'p.csv'}", *inputs],
        "export": [f"--encoder={place}", f"--out={tmp_path / 'o'}", "--to=timm"],
    }
    del commands["export" if kind == "model" else "predict"]
    for command, words in commands.items():
        assert main([command, *words]) == 1
        assert f"is no {kind}: 1 of {len(state)} tensors are not finite, first {name}" in capfd.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"broken"}


def test_probabilities_are_the_calibrated_ones_of_the_head(model, images):
    from cxrbase.models import load_model

    loaded = load_model(model)
    for found in list(predict(model, [str(images)], device="cpu"))[:3]:
        number = int(found.path[-6:-4])
        with torch.no_grad():
            tokens = loaded.network.encoder.forward_features(view_of(smooth(number)))
            logits = loaded.network.head.linear(loaded.network.head.features(tokens[:, 1:]))[0]
        expected = [float(1 / (1 + np.exp(-value / t))) for value, t in zip(logits.tolist(), TEMPERATURES, strict=True)]
        assert list(found.probabilities.values()) == pytest.approx(expected, abs=0.02)  # reduced decoding of the file
        assert found.present == {"effusion": found.probabilities["effusion"] >= 0.4, "nodule": None}
        assert UNLIKE not in found.warnings


def test_images_unlike_those_of_training_are_warned_of(model, images, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (140, 140), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    Image.fromarray(255 - smooth(0) // 2).save(tmp_path / "bright.png")
    far = list(predict(model, [str(tmp_path)], device="cpu"))
    assert all(UNLIKE in found.warnings for found in far)
    near = list(predict(model, [str(images)], device="cpu"))
    assert sum(UNLIKE in found.warnings for found in near) <= 2  # of 24, by a limit at their 99 %
    assert min(found.distance for found in far) > max(found.distance for found in near)


def test_a_distance_that_is_no_number_counts_as_far(model):
    from cxrbase.models import load_model

    loaded = load_model(model)
    width = loaded.network.encoder.embed_dim
    found, odd = feature_warnings(loaded, Features(torch.zeros(1, width), torch.full((1, 2 * width), torch.nan)))
    assert np.isnan(found[0])
    assert UNLIKE in odd[0]


def test_lateral_images_are_warned_of_by_predict_and_demo(model, images, tmp_path):
    from cxrbase.models import load_model
    from cxrbase.release.demo.analysis import Analysis

    loaded, kinds = load_model(model), [[smooth(n) for n in range(24)], [smooth(n) // 2 for n in range(24)]]
    with torch.no_grad():
        frontal, dark = (loaded.features(torch.cat([view_of(grey) for grey in kind])).pooled.numpy() for kind in kinds)
    check = LateralCheck.of(frontal, dark, frontal, dark)
    folder = save_model(tmp_path / "model", dataclasses.replace(loaded, laterals=check))
    Image.fromarray(kinds[1][3]).save(tmp_path / "dark.png")
    named = [str(images / "03.png"), str(tmp_path / "dark.png")]
    assert [LATERAL in found.warnings for found in predict(folder, named, device="cpu")] == [False, True]
    for place, wanted in ((folder, [False, True]), (model, [False, False])):
        analyse = Analysis(str(place))
        assert [LATERAL in analyse(Path(name).read_bytes())["warnings"] for name in named] == wanted


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_a_table_in_order_with_what_could_not_be_read(suffix, model, images, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no")
    named = [str(images / "03.png"), str(tmp_path / "bad.png"), str(images / "01.png")]
    out = tmp_path / f"out.{suffix}"
    words = ["predict", *named, "--model", str(model), "--out", str(out), "--batch_size", "2", "--threads", "1"]
    assert main([*words, "--device", "cpu"]) == 0
    rows = json.loads(out.read_text()) if suffix == "json" else list(csv.DictReader(out.open()))
    assert [row["path"] for row in rows] == named
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    if suffix == "csv":
        assert list(rows[0])[:5] == ["path", "effusion", "nodule", "present_effusion", "present_nodule"]
        assert rows[0]["present_nodule"] == rows[1]["effusion"] == ""
    else:
        assert rows[1]["probabilities"] is None
        assert set(rows[0]["probabilities"]) == set(CLASSES)
    assert re.search(r"3 images, \d with warnings, 1 could not be read", capsys.readouterr().out)


SCORES = {
    "effusion": {"value": 0.91, "low": 0.85, "high": 0.96},
    "nodule": {"value": 0.52, "low": 0.44, "high": 0.6},
}


def test_findings_that_were_not_told_from_chance_are_named(model, images, tmp_path, capsys):
    from cxrbase.models import load_model
    from cxrbase.release.demo.analysis import Analysis

    loaded = load_model(model)
    card = loaded.card | {"metrics": {"auroc": {"per_class": SCORES}}}
    folder = save_model(tmp_path / "model", dataclasses.replace(loaded, card=card))
    words = ["predict", str(images / "00.png"), "--out", str(tmp_path / "out.csv"), "--model"]
    said = "not shown to be better than chance on the model's own test patients: nodule (AUROC 0.520 [0.440, 0.600])"
    assert main([*words, str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"warning: {said}"
    assert said in Analysis(str(folder))((images / "00.png").read_bytes())["warnings"]
    assert unproven({"metrics": {"auroc": {"per_class": {"gout": {"value": None}}}}}) == ["gout (AUROC undefined)"]
    assert unproven({}) == []


def test_a_finding_that_was_not_learnt_has_no_probability(model, images, tmp_path):
    from cxrbase.models import load_model
    from cxrbase.release.demo.analysis import Analysis

    loaded, image = load_model(model), str(images / "00.png")
    folder = save_model(tmp_path / "model", dataclasses.replace(loaded, card=loaded.card | {"learnt": ["nodule"]}))
    (before,) = predict(model, [image], device="cpu")
    for suffix in ("csv", "json"):
        out = tmp_path / f"out.{suffix}"
        assert main(["predict", image, "--model", str(folder), "--out", str(out), "--device", "cpu"]) == 0
    (row,) = csv.DictReader((tmp_path / "out.csv").open())
    assert (row["effusion"], row["present_effusion"]) == ("", "")
    assert float(row["nodule"]) == pytest.approx(before.probabilities["nodule"], abs=1e-6)
    (found,) = json.loads((tmp_path / "out.json").read_text())
    assert found["probabilities"] == {"effusion": None, "nodule": before.probabilities["nodule"]}
    assert found["present"]["effusion"] is None
    shown = Analysis(str(folder))((images / "00.png").read_bytes())
    assert shown["probabilities"][0] == {"finding": "effusion", "value": None}
    assert shown["probabilities"][1]["value"] > 0
    assert shown["explained"] == "nodule"
    whole = Analysis(str(model))((images / "00.png").read_bytes())["probabilities"]
    assert all(row["value"] is not None for row in whole)
    with pytest.raises(ConfigError, match=r"learnt nothing about effusion.*; it learnt nodule"):
        explain_image(str(folder), image, out=tmp_path / "maps", finding="effusion")
    for wrong in (["gout"], 3):
        card = json.loads((folder / "model.json").read_text()) | {"learnt": wrong}
        (folder / "model.json").write_text(json.dumps(card))
        with pytest.raises(ModelError, match="does not fit"):
            load_model(folder)


@pytest.mark.parametrize("name", ["gradient.png", "overview.png"])
def test_maps_that_are_there_are_kept(name, model, images, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=rf"holds {name} already: give another --out"):
        explain_image(str(model), images / "00.png", out=tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_help_says_once_what_it_is_not_for(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    assert capsys.readouterr().out.count("diagnosis") == 1


def test_a_new_folder_is_made_and_a_device_or_image_that_is_not_there_leaves_none(model, images, tmp_path, capsys):
    words = ["predict", "--model", str(model), "--out", str(tmp_path / "new" / "folder" / "p.csv"), "--device"]
    assert main([*words, "foo", str(images)]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "--device must be auto, cpu or a device that is there, got 'foo'" in said
    assert main([*words, "auto", str(tmp_path / "nothing.png")]) == 1
    assert list(tmp_path.iterdir()) == []
    assert main([*words, "cpu", str(images)]) == 0
    assert len((tmp_path / "new" / "folder" / "p.csv").read_text().splitlines()) == 25


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_job_that_is_stopped_keeps_the_rows_that_it_has_made(sent, model, images, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(400):
        os.link(images / f"{number % 24:02}.png", tmp_path / "images" / f"{number:03}.png")
    out, whole = tmp_path / "killed.csv", tmp_path / "whole.csv"
    words = ["predict", tmp_path / "images", "--model", model, "--batch_size=1", "--threads=1", "--device=cpu", "--out"]
    job = warm.Process(["-m", "cxrbase", *words, out], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    part = tmp_path / "killed.csv.part"
    until(lambda: part.exists() and len(part.read_text().splitlines()) > 3, job)
    job.send_signal(sent)
    _, said = job.communicate(timeout=60)
    if sent == signal.SIGKILL:
        assert job.returncode == -sent
    else:
        assert job.returncode == 130
        assert said.splitlines()[-1].endswith(
            "stopped; <out>.part holds the rows so far: remove it and run the command again"
        )
    # Nothing that looks whole has the name of the table.
    assert not out.exists()
    kept = part.read_text()
    assert 3 < len(kept.splitlines()) < 400
    assert main([str(word) for word in (*words, whole)]) == 0
    assert whole.read_text().startswith(kept)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_job_that_could_read_no_image_is_a_failure(suffix, model, tmp_path, capsys):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"no")
    out, given = tmp_path / f"out.{suffix}", [str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--device=cpu"]
    command = ["predict", "--model"] if suffix == "csv" else ["embed", "--encoder"]
    assert main([*command, str(model), *given, f"--out={out}"]) == 1
    said = capsys.readouterr()
    assert "2 could not be read" in said.out
    assert f"none of the 2 images could be read: the column error of {out} says why" in said.err
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png", out.name}


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("s3://bucket/out", "--out must be on this machine, got s3://bucket/out"),
        ("{}/a.png/out", "as {}/a.png is a file: name a folder instead"),
        ("", "images must be named by a path, got ''"),
    ],
)
def test_places_that_cannot_be_meant_are_refused_before_work(out, said, model, images, tmp_path, capsys, monkeypatch):
    shutil.copy(images / "00.png", tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    image, of_model = "a.png" if out else "", ["--model", str(model)]
    commands = {
        "predict": [*of_model, image, "--out={}.csv"],
        "embed": ["--encoder", str(model), image, "--out={}.parquet"],
        "explain": [*of_model, image, "--out={}"],
        "export": ["--encoder", str(model), "--to=timm", "--out={}"],
    }
    for command, words in list(commands.items())[: 4 if out else 2]:
        place = out.format(tmp_path) or str(tmp_path / "new")
        assert main([command, *(word.replace("{}", place) for word in words)]) == 1
        assert said.replace("{}", str(tmp_path)) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("metrics", [None, 3, [], {"auroc": None}, {"auroc": {"per_class": {"nodule": 1}}}])
def test_figures_of_a_model_that_are_none_end_no_job(metrics):
    assert unproven({"metrics": metrics}) in ([], ["nodule (AUROC undefined)"])


def test_what_is_written_as_it_comes_is_what_json_writes(model, images):
    found = list(predict(model, [str(images)], device="cpu"))
    for rows in (found, found[:1], []):
        file = io.StringIO()
        assert write_predictions(iter(rows), CLASSES, file, form="json").images == len(rows)
        wanted = [vars(row) | {"warnings": list(row.warnings)} for row in rows]
        assert file.getvalue() == json.dumps(wanted, indent=2) + "\n"


def test_out_must_be_new(model, images, tmp_path):
    (tmp_path / "out.csv").write_text("mine")
    for name in ("out.csv", "out.txt"):
        with pytest.raises(SystemExit):
            main(["predict", str(images), "--model", str(model), "--out", str(tmp_path / name)])
    assert (tmp_path / "out.csv").read_text() == "mine"


def test_a_model_is_explained_by_finding(model, images, tmp_path):
    (item, *_) = find_images([str(images)])
    for finding in CLASSES:
        done = explain_image(str(model), item.path, out=tmp_path / finding, finding=finding)
        assert {row["finding"] for row in done} == {finding}
        with Image.open(tmp_path / finding / "overview.png") as page:
            assert page.width > 3 * page.height
    a, b = (np.asarray(Image.open(tmp_path / name / "gradient.png"), np.int16) for name in CLASSES)
    assert np.abs(a - b).max() > 5  # a frozen encoder still has a gradient, and it is of the finding
    chosen = explain_image(str(model), item.path, out=tmp_path / "best", methods=["rollout"])[0]["finding"]
    (found,) = predict(model, [item.path], device="cpu")
    assert chosen == max(found.probabilities, key=found.probabilities.get)
    with pytest.raises(ConfigError, match="no finding 'gout'; it has effusion, nodule"):
        explain_image(str(model), item.path, out=tmp_path / "x", finding="gout")


def test_features_of_a_model_are_those_of_its_encoder_and_serve_its_demo(model, images, tmp_path):
    from cxrbase.models import load_model
    from cxrbase.release.demo.analysis import Analysis

    embed(str(model), [str(images)], out=tmp_path / "e.parquet", device="cpu")
    row = pq.read_table(tmp_path / "e.parquet").to_pylist()[3]
    with torch.no_grad():
        tokens = load_model(model).network.encoder.forward_features(view_of(smooth(3)))[0]
    assert row["cls"] == pytest.approx(tokens[0].tolist(), abs=0.05)
    assert row["patch_mean"] == pytest.approx(tokens[1:].mean(0).tolist(), abs=0.05)
    found = Analysis(str(model), features=str(tmp_path / "e.parquet"))((images / "03.png").read_bytes())
    assert found["neighbours"][0]["name"] == "03.png"
    assert [row["finding"] for row in found["probabilities"]] == CLASSES


def test_what_is_no_model_or_no_single_image_is_one_sentence(model, encoder_folder, images, tmp_path, capsys):
    with pytest.raises(ModelError, match="holds an encoder, which knows no finding"):
        list(predict(encoder_folder, [str(images)]))
    with pytest.raises(ConfigError, match="is a fine-tuned model: export the encoder"):
        export(str(model), to="timm", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="is a folder: name a file in it"):
        explain_image(str(model), images, out=tmp_path / "maps")
    words = ["explain", str(images / "00.png"), "--model", str(model), "--out", str(tmp_path / "maps")]
    assert main([*words, "--methods=[rollout,gradient]", "--finding=nodule"]) == 0
    rollout, gradient = capsys.readouterr().out.splitlines()
    assert "rollout;" in rollout
    assert "gradient of nodule;" in gradient


def test_a_model_folder_cannot_fetch_a_network(model, images, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    card["encoder"]["timm_name"] = "hf-hub:someone/model"
    (tmp_path / "model" / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="must be a network of timm"):
        list(predict(tmp_path / "model", [str(images)]))
