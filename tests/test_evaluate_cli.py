"""`cxrbase evaluate` from encoder files to rows and pictures, after a kill too, and its answers to mistakes."""

import json
import re
import shutil
import signal
import subprocess

import pyarrow as pa
import pytest
import torch
import yaml

import pausing
import task_runs
import warm
from commands import EXPERIMENTS, REPOSITORY
from cxrbase.backbones import create_backbone, save_encoder
from cxrbase.cli import main
from cxrbase.data.manifest import Manifest
from cxrbase.data.phantom import make_phantom
from cxrbase.errors import ConfigError
from cxrbase.evaluate_cli import chosen_settings, settings_of
from cxrbase.evaluation.suite import feature_store
from cxrbase.evaluation.suite.score_task import Settings
from task_runs import make_place

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


def words(phantom, out, *encoders, more=()):
    """Two of the eight findings, as every picture has a panel for each of them; the README's test scores all."""
    named = [word for one in encoders for word in ("--encoder", str(one))]
    return ["evaluate", *named, "--config", str(EXPERIMENTS / "task" / "phantom.yaml"), "--out", str(out),
            f"--task.data.root={phantom}", "--task.data.phantom", PHANTOM, "--task.findings=[effusion,nodule]",
            "--device=cpu", "--evaluate.resamples=20",
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
    said = ["--run", tmp_path, "--ran", "cxrbase evaluate", "--encoder", "enc0=a ViT", "--out", tmp_path / "kept.json"]
    kept = warm.run([REPOSITORY / "benchmarks" / "evaluate_rows.py", *said], cwd=REPOSITORY)
    assert kept.returncode == 0, kept.stderr
    result = json.loads((tmp_path / "kept.json").read_text())
    macro = [row["metrics"]["auroc"]["macro"]["value"] for row in rows]
    assert [row["auroc"]["value"] for row in result["rows"]] == pytest.approx(macro, abs=1e-4)
    assert len(result["besides_scores"]) == 2
    assert "benchmarks/evaluate_rows.py" in result["command"]

    monkeypatch.setattr(feature_store, "extract_features", None)  # nothing is computed the second time
    assert main(words(phantom, tmp_path, encoders / "enc0", f"other={encoders}/enc1/encoder.safetensors")) == 0
    again = [json.loads(path.read_text()) for path in sorted((tmp_path / "results").glob("*.json"))]
    assert again == rows


def trained_on(folder, encoder, phantom, paths):
    """A copy of an encoder whose run folder says that it was pretrained on some images."""
    run = shutil.copytree(encoder, folder)
    table = Manifest.from_columns({"path": paths, "split": ["train"] * len(paths)}, root=phantom)
    table.write(run / "seen.parquet")
    # All of them, as some of a set without val and test are held out for these.
    every = ["train", "val", "test"]
    data = {"root": str(phantom), "manifest": str(run / "seen.parquet"), "pretrain_on": every}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return run


def test_what_one_encoder_has_seen_is_left_out_for_all(phantom, encoders, tmp_path, capsys):
    paths = Manifest.read(phantom / "manifest.parquet").select("test").column("path").tolist()
    runs = [trained_on(tmp_path / name, encoders / "enc0", phantom, seen)
            for name, seen in {"a": paths[:3], "b": paths[2:6]}.items()]  # fmt: skip
    more = ["--evaluate.leave_out_seen=true", "--evaluate.seen=exact", "--evaluate.protocols=[linear]"]
    assert main(words(phantom, tmp_path / "out", *runs, encoders / "enc1", more=more)) == 0
    rows = {row["encoder"]["name"]: row for row in rows_of(tmp_path / "out").values()}
    assert {name: (row["seen_before"]["exact"], row["seen_before"]["left_out"]) for name, row in rows.items()} == {
        "a": (3, 6), "b": (4, 6), "enc1": (None, 6)}  # fmt: skip
    assert {row["counts"]["test"]["images"] for row in rows.values()} == {len(paths) - 6}
    assert len(json.loads((tmp_path / "out" / "comparisons.json").read_text())) == 3

    everything = trained_on(tmp_path / "c", encoders / "enc0", phantom, paths)
    assert main(words(phantom, tmp_path / "none", everything, encoders / "enc1", more=more)) == 1
    assert f"all {len(paths)} test images were seen" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "none" / "results").exists()


def rows_of(out):
    return {path.stem: json.loads(path.read_text()) for path in sorted((out / "results").glob("*.json"))}


