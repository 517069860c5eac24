"""A killed run goes on where it stood, exactly; with other settings it refuses and says why."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from commands import command
from cxrbase.cli import main

STEPS = ["--trainer.max_steps=40", "--trainer.max_epochs=100", "--checkpoint.every_n_train_steps=3"]


def start(words):
    # A test run in the background of a shell hands an ignored SIGINT down to its children.
    return subprocess.Popen(
        [sys.executable, "-m", "cxrbase", *words],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("objective", ["mae", "dino", "simclr"])
def test_killed_run_ends_with_the_same_weights_as_an_undisturbed_one(objective, image_folder, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(command(objective, *STEPS, root=image_folder, run_dir=killed))
    deadline = time.monotonic() + 120
    while not (killed / "last.ckpt").is_file():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "summary.json").exists()
    stood = torch.load(killed / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < stood < 40
    assert main(command(objective, *STEPS, f"--ckpt_path={killed}", root=image_folder, run_dir=killed)) == 0
    assert main(command(objective, *STEPS, root=image_folder, run_dir=whole)) == 0
    first, second = (torch.load(run / "last.ckpt", weights_only=True) for run in (killed, whole))
    assert first["global_step"] == second["global_step"] == 40
    for name, value in second["state_dict"].items():
        torch.testing.assert_close(first["state_dict"][name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_another_objective_is_refused(fit, image_folder, tmp_path, capfd):
    fit("mae")
    code = main(command("dino", f"--ckpt_path={fit.run_dir}", root=image_folder, run_dir=tmp_path / "other"))
    assert code == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert "MAE" in error
    assert "DINO" in error
    assert "Traceback" not in error


def test_another_backbone_or_mask_is_refused(fit, image_folder, tmp_path, capfd):
    fit("mae")
    for word, part in [
        ("--model.backbone_options.depth=3", "backbone_options"),
        ("--model.objective.init_args.decoder_depth=2", "decoder_depth"),
    ]:
        words = command("mae", word, f"--ckpt_path={fit.run_dir}", root=image_folder, run_dir=tmp_path / "other")
        assert main(words) == 1
        assert part in capfd.readouterr().err


def test_another_seed_is_refused(fit, image_folder, tmp_path, capfd):
    fit("mae")
    words = command("mae", "--seed_everything=7", f"--ckpt_path={fit.run_dir}", root=image_folder, run_dir=tmp_path)
    assert main(words) == 1
    assert "seed_everything" in capfd.readouterr().err


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a checkpoint", b"\x80\x04\x95"])
def test_damaged_checkpoint_is_refused(content, image_folder, tmp_path, capfd):
    (tmp_path / "last.ckpt").write_bytes(content)
    assert main(command("mae", f"--ckpt_path={tmp_path}", root=image_folder, run_dir=tmp_path / "run")) == 1
    assert "last.ckpt" in capfd.readouterr().err


def test_longer_run_goes_on_from_a_finished_one(fit, image_folder, tmp_path):
    first = fit("mae")
    run = fit.run_dir
    words = command("mae", "--trainer.max_steps=6", f"--ckpt_path={run}", root=image_folder, run_dir=run)
    assert main(words) == 0
    record = torch.load(run / "last.ckpt", weights_only=True)
    assert record["global_step"] == 6 > first["steps"]


def test_interrupt_leaves_a_run_that_can_go_on(image_folder, tmp_path):
    run = tmp_path / "run"
    words = command("mae", "--checkpoint.every_n_train_steps=2", root=image_folder, run_dir=run)
    process = start([*words, "--trainer.max_steps=100000", "--trainer.max_epochs=-1"])
    while not (run / "last.ckpt").is_file():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in error
    assert "--ckpt_path" in error


def test_finished_run_is_left_as_it_is(fit, image_folder, capfd):
    fit("mae")
    before = (fit.run_dir / "summary.json").read_bytes()
    assert main(command("mae", f"--ckpt_path={fit.run_dir}", root=image_folder, run_dir=fit.run_dir)) == 0
    assert (fit.run_dir / "summary.json").read_bytes() == before
    assert "finished already" in capfd.readouterr().err


def test_new_run_does_not_overwrite_another(fit, image_folder, capfd):
    fit("mae")
    assert main(command("mae", root=image_folder, run_dir=fit.run_dir)) == 1
    assert "holds a run already" in capfd.readouterr().err


def test_another_learning_rate_is_refused(fit, image_folder, tmp_path, capfd):
    fit("mae")
    words = command("mae", "--model.lr=0.5", f"--ckpt_path={fit.run_dir}", root=image_folder, run_dir=tmp_path)
    assert main(words) == 1
    assert "with lr" in capfd.readouterr().err


def test_other_images_are_refused(fit, image_folder, tmp_path, capfd):
    fit("mae")
    other = tmp_path / "other"
    other.mkdir()
    # As many images as before in each split, under other names.
    for path in image_folder.glob("*.png"):
        shutil.copy(path, other / path.name)
    rows = [
        f"{path.name},{'train' if number < 27 else 'val'}" for number, path in enumerate(sorted(other.glob("*.png")))
    ]
    (other / "manifest.csv").write_text("\n".join(["path,split", *rows]) + "\n")
    words = command("mae", f"--ckpt_path={fit.run_dir}", "--trainer.max_steps=4", root=other, run_dir=tmp_path / "run")
    assert main(words) == 1
    assert "training images" in capfd.readouterr().err
