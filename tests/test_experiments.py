"""Every file in experiments/ trains a step, and leaves what a run should leave."""

import json
from pathlib import Path

import pytest
import timm
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cxrbase
from packs import make_pack

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
OBJECTIVES = sorted(path.stem for path in (EXPERIMENTS / "objective").glob("*.yaml"))
SIZES = sorted(path.stem for path in (EXPERIMENTS / "size").glob("*.yaml"))
DATA = sorted(path.stem for path in (EXPERIMENTS / "data").glob("*.yaml"))
RECIPES = sorted(path.stem for path in (EXPERIMENTS / "recipe").glob("*.yaml"))
# What keeps the networks of the large sizes small enough for a test: one block of their own width, four patches.
SHALLOW = ["--data.image_size=32", "--data.canvas_size=32", "--data.batch_size=4", "--trainer.max_steps=1"]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objective_runs_a_step_on_a_folder(fit, objective):
    summary = fit(objective)
    assert summary["steps"] == 2
    assert summary["objective"].lower() == objective
    assert summary["probe"] is None


@pytest.mark.parametrize("size", SIZES)
def test_size_runs_a_step(fit, size):
    options = yaml.safe_load((EXPERIMENTS / "size" / f"{size}.yaml").read_text())["model"].get("backbone_options") or {}
    shallow = json.dumps({**options, "depth": 1})
    summary = fit("mae", *SHALLOW, f"--model.backbone_options={shallow}", size=size, small=False)
    assert summary["steps"] == 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_runs_a_step_as_it_stands(fit, recipe):
    objective, size = recipe.split("_", 1)
    words = ["--trainer.max_steps=1", "--data.batch_size=2", "--data.num_workers=0"]
    summary = fit(objective, *words, size=size, small=False)
    assert summary["steps"] == 1


@pytest.mark.parametrize("data", DATA)
def test_data_runs_a_step(fit, data, tmp_path):
    if data == "shards":
        make_pack(tmp_path / "packed", source=["made"] * 16)
    words = {
        "folder": [],
        "phantom": [
            f"--data.root={tmp_path / 'phantom'}",
            "--data.phantom.patients=40",
            "--data.phantom.image_size=32",
        ],
        "shards": [f"--data.root={tmp_path / 'packed'}"],
    }[data]
    assert fit("mae", "--trainer.max_steps=1", *words, data=data)["steps"] == 1


def test_packed_images_go_with_a_large_size(fit, tmp_path):
    make_pack(tmp_path / "packed", source=["made"] * 16)
    words = [*SHALLOW, f"--data.root={tmp_path / 'packed'}", '--model.backbone_options={"depth": 1}']
    assert fit("mae", *words, size="vit_b16", data="shards", small=False)["steps"] == 1


def _layers(*names: str) -> tuple[dict, dict]:
    """Objective options and model settings of layers, later ones over earlier ones."""
    options: dict = {}
    model: dict = {}
    for name in names:
        given = yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text())
        options |= given["model"]["objective"].get("init_args", {})
        model |= given["model"] | {"max_epochs": given.get("trainer", {}).get("max_epochs", model.get("max_epochs"))}
    return options, model


@pytest.mark.parametrize(("objective", "warmup_epochs"), [("mae", 40), ("dino", 10), ("simclr", 40)])
def test_warmup_is_as_long_as_in_the_cited_recipe(objective, warmup_epochs):
    _, model = _layers(f"objective/{objective}")
    assert model["warmup"] * model["max_epochs"] == pytest.approx(warmup_epochs, abs=0.2)


def test_dino_ends_at_the_rate_of_its_paper_and_warms_its_teacher_for_30_epochs():
    options, model = _layers("objective/dino")
    peak = model["lr"] * 1024 / 256
    assert model["min_lr"] * peak == pytest.approx(1e-6)
    assert options["teacher_warmup"] * model["max_epochs"] == pytest.approx(30)


def test_mae_has_the_decoder_of_its_recipe_at_vit_small_and_says_how_pixels_are_normalised():
    options, _ = _layers("objective/mae", "recipe/mae_vit_s16")
    assert options["decoder_dim"] == 512
    assert options["norm_pix"] is True


def test_data_phantom_is_scored_on_its_findings(fit, tmp_path):
    words = [f"--data.root={tmp_path / 'phantom'}", "--data.phantom.patients=100", "--data.phantom.image_size=32"]
    probe = fit("mae", *words, "--probe.every_n_steps=1", data="phantom")["probe"]
    assert len(probe["classes"]) == 8
    assert 0 < probe["random_init"] < 1
    assert 0 < probe["pretrained"] < 1
    assert probe["difference"]["linear"]["low"] <= probe["pretrained"] - probe["random_init"]
    assert "val_probe/linear_macro_auroc" in _curves(Path(fit.run_dir))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_run_folder_holds_everything(fit, objective):
    summary = fit(
        objective,
        "--trainer.max_steps=4",
        "--probe.monitor_every=2",
        "--throughput.every_n_steps=2",
        "--trainer.log_every_n_steps=1",
        figures=True,
    )
    folder = Path(fit.run_dir)
    for name in ("encoder.safetensors", "encoder.json", "last.ckpt", "config.yaml", "summary.json"):
        assert (folder / name).stat().st_size
    wanted = {"objective", "backbone", "image_size", "images_seen", "steps", "wall_s", "images_per_s", "loss_first"}
    wanted |= {"data_wait_fraction", "loss_last", "precision", "device", "probe", "encoder", "config", "version"}
    assert wanted <= set(summary)
    assert summary["images_seen"] == 4 * 8
    figures = {path.stem for path in (folder / "figures").glob("*.png")}
    assert {"attention", "patch_features"} <= figures
    assert ("reconstruction" in figures) == (objective == "mae")
    assert ("views" in figures) == (objective != "mae")
    logged = _events(folder)
    assert set(logged.Tags()["images"]) == figures
    for path in (folder / "figures").glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 100
            (shown,) = logged.Images(path.stem)
            assert (shown.width, shown.height) == picture.size
    curves = _curves(folder)
    assert {"train/loss", "train/images_per_s", "train/data_wait_fraction", "features/rankme", "features/std"} <= curves
    assert any(name.startswith("lr-") for name in curves)
    assert ("train/momentum" in curves) == (objective == "dino")


def test_encoder_is_the_same_through_cxrbase_and_plain_timm(fit):
    fit("mae")
    folder = Path(fit.run_dir)
    ours = cxrbase.load_encoder(folder)
    card = json.loads((folder / "encoder.json").read_text())
    theirs = timm.create_model(
        card["timm_name"], checkpoint_path=str(folder / "encoder.safetensors"), **card["timm_args"]
    )
    images = torch.randn(2, 1, card["image_size"], card["image_size"])
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=0, atol=0)


def test_config_of_a_run_starts_the_same_run_again(fit, tmp_path):
    from cxrbase.cli import main

    fit("mae")
    first = Path(fit.run_dir)
    again = tmp_path / "again"
    assert main(["fit", f"--config={first / 'config.yaml'}", f"--run_dir={again}"]) == 0
    assert (again / "encoder.safetensors").read_bytes() == (first / "encoder.safetensors").read_bytes()


def _events(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def _curves(folder: Path) -> set[str]:
    return set(_events(folder).Tags()["scalars"])