def test_the_same_weights_under_two_names_are_two_encoders(phantom, encoders, tmp_path):
    named = [f"{name}={encoders / 'enc0'}" for name in "ab"]
    more = ["--evaluate.protocols=[linear]"]
    assert main(words(phantom, tmp_path, *named, encoders / "enc1", more=more)) == 0
    names = [tuple(pair["encoders"]) for pair in json.loads((tmp_path / "comparisons.json").read_text())]
    assert sorted(set(names)) == [("a", "b"), ("a", "enc1"), ("b", "enc1")]
    assert all(f"__{row['encoder']['name']}__" in name for name, row in rows_of(tmp_path).items())
    assert main(words(phantom, tmp_path, f"new={encoders / 'enc0'}", more=more)) == 0
    assert rows_of(tmp_path)["phantom__new__linear__seed0"]["encoder"]["name"] == "new"


def test_rows_are_made_again_once_it_is_known_what_was_seen(phantom, encoders, tmp_path):
    paths = Manifest.read(phantom / "manifest.parquet").select("test").column("path").tolist()
    run = trained_on(tmp_path / "run", encoders / "enc0", phantom, paths[:3])
    config = (run / "config.yaml").rename(run / "later.yaml")
    more = ["--evaluate.seen=exact", "--evaluate.protocols=[linear]"]
    for known in (None, 3):
        assert main(words(phantom, tmp_path / "out", run, more=more)) == 0
        (row,) = rows_of(tmp_path / "out").values()
        assert row["seen_before"]["exact"] == known
        if known is None:
            config.rename(run / "config.yaml")


def test_two_tasks_of_one_name_are_refused(phantom, encoders, tmp_path, capsys):
    twin = shutil.copy(EXPERIMENTS / "task" / "phantom.yaml", tmp_path / "twin.yaml")
    assert main(words(phantom, tmp_path, encoders / "enc0", more=["--config", str(twin)])) == 1
    assert "are both called phantom" in capsys.readouterr().err.splitlines()[-1]


def task_file(path, root):
    """A task on images elsewhere."""
    task = {"name": path.stem, "title": "T", "data": {"root": str(root)}, "findings": ["effusion", "nodule"]}
    path.write_text(yaml.safe_dump({"task": task}))
    return path


def test_a_task_without_images_is_named_and_the_others_are_scored(phantom, encoders, tmp_path, capfd):
    tasks = [task_file(tmp_path / f"{name}.yaml", root) for name, root in
             {"far": tmp_path / "far", "near": phantom}.items()]  # fmt: skip
    given = ["evaluate", f"--encoder={encoders / 'enc0'}", f"--encoder={encoders / 'enc1'}", "--device=cpu",
             f"--out={tmp_path / 'out'}", "--evaluate.protocols=[linear]", "--evaluate.resamples=20"]  # fmt: skip
    assert main([*given, *(f"--config={path}" for path in tasks)]) == 0
    assert f"far is not scored: no folder {tmp_path / 'far'}" in capfd.readouterr().err
    assert {row["task"]["name"] for row in rows_of(tmp_path / "out").values()} == {"near"}
    (pair,) = json.loads((tmp_path / "out" / "comparisons.json").read_text())
    assert pair["task"] == "near"

    tasks[1] = task_file(tmp_path / "farther.yaml", tmp_path / "farther")
    assert main([*given, *(f"--config={path}" for path in tasks)]) == 1
    said = capfd.readouterr().err.splitlines()[-1]
    assert "no task has images to score on" in said
    assert "farther" in said
    assert main([*given, f"--config={tasks[0]}"]) == 1
    assert "with manifest.parquet or manifest.csv" in capfd.readouterr().err.splitlines()[-1]


