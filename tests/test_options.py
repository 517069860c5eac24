"""Options of a run do what they say: each is set, and what it changes is looked at."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from commands import command
from cxrbase.cli import main
from cxrbase.errors import DecodeError
from cxrbase.training_cli import found_precision


def curve(folder: Path, name: str) -> list[float]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [event.value for event in events.Scalars(name)]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """Words of a run on a phantom that is made by the first one."""
    root = tmp_path_factory.mktemp("phantom") / "images"
    return [f"--data.root={root}", "--data.phantom.patients=60", "--data.phantom.image_size=32"]


def optimizer_group(folder: Path) -> dict:
    state = torch.load(folder / "last.ckpt", weights_only=True)
    return state["optimizer_states"][0]["param_groups"][0]


def test_learning_rate_warms_up_and_falls_to_its_end(fit):
    words = ["--model.lr=0.032", "--model.min_lr=0.25", "--model.warmup=0.5", "--trainer.max_steps=8"]
    fit("mae", *words, "--trainer.max_epochs=9", "--trainer.log_every_n_steps=1")
    rates = curve(fit.run_dir, "lr-AdamW/pg1")
    peak = 0.032 * 8 / 256
    assert max(rates) == pytest.approx(peak, rel=1e-5)
    assert rates[0] < rates[2] < max(rates)
    assert optimizer_group(fit.run_dir)["lr"] == pytest.approx(0.25 * peak, rel=1e-5)


def test_weight_decay_and_betas_reach_the_optimiser(fit):
    words = ["--model.weight_decay=0.1", "--model.weight_decay_end=0.5", "--model.betas=[0.8,0.9]"]
    fit("mae", *words, "--trainer.max_steps=4", "--trainer.max_epochs=9")
    group = optimizer_group(fit.run_dir)
    assert tuple(group["betas"]) == (0.8, 0.9)
    assert 0.3 < group["weight_decay"] <= 0.5


@pytest.mark.parametrize(("clip", "fused"), [(0.0, True), (3.0, None)])
def test_weights_are_never_updated_one_by_one_on_a_gpu(clip, fused, fit):
    fit("mae", "--trainer.precision=bf16-mixed", f"--trainer.gradient_clip_val={clip}")
    group = optimizer_group(fit.run_dir)
    # Where both are None, torch takes all weights of a GPU together; False would forbid it.
    assert (group["fused"], group["foreach"]) == (fused, None)


def test_accumulated_batches_count_as_one_step_and_scale_the_learning_rate(fit):
    words = ["--trainer.accumulate_grad_batches=3", "--data.batch_size=3", "--trainer.max_steps=2", "--model.lr=0.256"]
    summary = fit("mae", *words, "--model.warmup=0", "--model.min_lr=1")
    assert (summary["steps"], summary["images_seen"]) == (2, 18)
    assert optimizer_group(fit.run_dir)["lr"] == pytest.approx(0.256 * 9 / 256)


def test_accumulation_is_warned_of_where_it_is_not_one_large_batch(fit, recwarn):
    fit("simclr", "--trainer.accumulate_grad_batches=2", "--trainer.max_steps=1")
    assert any("not the same as one large batch" in str(warning.message) for warning in recwarn)


def test_a_run_without_an_end_has_no_schedule(image_folder, tmp_path, capfd):
    words = ["--trainer.max_steps=-1", "--trainer.max_epochs=-1", "--trainer.max_time=00:00:00:05"]
    assert main(command("mae", *words, root=image_folder, run_dir=tmp_path / "run")) == 1
    said = capfd.readouterr().err
    assert "set --trainer.max_epochs or --trainer.max_steps" in said
    assert "Traceback" not in said


def test_what_takes_more_memory_than_there_is_is_told_in_a_sentence(image_folder, tmp_path, capfd):
    # A decoder whose first weight alone is larger than any machine's memory.
    words = ["--model.objective.init_args.decoder_dim=1099511627776"]
    assert main(command("mae", *words, root=image_folder, run_dir=tmp_path / "run")) == 1
    said = capfd.readouterr().err
    assert "out of memory: take smaller batches" in said
    assert "Traceback" not in said


def test_probe_and_figures_can_be_switched_off(fit, capfd):
    assert fit("mae", "--probe.enabled=false", figures=False)["probe"] is None
    assert not (fit.run_dir / "figures").exists()
    out = capfd.readouterr().out
    assert "switched off" in out
    assert "figures  " not in out


def test_a_backbone_whose_attention_cannot_be_read_has_the_other_figures(fit, capfd):
    summary = fit("mae", "--model.backbone=vit_small_patch16_18x2_224", figures=True)
    assert summary["backbone"] == "vit_small_patch16_18x2_224"
    drawn = {path.stem for path in (fit.run_dir / "figures").iterdir()}
    assert drawn == {"reconstruction", "patch_features"}
    assert "no figure of attention" in capfd.readouterr().err


def test_probe_is_limited_and_monitors_as_told(fit, phantom):
    words = [*phantom, "--probe.limit=40", "--probe.resamples=20", "--probe.monitor_images=4"]
    words += ["--probe.monitor_every=1"]
    probe = fit("mae", *words, data="phantom")["probe"]
    assert (probe["n_train"], probe["n_test"]) == (40, min(40, probe["n_test"]))
    assert max(curve(fit.run_dir, "features/rankme")) <= 4.01


@pytest.mark.parametrize(("accumulated", "test"), [(1, "true"), (2, "false")])
def test_a_step_is_looked_at_once_and_test_images_only_where_asked_for(fit, phantom, accumulated, test):
    words = [*phantom, "--probe.limit=40", "--probe.resamples=20", "--probe.monitor_every=1", "--probe.every_n_steps=1"]
    words += [f"--trainer.accumulate_grad_batches={accumulated}", f"--probe.test={test}"]
    found = fit("mae", *words, data="phantom")["probe"]
    assert len(curve(fit.run_dir, "features/rankme")) == 2
    assert len(curve(fit.run_dir, "val_probe/knn_macro_auroc")) == 2
    assert (found is None) == (test == "false")


def test_canvases_that_are_not_kept_train_the_same(fit, image_folder, tmp_path):
    fit("mae")
    kept = (fit.run_dir / "encoder.safetensors").read_bytes()
    words = ["--data.cache_gb=0", f"--data.cache_dir={tmp_path / 'cache'}"]
    assert main(command("mae", *words, root=image_folder, run_dir=tmp_path / "again")) == 0
    assert (tmp_path / "again" / "encoder.safetensors").read_bytes() == kept


def test_labels_of_one_kind_leave_the_run_unscored(image_folder, tmp_path, capfd):
    names = sorted(path.name for path in image_folder.glob("*.png"))
    splits = ["train", "train", "val", "test"]
    rows = [f"{name},{splits[number % 4]},1" for number, name in enumerate(names)]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,split,label_x", *rows]) + "\n")
    words = [f"--data.manifest={tmp_path / 'manifest.csv'}", "--probe.every_n_steps=1"]
    assert main(command("mae", *words, root=image_folder, run_dir=tmp_path / "run")) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["probe"] is None
    assert "not scored" in capfd.readouterr().err


def test_rows_without_a_split_are_counted(image_folder, tmp_path, capfd):
    names = sorted(path.name for path in image_folder.glob("*.png"))
    rows = [f"{name},{'train' if number < 30 else ''}" for number, name in enumerate(names)]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,split", *rows]) + "\n")
    words = [f"--data.manifest={tmp_path / 'manifest.csv'}"]
    assert main(command("mae", *words, root=image_folder, run_dir=tmp_path / "run")) == 0
    assert "10 of 40 images have no split" in capfd.readouterr().err


def test_precision_on_a_cpu_is_full():
    assert found_precision("cpu") == "32-true"


@pytest.mark.parametrize(
    ("there", "computes_bf16", "emulates_bf16", "wanted"),
    [
        (True, True, True, "bf16-mixed"),
        (True, False, True, "16-mixed"),  # such as a V100, where torch would emulate it slowly
        (True, False, False, "16-mixed"),
        (False, False, False, "32-true"),
    ],
)
@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cpu"])
def test_precision_on_a_gpu_is_what_it_computes_in(
    accelerator, there, computes_bf16, emulates_bf16, wanted, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: computes_bf16 or (
            including_emulation and emulates_bf16)
    )  # fmt: skip
    assert found_precision(accelerator) == ("32-true" if accelerator == "cpu" else wanted)


def test_decode_error_survives_a_worker_and_a_pickle():
    error = DecodeError("nih", "a.png", "the file is empty")
    assert str(DecodeError(str(error))) == str(error)
    assert pickle.loads(pickle.dumps(error)).key == "a.png"
