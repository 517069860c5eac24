"""`cxrbase evaluate` from encoder files to rows and pictures, after a kill too, and its answers to mistakes."""

import json
import os
import signal
import subprocess
import time

import pytest
import torch

import warm
from commands import EXPERIMENTS, REPOSITORY
from cxrbase.backbones import create_backbone, save_encoder
from cxrbase.cli import main
from cxrbase.data.phantom import make_phantom
from cxrbase.errors import ConfigError
from cxrbase.evaluate_cli import settings_of
from cxrbase.evaluation.suite import feature_store
from cxrbase.evaluation.suite.score_task import Settings

SHAPE = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
PHANTOM = "{patients: 60, image_size: 48, seed: 5}"


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom") / "images"
    make_phantom(root, patients=60, image_size=48, seed=5, workers=1)
    return root


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    for seed, size in ((0, 32), (1, 48)):
        torch.manual_seed(seed)
        network = create_backbone("vit_tiny_patch16_224", image_size=size, options=SHAPE)
        arguments = {"in_chans": 1, "num_classes": 0, "img_size": size, **SHAPE}
        card = {
            "timm_name": "vit_tiny_patch16_224",
            "timm_args": arguments,
            "image_size": size,
            "mean": 0.5,
            "std": 0.2,
        }
        save_encoder(network, folder / f"enc{seed}", card)
    return folder


def words(phantom, out, *encoders, task="phantom", more=()):
    named = [word for one in encoders for word in ("--encoder", str(one))]
    return ["evaluate", *named, "--config", str(EXPERIMENTS / "task" / f"{task}.yaml"), "--out", str(out),
            f"--task.data.root={phantom}", "--task.data.phantom", PHANTOM, "--evaluate.resamples=20", "--device=cpu",
            "--evaluate.seeds=[0,1]", "--evaluate.protocols=[linear,linear-2shot]", *more]  # fmt: skip


def test_encoders_of_two_sizes_are_scored_on_the_same_splits(phantom, encoders, tmp_path, capsys, monkeypatch):
    assert main(words(phantom, tmp_path, encoders / "enc0", f"other={encoders}/enc1/encoder.safetensors")) == 0
    shown = capsys.readouterr().out
    assert "phantom, linear: enc0 - other" in shown
    rows = [json.loads(path.read_text()) for path in sorted((tmp_path / "results").glob("*.json"))]
    assert len(rows) == 2 * 3
    assert len({row["split_checksum"] for row in rows}) == 1
    assert {row["encoder"]["image_size"] for row in rows} == {32, 48}
    assert all(row["task"]["labels"] and row["counts"]["test"]["patients"] for row in rows)
    assert {"sex", "age", "view_position", "site"} <= set(
        next(row for row in rows if row["protocol"] == "linear")["subgroups"]
    )
    pairs = json.loads((tmp_path / "comparisons.json").read_text())
    assert {pair["protocol"] for pair in pairs} == {"linear", "linear-2shot"}
    pictures = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert {"phantom__roc", "phantom__precision_recall", "phantom__reliability", "phantom__label_efficiency",
            "phantom__confusion_enc0", "phantom__confusion_other"} == pictures  # fmt: skip
    text = "".join(path.read_text() for path in (tmp_path / "results").glob("*.json"))
    assert "p00" not in text  # no patient's id

    monkeypatch.setattr(feature_store, "extract_features", None)  # nothing is computed the second time
    assert main(words(phantom, tmp_path, encoders / "enc0", f"other={encoders}/enc1/encoder.safetensors")) == 0
    again = [json.loads(path.read_text()) for path in sorted((tmp_path / "results").glob("*.json"))]
    assert again == rows


def test_a_killed_run_goes_on_where_it_was(phantom, encoders, tmp_path, monkeypatch):
    command = ["-m", "cxrbase", *words(phantom, tmp_path, encoders / "enc0")]
    process = warm.Process(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list((tmp_path / "features").rglob("*.npy")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.npy")}
    assert kept
    assert main(words(phantom, tmp_path, encoders / "enc0")) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list((tmp_path / "results").glob("*.json"))) == 3
    assert not list(tmp_path.rglob("*.part"))


def test_settings_come_from_the_task_file_and_the_command_line_goes_before_it(tmp_path):
    task = tmp_path / "t.yaml"
    task.write_text("task: {}\nevaluate: {protocols: [knn], seeds: [5], threshold: f1, leave_out_seen: true}")
    found = settings_of(str(task), {"seeds": [1], "seen": "exact"})
    assert found == Settings(["knn"], [1], threshold="f1", leave_out_seen=True, seen="exact")
    for wrong in ("{protocolls: [knn]}", "{threshold: best}", "{resamples: many}"):
        task.write_text(f"task: {{}}\nevaluate: {wrong}")
        with pytest.raises(ConfigError, match="section evaluate"):
            settings_of(str(task), {})


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--encoder", "nowhere/encoder.safetensors"], "nowhere"),
        (["--encoder", "timm:vit_tyni"], "vit_tyni"),
        (["--config", "nowhere.yaml"], "no task file nowhere.yaml"),
        (["--device", "warp9"], "--device must be auto, cpu or a device that is there, got 'warp9'"),
        (["--device", "meta"], "--device must be"),
        (["--task.title=["], "--task.title must be a value in YAML, got '[': put text into quotes"),
        (["--task.title", "&a [*a]"], "write the value out in its place"),
        (["--task.title=2024-13-41"], "--task.title must be a value"),
        (["--evaluate.protocols=[linear-0shot]"], "a protocol is linear or knn"),
        (["--task.findings=[pneumonja]"], "pneumonja"),
        (["--task.splits.rename={val: train}", "--task.splits.val=0"], "no labelled image in split val"),
        (["--encoder", "other/enc0"], "two encoders are called enc0"),
        (["--task.data.root"], "needs a value"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(phantom, encoders, tmp_path, capsys, more, said):
    assert main(words(phantom, tmp_path, encoders / "enc0", more=more)) != 0
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in message
    assert "Traceback" not in message