def test_a_malformed_task_is_an_error_before_any_is_scored(phantom, encoders, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    tasks = [task_file(tmp_path / "near.yaml", phantom), task_file(tmp_path / "empty.yaml", tmp_path / "empty")]
    given = ["evaluate", f"--encoder={encoders / 'enc0'}", f"--out={tmp_path / 'out'}", "--device=cpu"]
    assert main([*given, *(f"--config={path}" for path in tasks)]) == 1
    assert "task empty needs" in capfd.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out" / "results").exists()


def damaged(phantom, folder):
    """A copy of a phantom with three images that cannot be read."""
    shutil.copytree(phantom, folder, ignore=shutil.ignore_patterns(".canvas"))
    for path in Manifest.read(folder / "manifest.parquet").paths[:3]:
        path.write_bytes(b"not an image")
    return folder


def test_unreadable_images_are_allowed_for_by_the_option_that_is_named(phantom, encoders, tmp_path, capfd):
    task = task_file(tmp_path / "t.yaml", damaged(phantom, tmp_path / "images"))
    given = ["evaluate", f"--encoder={encoders / 'enc0'}", f"--config={task}", f"--out={tmp_path / 'out'}",
             "--device=cpu", "--evaluate.protocols=[linear]", "--evaluate.resamples=20"]  # fmt: skip
    assert main(given) == 1
    said = capfd.readouterr().err.splitlines()[-1]
    assert "3 of " in said
    option = re.search(r"allow for them by (--evaluate.max_bad=[0-9.]+)", said)[1]
    assert main([*given, option, "--evaluate.cache_gb=0"]) == 0
    (row,) = rows_of(tmp_path / "out").values()
    assert row["task"]["unreadable"] == 3
    assert {path.name.rpartition("-")[2] for path in (tmp_path / "out" / "canvas").glob("*.npy")} == {"sizes.npy"}
    key = row["key"]
    assert main([*given, "--evaluate.max_bad=0.5"]) == 0
    (row,) = rows_of(tmp_path / "out").values()
    assert row["key"] == key  # where images come from changes no score


def test_a_killed_run_goes_on_where_it_was(phantom, encoders, tmp_path):
    given = words(phantom, tmp_path, encoders / "enc0")
    process = pausing.start(given, "features/*/*.npy", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.npy")}
    assert len(kept) == 1  # of the three splits
    assert not (tmp_path / "results").exists()
    assert main(given) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list((tmp_path / "features").rglob("*.npy"))) == 3
    assert len(list((tmp_path / "results").glob("*.json"))) == 3
    assert not list(tmp_path.rglob("*.part"))


def test_a_corrected_manifest_is_scored_again(phantom, encoders, tmp_path):
    root = shutil.copytree(phantom, tmp_path / "images", ignore=shutil.ignore_patterns(".canvas"))
    command = words(root, tmp_path / "out", encoders / "enc0", more=["--evaluate.protocols=[linear]"])

    def groups():
        assert main(command) == 0
        row = json.loads(next((tmp_path / "out" / "results").glob("*.json")).read_text())
        return row["subgroups"].keys()

    assert "sex" in groups()
    manifest = Manifest.read(root / "manifest.parquet")
    index = manifest.table.column_names.index("sex")
    Manifest(manifest.table.set_column(index, "sex", pa.array(["F"] * len(manifest))), root).write(
        root / "manifest.parquet"
    )
    assert "sex" not in groups()  # of one sex alone there is nothing to compare


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
    ("said", "found"),
    [
        ([], {}),
        (["--evaluate.resamples=2000"], {"resamples": 2000}),
        (["--evaluate.seeds", "[7]"], {"seeds": [7]}),
        (["--evaluate.seeds+=9"], {"seeds": [0, 1, 2, 9]}),
        (["--evaluate.seeds=[5]", "--evaluate.seeds+=9"], {"seeds": [5, 9]}),
        (["--evaluate", '{"resamples": 7}'], {"resamples": 7}),
        (["--evaluate=settings.yaml"], {"resamples": 2000, "protocols": ["knn"]}),
        (["--evaluate", "settings.yaml", "--evaluate.resamples=9"], {"resamples": 9, "protocols": ["knn"]}),
    ],
)
def test_settings_count_in_whatever_form_they_are_given(tmp_path, monkeypatch, said, found):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.yaml").write_text("resamples: 2000\nprotocols: [knn]\n")
    assert chosen_settings(["--encoder=timm:vit_tiny_patch16_224", *said, "--config=t.yaml"]) == found


