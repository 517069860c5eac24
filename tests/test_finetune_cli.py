"""`cxrbase fit` on task files: a run on a tiny phantom, its options, its model folder, and its answers to mistakes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.special import expit
from sklearn.covariance import ledoit_wolf

from commands import EXPERIMENTS, REPOSITORY
from cxrbase.cli import main
from cxrbase.data.canvas import to_canvas
from cxrbase.data.decode import decode, to_uint8
from cxrbase.data.manifest import Manifest
from cxrbase.errors import ModelError
from cxrbase.evaluation.suite.results import read_result
from cxrbase.finetune_cli import _is_of_phantom
from cxrbase.models import FeatureRange, load_model
from cxrbase.release.doubt import unproven
from task_runs import SHAPE, make_place, words
from weight_files import eva_x


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("fit"))


@pytest.fixture(scope="module")
def run(place):
    assert main(words(place, findings=None)) == 0
    return place / "run"


def row_of(folder: Path) -> dict:
    (path,) = (folder / "results").glob("*.json")
    return read_result(path).row


def test_a_run_leaves_a_result_that_says_how_it_was_got(run):
    row = row_of(run)
    assert (row["protocol"], row["seed"], row["test_opened"]) == ("finetune", 0, 1)
    assert row["encoder"]["name"] == "encoder"
    assert len(row["encoder"]["hash"]) == len(row["split_checksum"]) == 64
    assert "chosen by validation" in row["protocol_text"]
    assert 1 <= row["best_epoch"] <= 2
    assert row["counts"]["train"]["images"] == row["train_images"]
    macro, left_out = row["metrics"]["auroc"]["macro"], row["metrics"]["auroc"]["resamples_left_out"]
    assert 0 <= macro["value"] <= 1
    # Of 14 images some findings are on one or two, which most of the 20 resamples lack.
    assert (macro["low"] is None) == (left_out > 10)
    assert left_out > 10 or 0 <= macro["low"] <= macro["high"] <= 1
    assert (run / "config.yaml").is_file()
    assert {"sex", "view_position"} <= set(row["subgroups"])
    told = row["shortcut"]["origin_from_features"]["site"]["auroc"]
    assert 0 <= told["low"] <= told["value"] <= told["high"] <= 1
    assert row["shortcut"]["label_from_origin"]["site"]
    assert row["seen_before"] is None
    assert "whether the encoder was pretrained on test images was not looked at (seen=off)" in row["warnings"]
    assert {path.name for path in (run / "figures").iterdir()} == {
        f"phantom__{name}.png" for name in ("roc", "precision_recall", "reliability", "confusion_encoder")}  # fmt: skip
    patients = {part: row["counts"][part]["patients"] for part in ("val", "test")}
    assert f"epoch, threshold and temperature are chosen on only {patients['val']} patients" in row["warnings"]
    assert f"scores and intervals are of only {patients['test']} patients" in row["warnings"]


def on_test(model, phantom):
    """Probabilities (N, K) of a model on the test images, and what it is fed."""
    manifest = Manifest.read(phantom / "manifest.parquet").select("test")
    canvases, sizes = zip(*(to_canvas(to_uint8(decode(p)), model.card["canvas_size"]) for p in manifest.paths),
                          strict=True)  # fmt: skip
    views = model.view(torch.from_numpy(np.stack(canvases))[:, None], torch.tensor(sizes))
    probabilities = model.probabilities(views).numpy()
    np.testing.assert_allclose(model.probabilities_of(model.features(views)).numpy(), probabilities, atol=1e-5)
    return probabilities, views


def test_the_model_folder_gives_the_probabilities_of_the_result(run):
    model = load_model(run)
    (path,) = (run / "results").glob("*.json")
    result = read_result(path)
    found, views = on_test(model, run.parent / "phantom")
    np.testing.assert_allclose(found, result.probabilities, atol=1e-5)
    found = expit(result.logits / np.array(model.card["temperatures"]))
    np.testing.assert_allclose(found, result.probabilities, atol=1e-12)
    assert model.classes == tuple(result.row["task"]["findings"])
    assert model.thresholds == tuple(result.row["metrics"]["threshold"].values())
    distance = model.range.distance(model.features(views).joined)
    assert distance.shape == (len(result.labels),)
    noise = model.range.distance(20 * torch.randn(5, 96))
    assert (noise > model.range.limit).all()


def test_the_card_of_a_model_names_findings_that_were_not_told_from_chance(run):
    doubtful = unproven(load_model(run).card)
    assert doubtful  # two epochs on a few images teach nothing
    assert f"on these patients:** {', '.join(doubtful)}." in (run / "model" / "README.md").read_text()


def test_the_card_of_a_model_tells_sources_groups_compute_and_the_licence_that_was_chosen(run, place):
    row, folder = row_of(run), run / "model"
    text = (folder / "README.md").read_text()
    counts = ", ".join(f"{row['counts'][split]['images']} {split}" for split in ("train", "val", "test"))
    assert re.search(rf"\| Simulated radiographs of cxrbase \| {counts} \| \d+ \| Apache-2.0 \|", text)
    assert sum(group["images"] for group in row["data"]["trained_on"]["groups"]["sex"].values()) == row["train_images"]
    assert "s on 1 x cpu, precision 32-true |" in text
    assert 0 < row["compute"]["wall_s"] < 600
    scored = [(variable, name, entry) for variable, found in row["subgroups"].items()
              for name, entry in found["groups"].items()]  # fmt: skip
    for variable, name, entry in scored:
        shown = {"view_position": "view", "age": "age in years"}.get(variable, variable)
        assert f"| {shown} | {name} | {entry['images']} | {entry['auroc']['value']:.3f} [" in text
    assert "license: unknown" in text
    assert not (folder / "LICENSE").exists()
    manifest = Manifest.read(place / "phantom" / "manifest.parquet")
    assert not any(patient in text for patient in set(manifest.column("patient_id")))
    assert str(place) not in text


def test_a_licence_is_written_beside_the_weights_and_a_wrong_one_refused_before_fitting(place, tmp_path, capsys):
    encoder = shutil.copytree(place / "encoder", tmp_path / "encoder")
    (encoder / "summary.json").write_text(json.dumps({"objective": "MAE", "images_seen": 4321}))
    (tmp_path / "terms.txt").write_text("only on Sundays")
    few = [f"--encoder={encoder}", "--finetune.mode=probe", "--finetune.epochs=1"]
    assert main(words(place, "phantom", *few, "--licence=two words", run="wrong")) == 1
    assert "an SPDX name such as" in capsys.readouterr().err
    assert not (place / "wrong").exists()
    for licence, name in ((str(tmp_path / "terms.txt"), "other"), ("CC-BY-NC-4.0", "cc-by-nc-4.0")):
        assert main(words(place, "phantom", *few, f"--licence={licence}", run=f"licence_{name}")) == 0
        text = (place / f"licence_{name}" / "model" / "README.md").read_text()
        assert text.startswith(f"---\nlicense: {name}\n")
        assert "| Objective | MAE |\n| Images seen | 4,321 |" in text
    assert (place / "licence_other" / "model" / "LICENSE").read_text() == "only on Sundays"


@pytest.mark.slow
def test_the_config_of_a_run_starts_the_same_run_again(run, place):
    assert main(["fit", f"--config={run / 'config.yaml'}", f"--run_dir={place / 'again'}"]) == 0
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (run, place / "again")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_folder_is_not_overwritten(run, place, capsys):
    assert main(words(place)) == 1
    assert "holds a model already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "options", "protocol"),
    [
        ("pneumonia", ["--finetune.mode=probe", "--finetune.threshold=f1"], "probe"),
        ("phantom", ["--finetune.mode=attentive", "--finetune.shots=2"], "attentive-2shot"),
        ("phantom_view", ["--finetune.mode=finetune", "--finetune.fraction=0.5", "--finetune.seed=3"], "finetune-50%"),
    ],
)
def test_modes_and_few_images_are_one_classifier(place, task, options, protocol):
    folder = place / protocol
    assert main(words(place, task, *options, run=protocol)) == 0
    row = row_of(folder)
    assert row["protocol"] == protocol
    if "shot" in protocol:
        assert row["train_images"] <= 2 * 2 * 8
    if "%" in protocol:
        assert row["train_images"] < 0.75 * row["counts"]["train"]["images"]
        assert row["seed"] == 3
    assert load_model(folder).card["mode"] == options[0].split("=")[1]
    assert row["settings"]["mode"] == load_model(folder).card["mode"]


def test_eva_x_is_fitted_to_a_task(place, tmp_path):
    path, _, _ = eva_x(tmp_path)
    more = [f"--encoder={path}", "--finetune.mode=finetune", "--finetune.epochs=1"]
    assert main(words(place, "phantom", *more, run="eva", encoder=None)) == 0
    assert load_model(place / "eva").card["encoder"]["format"] == "EVA-X"
    assert "Not recorded: ask the authors of the encoder." in (place / "eva" / "model" / "README.md").read_text()
    images, out = str(place / "phantom" / "images"), tmp_path / "features.parquet"
    assert main(["embed", "--encoder", str(place / "eva"), images, "--out", str(out), "--device=cpu"]) == 0


def test_every_other_option_is_taken(place, monkeypatch):
    made = []
    real = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda *args, **more: made.append(real(*args, **more)) or made[-1])
    options = {
        "batch_size": 5, "lr": 0.002, "min_lr": 0.1, "warmup": 0.3, "layer_decay": 0.8, "drop_path": 0.3,
        "weight_decay": 0.01, "betas": [0.8, 0.9], "smoothing": 0.2, "augment.flip": 0.5, "augment.scale": [0.4, 0.9],
        "image_size": 16, "canvas_size": 24, "num_workers": 1, "cache_dir": str(place / "cache"), "cache_gb": 0.5,
        "max_bad": 0.5, "devices": 1, "precision": "32-true", "resamples": 10, "epochs": 1,
    }  # fmt: skip
    given = [
        f"--finetune.{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()
    ]
    assert main(words(place, "phantom", *given, run="options")) == 0
    settings = row_of(place / "options")["settings"]
    for name, value in options.items():
        part, _, inner = name.partition(".")
        found = settings[part][inner] if inner else settings[part]
        assert found == value or list(found) == value
    assert load_model(place / "options").image_size == (16, 16)
    assert load_model(place / "options").card["canvas_size"] == 24
    assert any((place / "cache").iterdir())
    optimizer = made[-1]
    assert {tuple(group["betas"]) for group in optimizer.param_groups} == {(0.8, 0.9)}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.01}


def test_what_a_weight_file_does_not_say_is_given_on_the_command_line(place):
    weights = place / "bare" / "weights.safetensors"
    weights.parent.mkdir()
    shutil.copy(place / "encoder" / "encoder.safetensors", weights)
    more = ["--mean=0.4", "--std=0.3", "--patch_size=8", "--finetune.image_size=32", "--finetune.epochs=1"]
    assert main(words(place, "pneumonia", *more, run="bare_run", encoder="bare/weights.safetensors")) == 0
    card = load_model(place / "bare_run").card["encoder"]
    assert (card["mean"], card["std"], card["timm_args"]["patch_size"], card["image_size"]) == (0.4, 0.3, 8, 32)
    assert main(words(place, "pneumonia", "--mean=0.4", run="bare_no", encoder="bare/weights.safetensors")) == 1
    assert not (place / "bare_no").exists()


def test_a_site_that_is_the_label_and_images_that_were_seen_are_in_the_row(place, tmp_path):
    table = Manifest.read(place / "phantom" / "manifest.parquet")
    columns = {name: table.column(name) for name in ("path", "patient_id", "split", "label_effusion")}
    columns["site"] = np.where(columns["label_effusion"] == 1, "hill", "river")
    Manifest.from_columns(columns, root=place / "phantom").write(place / "phantom" / "linked.parquet")
    encoder = Path(shutil.copytree(place / "encoder", tmp_path / "own"))
    (encoder / "config.yaml").write_text(
        yaml.safe_dump({"data": {"root": str(place / "phantom"), "pretrain_on": ["train", "test"]}})
    )
    more = ["--task.data.phantom=null", "--task.data.manifest=linked.parquet", "--task.findings=[effusion]"]
    more += ["--finetune.epochs=1", "--finetune.mode=probe", "--finetune.seen=exact", f"--encoder={encoder}"]
    fixed = [word for word in words(place, encoder=None, run=tmp_path.name) if "data.phantom." not in word]
    assert main([*fixed, *more]) == 0
    row = row_of(place / tmp_path.name)
    assert any("the site of an image tells effusion" in text for text in row["warnings"])
    assert row["seen_before"]["exact"] == row["counts"]["test"]["images"]
    assert any("was pretrained on" in text for text in row["warnings"])


@pytest.fixture(scope="module")
def frontal_run(place):
    """A probe of few labels on PA alone, where AP images are called lateral, so that there are enough of them."""
    table = Manifest.read(place / "phantom" / "manifest.parquet")
    columns = {name: table.column(name) for name in ("path", "patient_id", "split", "view_position", "label_effusion")}
    columns["view_position"] = np.where(columns["view_position"] == "AP", "LATERAL", columns["view_position"])
    Manifest.from_columns(columns, root=place / "phantom").write(place / "phantom" / "sides.parquet")
    more = ["--task.data.phantom=null", "--task.data.manifest=sides.parquet", "--task.findings=[effusion]"]
    more += ["--task.views=[PA]", "--finetune.epochs=1", "--finetune.mode=probe", "--finetune.shots=3"]
    fixed = [word for word in words(place, run="frontal") if "data.phantom." not in word]
    assert main([*fixed, *more]) == 0
    return place / "frontal"


def test_a_model_of_frontal_images_learns_what_a_lateral_one_is(frontal_run):
    model, row = load_model(frontal_run), row_of(frontal_run)
    told = model.card["lateral_check"]
    assert told == row["lateral_check"] == model.laterals.to_dict()
    counts = row["counts"]
    assert row["train_images"] < counts["train"]["images"] == told["train"]["frontal"]
    assert told["val"]["frontal"] == counts["val"]["images"]
    manifest = Manifest.read(frontal_run.parent / "phantom" / "sides.parquet")
    lateral, patients = manifest.column("view_position") == "LATERAL", manifest.patients()
    known = lateral & np.isin(patients, patients[~lateral])
    for split in ("train", "val"):
        assert told[split]["lateral"] == int((known & (manifest.column("split") == split)).sum())
    page = (frontal_run / "model" / "README.md").read_text()
    assert f"of {told['val']['lateral']} lateral" in page
    assert str(frontal_run.parent) not in page


def test_a_model_of_all_views_says_that_they_are_not_checked(run, capsys):
    assert load_model(run).laterals is None
    assert row_of(run)["lateral_check"] == {"why_not": "the task keeps all views"}
    assert "views are not checked: the task keeps all views." in (run / "model" / "README.md").read_text()


def test_a_model_folder_without_the_lateral_check_is_read_and_a_damaged_one_refused(frontal_run, tmp_path):
    folder = Path(shutil.copytree(frontal_run / "model", tmp_path / "model"))
    card, weights = json.loads((folder / "model.json").read_text()), load_file(folder / "model.safetensors")
    name = "lateral_check.weight"
    for wrong in (weights[name][1:].clone(), weights[name] * torch.nan):
        save_file(weights | {name: wrong}, folder / "model.safetensors")
        with pytest.raises(ModelError, match="lateral check must have 32 finite weights"):
            load_model(folder)
    del weights[name]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match="does not fit"):
        load_model(folder)
    del card["lateral_check"]
    (folder / "model.json").write_text(json.dumps(card))
    assert load_model(folder).laterals is None


@pytest.mark.parametrize(
    ("views", "why"),
    [("[PA, LATERAL]", "learns from lateral images"), ("[PA, AP]", "lateral images of its training patients")],
)
def test_a_task_with_nothing_to_learn_laterals_from_says_why(place, views, why, request):
    run = f"no_{views[1:-1].replace(', ', '_')}"
    more = [f"--task.views={views}", "--finetune.mode=probe", "--finetune.epochs=1"]
    assert main(words(place, "phantom", *more, run=run)) == 0
    assert why in row_of(place / run)["lateral_check"]["why_not"]
    assert load_model(place / run).laterals is None


def test_a_multiclass_task_is_fitted_by_a_softmax(place, capsys):
    table = Manifest.read(place / "phantom" / "manifest.parquet")
    views = {"pa": "PA", "ap": "AP", "lateral": "LATERAL"}
    task = {"name": "views", "title": "three views", "data": {"root": "x"}, "kind": "multiclass",
            "findings": list(views),
            "targets": {name: {"column": "view_position", "positive": [view], "negative": []}
                        for name, view in views.items()}}  # fmt: skip
    (place / "views.yaml").write_text(yaml.safe_dump({"task": task}))
    more = [f"--config={place / 'views.yaml'}", f"--task.data.root={place / 'phantom'}", "--finetune.epochs=1"]
    assert main(["fit", *more, "--finetune.resamples=10", "--finetune.accelerator=cpu", f"--run_dir={place / 'mc'}",
                 f"--encoder={place / 'encoder'}"]) == 0  # fmt: skip
    row = row_of(place / "mc")
    assert sum(row["counts"]["test"]["positive"].values()) == int((table.column("split") == "test").sum())
    assert load_model(place / "mc").network.kind == "multiclass"
    (path,) = (place / "mc" / "results").glob("*.json")
    result = read_result(path)
    right = (result.probabilities.argmax(1) == result.labels.argmax(1)).mean()
    share = row["metrics"]["top1_accuracy"]["macro"]
    assert share["value"] == pytest.approx(right)
    assert share["low"] <= share["value"] <= share["high"]
    assert "top-1 acc." in capsys.readouterr().out
    assert result.macro["top1_accuracy"][0] == pytest.approx(right)
    np.testing.assert_allclose(result.probabilities.sum(1), 1)
    found, _ = on_test(load_model(place / "mc"), place / "phantom")
    np.testing.assert_allclose(found, result.probabilities, atol=1e-5)
    np.testing.assert_array_equal(found.argmax(1), result.logits.argmax(1))


def test_a_multiclass_model_of_a_temperature_for_each_class_is_refused(copy):
    card = json.loads((copy / "model.json").read_text())
    count = len(card["classes"])
    card |= {"kind": "multiclass", "temperatures": [1.5] * count}
    (copy / "model.json").write_text(json.dumps(card))
    model = load_model(copy)
    scores = torch.randn(4, count)
    torch.testing.assert_close(model.calibrated(scores).sigmoid(), (scores / 1.5).softmax(1))
    card["temperatures"][0] = 1.0
    (copy / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="fit the model again"):
        load_model(copy)


def test_without_an_encoder_the_newest_run_on_the_phantom_is_taken_or_one_is_made(place, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "experiments"
    shutil.copytree(EXPERIMENTS, own)
    # The same files with a network and views that a test can afford.
    size = own / "size" / "tiny.yaml"
    content = yaml.safe_load(size.read_text())
    content["model"]["backbone_options"] = SHAPE
    content["data"] |= {"image_size": 32, "canvas_size": 32, "batch_size": 16}
    size.write_text(yaml.safe_dump(content))
    given = words(place, "pneumonia", "--finetune.mode=probe", run="own", encoder=None)
    given[1] = f"--config={own / 'task' / 'pneumonia.yaml'}"
    assert main(given) == 0
    (made,) = (tmp_path / "runs").iterdir()
    # On several devices each process would start the whole command again.
    trainer = yaml.safe_load((made / "config.yaml").read_text())["trainer"]
    assert (trainer["accelerator"], str(trainer["devices"])) == ("cpu", "1")
    assert "pretraining a short one" in capfd.readouterr().err
    assert row_of(place / "own")["encoder"]["name"] == made.name
    given = [word.replace(str(place / "own"), str(place / "own2")) for word in given]
    assert main(given) == 0
    assert "pretraining a short one" not in capfd.readouterr().err
    assert row_of(place / "own2")["encoder"]["name"] == made.name


def test_a_run_on_the_phantom_is_told_by_its_settings_however_they_are_written(tmp_path):
    told = {
        "data:\n  phantom:\n    patients: 3\n": True,
        "data: {root: x, phantom: {patients: 3}}\n": True,
        "data:\n  phantom: null\n": False,
        "data: {root: x}\nnotes: |\n  phantom:\n  none\n": False,
        "phantom:\n  patients: 3\n": False,
        "data: [\n": False,
    }
    config = tmp_path / "config.yaml"
    assert not _is_of_phantom(config)
    for text, wanted in told.items():
        config.write_text(text)
        assert _is_of_phantom(config) is wanted, text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--finetune.epoch=3"], "did you mean finetune.epochs"),
        (["--finetune.epochs=0"], "at least 1"),
        (["--finetune.devices=0"], "devices must be at least 1"),
        (["--finetune.fraction=0"], "fraction must be in"),
        (["--finetune.layer_decay=2"], "layer_decay must be in"),
        (["--finetune.shots=400"], "set finetune.shots to at most "),
        (["--finetune.fraction=0.01"], "finetune.fraction=0.01 draws 1 of "),
        (["--finetune.mode=probe", "--finetune.batch_size=1"], "at least 2 images"),
        (["--finetune.image_size=30"], "image"),
        (["--encoder=nowhere"], "nowhere"),
        (["--task.findings=[gout]"], "gout"),
        (["--finetune.augment.flip=2"], "probability"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(place, tmp_path, capsys, more, said):
    with_code = 0
    try:
        with_code = main([*words(place, "phantom", *more, run=tmp_path.name)])
    except SystemExit as stop:
        with_code = int(stop.code)
    assert with_code != 0
    error = capsys.readouterr().err
    assert said in error.splitlines()[-1]
    assert "Traceback" not in error


def test_unreadable_images_are_answered_by_the_option_that_allows_for_them(place, tmp_path, capsys):
    root = shutil.copytree(place / "phantom", tmp_path / "phantom", ignore=shutil.ignore_patterns(".canvas"))
    for path in Manifest.read(root / "manifest.parquet").paths[:3]:
        path.write_bytes(b"not an image")
    assert main([*words(place, run="unread"), f"--task.data.root={root}"]) == 1
    assert "allow for them by --finetune.max_bad=" in capsys.readouterr().err.splitlines()[-1]


def test_processes_that_are_started_together_must_be_told_the_encoder(place, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    assert main(words(place, run="together", encoder=None)) == 1
    assert "name the encoder with --encoder" in capsys.readouterr().err.splitlines()[-1]


def test_a_real_task_without_an_encoder_asks_for_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from data.sources.trees_small import TREES

    TREES["kermany"](tmp_path / "kermany")
    task = ["--config", str(EXPERIMENTS / "task" / "kermany.yaml"), f"--task.data.root={tmp_path / 'kermany'}"]
    assert main(["fit", *task, "--task.data.partial=true", "--task.splits.val=0.3"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "needs an encoder" in last


@pytest.mark.parametrize("count", [400, 30])
def test_the_range_is_that_of_an_independent_implementation(count):
    generator = np.random.default_rng(0)
    mixed = generator.normal(size=(count, 8)) @ generator.normal(size=(8, 8)) * 10.0 ** np.arange(-4, 4)
    train = mixed.astype(np.float32)
    found = FeatureRange.of(train, train[:100])
    scale = train.std(0, dtype=np.float64)
    reduced = (train - train.mean(0, dtype=np.float64)) / scale
    covariance, _ = ledoit_wolf(reduced, assume_centered=True)
    wanted = np.sqrt(np.einsum("bd,de,be->b", reduced[:5], np.linalg.inv(covariance), reduced[:5]) / 8)
    np.testing.assert_allclose(found.distance(torch.from_numpy(train[:5])).numpy(), wanted, rtol=1e-3)
    assert (found.distance(torch.from_numpy(train[:100])) <= found.limit).double().mean() >= 0.96


def test_a_range_of_one_image_tells_it_from_others():
    train = np.ones((6, 4), np.float32)
    found = FeatureRange.of(train, train)
    assert found.distance(torch.ones(1, 4)) <= found.limit
    assert found.distance(torch.tensor([[1.0, 1, 1, 2]])) > found.limit


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run / "model", tmp_path / "model"))


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_model_without_one_of_its_files_is_refused(copy, name):
    (copy / name).unlink()
    with pytest.raises(ModelError, match=name if name == "model.safetensors" else "no model at"):
        load_model(copy)


def test_a_model_whose_weights_do_not_fit_is_refused(copy):
    weights = load_file(copy / "model.safetensors")
    for change in ({"classifier.extra": torch.zeros(1)}, {"classifier.head.linear.bias": torch.zeros(99)}, None):
        broken = dict(weights) | (change or {})
        if change is None:
            del broken["classifier.head.linear.bias"]
        save_file(broken, copy / "model.safetensors")
        with pytest.raises(ModelError, match="does not fit"):
            load_model(copy)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_to_a_model_is_one_sentence(copy, data):
    name = data.draw(st.sampled_from(["model.json", "model.safetensors"]))
    content = (copy / name).read_bytes()
    at = data.draw(st.integers(0, min(len(content), 4000) - 1))
    kind = data.draw(st.sampled_from(["cut", "change"]))
    broken = (
        content[:at]
        if kind == "cut"
        else content[:at] + data.draw(st.binary(min_size=1, max_size=4)) + content[at + 1 :]
    )
    (copy / name).write_bytes(broken)
    try:
        load_model(copy)
    except ModelError as error:
        assert "\n" not in str(error)  # noqa: PT017
    finally:
        (copy / name).write_bytes(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [("[]", "it holds a list, not an object"), ('{"format": 2}', "it lacks encoder, classes, kind")],
)
def test_a_file_that_describes_no_model_is_told_what_it_is_not(tmp_path, content, said):
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(ModelError, match=said):
        load_model(tmp_path)


def test_a_newer_format_is_refused(copy):
    card = json.loads((copy / "model.json").read_text()) | {"format": 99}
    (copy / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="format 99"):
        load_model(copy / "model.json")


def test_make_finetune_names_the_tasks():
    import subprocess

    done = subprocess.run(
        ["make", "--dry-run", "finetune", "TASK=nosuch"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "pneumonia" in done.stderr
    done = subprocess.run(["make", "--dry-run", "finetune", "MODE=probe", "ENCODER=e", "RUN_DIR=r"], cwd=REPOSITORY,
                          capture_output=True, text=True)  # fmt: skip
    command = " ".join(done.stdout.split())
    assert "--config experiments/task/phantom.yaml --encoder e" in command
    assert "--finetune.mode=probe --run_dir r" in command