def test_settings_of_a_file_are_those_of_the_scores(phantom, encoders, tmp_path):
    (tmp_path / "settings.yaml").write_text("resamples: 11\nprotocols: [knn]\n")
    given = [word for word in words(phantom, tmp_path / "out", encoders / "enc0") if not word.startswith("--evaluate")]
    assert main([*given, "--evaluate", str(tmp_path / "settings.yaml")]) == 0
    (row,) = rows_of(tmp_path / "out").values()
    assert row["protocol"] == "knn"
    assert "95 % intervals of 11 " in row["protocol_text"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Runs of `cxrbase fit` on one task: two seeds of a probe and of an attentive probe, and one less resampled."""
    place = make_place(tmp_path_factory.mktemp("finished"))
    for mode in ("probe", "attentive"):
        for seed in (0, 1):
            more = [f"--finetune.mode={mode}", f"--finetune.seed={seed}", "--finetune.epochs=1"]
            assert main(task_runs.words(place, "pneumonia", *more, run=f"{mode}{seed}")) == 0
    more = ["--finetune.mode=probe", "--finetune.resamples=10", "--finetune.epochs=1"]
    assert main(task_runs.words(place, "pneumonia", *more, run="few")) == 0
    return place


def test_finished_runs_of_fine_tuning_are_compared_in_pairs(finished, tmp_path, capsys):
    given = ["evaluate", f"--out={tmp_path}", "--results"]
    assert main([*given, f"{finished}/probe0", f"full={finished}/attentive0"]) == 0
    (pair,) = json.loads((tmp_path / "comparisons.json").read_text())
    areas = []
    for run in ("probe0", "attentive0"):
        (path,) = (finished / run / "results").glob("*.json")
        areas.append(json.loads(path.read_text())["metrics"]["auroc"]["macro"]["value"])
    assert pair["encoders"] == ["probe0", "full"]
    assert pair["value"] == pytest.approx(areas[0] - areas[1])
    assert "pneumonia, fine-tuned: probe0 - full = " in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"pneumonia__{name}.png"
        for name in ("roc", "precision_recall", "reliability", "confusion_probe0", "confusion_full")
    }

    named = [f"{mode}={finished}/{mode}{seed}" for mode in ("probe", "attentive") for seed in (0, 1)]
    assert main([*given, *named]) == 0
    (pair,) = json.loads((tmp_path / "comparisons.json").read_text())
    assert (pair["encoders"], pair["seeds"]) == (["probe", "attentive"], 2)


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (["probe0"], "needs at least two runs of one task"),
        (["probe0", "probe=probe1", "probe=few", "probe=probe0"], "are both called probe and have the seed 0"),
        (["probe0", "few"], "numbers of resamples differ"),
        (["probe0", "attentive1"], "have no seed of fine-tuned"),
        (["probe0", "encoder"], "is not a finished run"),
        (["probe0", "attentive0", "--encoder=x", "--config=y"], "leave out --config, --encoder"),
        (["probe0", "attentive0", "--evaluate.resamples=20"], "leave out --evaluate.resamples"),
        (["probe0", "attentive0", "--evaluate.seeds=[0]", "--device=cpu"], "leave out --device, --evaluate.seeds"),
        (["probe0", "attentive0", "--task.data.root=/data"], "leave out --task.data.root"),
    ],
)
def test_runs_that_cannot_be_compared_are_answered_in_one_sentence(finished, tmp_path, capsys, runs, said):
    words = [run if run[0] == "-" else "=".join([*run.split("=")[:-1], f"{finished}/{run.split('=')[-1]}"])
             for run in runs]  # fmt: skip
    assert main(["evaluate", f"--out={tmp_path}", "--results", *words]) == 1
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_without_an_encoder_or_runs_it_says_what_is_needed(capsys):
    assert main(["evaluate", "--config=x.yaml"]) == 1
    assert "at least one --encoder and one --config, or finished runs" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--encoder", "nowhere/encoder.safetensors"], "nowhere"),
        (["--encoder", "timm:vit_tyni"], "vit_tyni"),
        (["--config", "nowhere.yaml"], "no task file nowhere.yaml"),
        (["--evaluate.max_bad=2"], "max_bad must be in [0, 1]"),
        (["--evaluate.cache_gb=-1"], "cache_gb at least 0"),
        (["--device", "warp9"], "--device must be auto, cpu or a device that is there, got 'warp9'"),
        (["--device", "meta"], "--device must be"),
        (["--task.title=["], "--task.title must be a value in YAML, got '[': put text into quotes"),
        (["--task.title", "&a [*a]"], "write the value out in its place"),
        (["--task.title=2024-13-41"], "--task.title must be a value"),
        (["--evaluate.protocols=[linear-0shot]"], "a protocol is linear or knn"),
        (["--task.findings=[pneumonja]"], "pneumonja"),
        (["--task.splits.rename={val: train}", "--task.splits.val=0"], "no labelled image in split val"),
        (["--encoder", "other/enc0"], "two encoders are called enc0"),
        (["--encoder", "a b=enc0", "--encoder", "a_b=enc1"], "two encoders are called a_b"),
        (["--task.data.root"], "needs a value"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(phantom, encoders, tmp_path, capsys, more, said):
    assert main(words(phantom, tmp_path, encoders / "enc0", more=more)) != 0
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in message
    assert "Traceback" not in message
