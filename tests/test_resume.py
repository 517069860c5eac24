"""A killed run goes on where it stood, exactly; with other settings it refuses and says why."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
import timm
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import pausing
import warm
from commands import command
from cxrbase.cli import main
from cxrbase.data.phantom import make_phantom
from cxrbase.optim import warmup_cosine
from waiting import until

STEPS = ["--trainer.max_steps=40", "--trainer.max_epochs=100", "--checkpoint.every_n_train_steps=3"]


def start(words, *, group=False):
    return warm.Process(["-m", "cxrbase", *words], stderr=subprocess.PIPE, start_new_session=group)


slow = pytest.mark.slow
KILLED = [  # workers and accumulated batches, each objective once; an epoch has 27 images
    (
        "mae",
        2,
        0.0,
        ["--data.num_workers=2", "--data.batch_size=2", "--trainer.accumulate_grad_batches=3", "--model.drop_path=0.2"],
    ),
    pytest.param("dino", 1, 0.02, ["--trainer.accumulate_grad_batches=2", "--model.weight_decay_end=0.3"], marks=slow),
    pytest.param("simclr", 1, 0.02, ["--data.num_workers=2"], marks=slow),
]


def scalars(folder, name):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return events.Scalars(name)


def has_logged(run):
    """Whether a run has logged something, which it does after a step."""
    return any(path.stat().st_size > 1000 for path in run.glob("events.*"))


def assert_same(first, second, path=""):
    """Bit by bit."""
    if isinstance(second, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(second, dict):
        assert first.keys() == second.keys(), path
        for key in second:
            assert_same(first[key], second[key], f"{path}.{key}")
    elif isinstance(second, list | tuple):
        assert len(first) == len(second), path
        for number, value in enumerate(second):
            assert_same(first[number], value, f"{path}[{number}]")
    else:
        assert first == second, path


def assert_same_end(killed, whole):
    first, second = (torch.load(run / "last.ckpt", weights_only=True) for run in (killed, whole))
    parts = (
        "state_dict",
        "optimizer_states",
        "lr_schedulers",
        "loops",
        "global_step",
        "epoch",
        "batch",
        "CXRDataModule",
    )
    for part in parts:
        assert_same(first[part], second[part], part)
    assert (killed / "encoder.safetensors").read_bytes() == (whole / "encoder.safetensors").read_bytes()


@pytest.mark.parametrize(("objective", "count", "later", "words"), KILLED)
def test_killed_run_ends_bit_for_bit_as_an_undisturbed_one(objective, count, later, words, image_folder, tmp_path):
    """Killed where a checkpoint, of which it is the `count`th, was just put in place, or some seconds `later`."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    words = [*STEPS, "--data.batch_size=6", *words]
    line = command(objective, *words, root=image_folder, run_dir=killed)
    process = pausing.start(line, "last.ckpt", count=count, stderr=subprocess.PIPE)
    if later:
        process.send_signal(signal.SIGCONT)
        time.sleep(later)  # within a step
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "summary.json").exists()
    stood = torch.load(killed / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < stood < 40
    assert main(command(objective, *words, f"--ckpt_path={killed}", root=image_folder, run_dir=killed)) == 0
    assert main(command(objective, *words, root=image_folder, run_dir=whole)) == 0
    assert_same_end(killed, whole)


def test_a_run_killed_while_it_is_scored_is_scored_when_it_goes_on(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    shape = ["--data.phantom.patients=60", "--data.phantom.image_size=32", "--probe.limit=40"]

    def line(run, *words):
        return command("mae", *shape, *words, root=tmp_path / "images", run_dir=run, data="phantom", figures=True)

    assert main(line(whole)) == 0
    process = pausing.start(line(killed), "encoder.safetensors", stderr=subprocess.PIPE)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "summary.json").exists()
    assert main(line(killed, "--ckpt_path=last")) == 0
    assert_same_end(killed, whole)
    first, second = (json.loads((run / "summary.json").read_text()) for run in (killed, whole))
    for part in ("probe", "images_seen", "steps", "loss_first", "loss_last"):
        assert first[part] == second[part]
    assert {path.name for path in (killed / "figures").iterdir()} == {
        path.name for path in (whole / "figures").iterdir()
    }


@pytest.mark.parametrize(("batch", "accumulated"), [(27, 1), (6, 3)])
def test_a_checkpoint_of_the_last_step_of_an_epoch_goes_on_bit_for_bit(batch, accumulated, image_folder, tmp_path):
    words = [
        "--trainer.max_steps=5",
        "--trainer.max_epochs=9",
        f"--data.batch_size={batch}",
        "--checkpoint.save_top_k=-1",
    ]
    words += ["--checkpoint.every_n_train_steps=3", f"--trainer.accumulate_grad_batches={accumulated}"]
    whole, other = tmp_path / "whole", tmp_path / "other"
    assert main(command("mae", *words, root=image_folder, run_dir=whole)) == 0
    (path,) = whole.glob("*step=3.ckpt")
    assert torch.load(path, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]
    assert main(command("mae", *words, f"--ckpt_path={path}", root=image_folder, run_dir=other)) == 0
    assert_same_end(other, whole)


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
    until((run / "last.ckpt").is_file, process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert "--ckpt_path" in error


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_anew(image_folder, tmp_path, capfd):
    run = tmp_path / "run"
    words = command("mae", "--checkpoint.every_n_train_steps=100000", root=image_folder, run_dir=run)
    process = start([*words, "--trainer.max_steps=100000", "--trainer.max_epochs=-1", "--trainer.log_every_n_steps=1"])
    until(lambda: has_logged(run), process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"before the first checkpoint; resume with --ckpt_path={run}" in error
    assert not (run / "last.ckpt").exists()
    elsewhere = command("mae", f"--ckpt_path={run}", root=image_folder, run_dir=tmp_path / "other")
    assert main(elsewhere) == 1
    assert "no checkpoint at" in capfd.readouterr().err
    (run / "encoder.safetensors").write_text("made by somebody")
    assert main([*words, f"--ckpt_path={run}"]) == 1
    assert "no checkpoint at" in capfd.readouterr().err
    (run / "encoder.safetensors").unlink()
    assert main([*words, f"--ckpt_path={run}"]) == 0
    assert "it begins anew" in capfd.readouterr().err
    assert (run / "summary.json").is_file()


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


def test_a_run_that_goes_on_elsewhere_does_not_overwrite_another_either(fit, image_folder, tmp_path, capfd):
    fit("mae")
    taken = tmp_path / "taken"
    assert main(command("mae", root=image_folder, run_dir=taken)) == 0
    before = (taken / "last.ckpt").read_bytes()
    words = command("mae", "--trainer.max_steps=6", f"--ckpt_path={fit.run_dir}", root=image_folder, run_dir=taken)
    assert main(words) == 1
    assert f"{taken} holds a run already" in capfd.readouterr().err
    assert (taken / "last.ckpt").read_bytes() == before


def test_the_last_checkpoint_of_no_folder_is_refused(image_folder, tmp_path, capfd):
    words = command("mae", "--ckpt_path=last", root=image_folder, run_dir=tmp_path)
    assert main([word for word in words if not word.startswith("--run_dir")]) == 1
    assert "--ckpt_path=last needs --run_dir" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--model.lr=0.5", ["with lr", "--model.lr says 0.5"]),
        ("--data.image_size=48", ["with image_size 32", "--data.image_size says 48"]),
    ],
)
def test_another_rate_or_size_is_refused_by_the_name_of_its_option(word, said, fit, image_folder, tmp_path, capfd):
    fit("mae")
    words = command("mae", word, f"--ckpt_path={fit.run_dir}", root=image_folder, run_dir=tmp_path)
    assert main(words) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert all(part in error for part in said), error


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


@pytest.mark.parametrize("group", [pytest.param(False, marks=slow), True])
def test_sigterm_saves_at_the_end_of_a_step_and_the_same_command_goes_on(group, image_folder, tmp_path):
    killed = tmp_path / "killed"
    words = ["--trainer.accumulate_grad_batches=2", "--trainer.log_every_n_steps=1"]
    words += ["--data.num_workers=2"] if group else []
    # No checkpoint but the one that the signal asks for.
    again = command(
        "mae", *words, "--checkpoint.every_n_train_steps=1000", "--ckpt_path=last", root=image_folder, run_dir=killed
    )
    process = start([*again, "--trainer.max_steps=100000", "--trainer.max_epochs=-1"], group=group)
    until(lambda: has_logged(killed), process)  # a step took a batch of each worker, so all heed the signal by now
    os.killpg(process.pid, signal.SIGTERM) if group else process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert "saved at step" in error
    assert "Traceback" not in error
    stood = torch.load(killed / "last.ckpt", weights_only=True)
    assert stood["global_step"] > 0
    assert main([*again, f"--trainer.max_steps={stood['global_step'] + 2}", "--trainer.max_epochs=-1"]) == 0
    assert torch.load(killed / "last.ckpt", weights_only=True)["global_step"] == stood["global_step"] + 2


SAVES = """
import sys, torch
from cxrbase.checkpoints import AtomicCheckpointIO
for number in range(1, 1000):
    AtomicCheckpointIO().save_checkpoint({"number": number, "weights": torch.full((40_000_000,), number)}, sys.argv[1])
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_a_kill_during_a_save_leaves_the_last_good_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    process = warm.Process(["-c", SAVES, path], stdout=subprocess.PIPE)
    done = int(process.stdout.readline())
    until(path.with_name("last.ckpt.tmp").exists, process)
    process.kill()
    process.wait()
    held = torch.load(path, weights_only=True)
    assert held["number"] >= done
    assert bool((held["weights"] == held["number"]).all())


def test_more_epochs_follow_the_schedule_of_the_longer_run(fit, image_folder):
    words = ["--trainer.max_steps=-1", "--model.warmup=0.25", "--model.lr=0.032"]
    fit("mae", *words, "--trainer.max_epochs=2")
    run = fit.run_dir
    more = command(
        "mae",
        *words,
        "--trainer.max_epochs=4",
        "--trainer.log_every_n_steps=1",
        f"--ckpt_path={run}",
        root=image_folder,
        run_dir=run,
    )
    assert main(more) == 0
    held = torch.load(run / "last.ckpt", weights_only=True)
    assert (held["global_step"], held["epoch"]) == (12, 4)  # three batches an epoch
    rates = {event.step: event.value for event in scalars(run, "lr-AdamW/pg1")}
    for step in range(6, 12):
        expected = 0.001 * warmup_cosine(step / 12, warmup=0.25)
        assert rates[step] == pytest.approx(expected, rel=1e-4)


def test_another_batch_is_refused(fit, image_folder, tmp_path, capfd):
    fit("mae")
    for word, part in [
        ("--data.batch_size=4", "4 images x 1"),
        ("--trainer.accumulate_grad_batches=2", "x 2 accumulated"),
    ]:
        words = command(
            "mae", word, "--trainer.max_steps=4", f"--ckpt_path={fit.run_dir}", root=image_folder, run_dir=tmp_path
        )
        assert main(words) == 1
        assert part in capfd.readouterr().err


@pytest.mark.slow
def test_a_run_that_starts_from_other_weights_is_compared_to_those_also_when_resumed(
    fit, image_folder, tmp_path, capsys
):
    fit("simclr", "--probe.enabled=false", "--trainer.max_steps=6", "--model.lr=0.01")
    weights, run, phantom = tmp_path / "weights", tmp_path / "run", tmp_path / "phantom"
    make_phantom(phantom, patients=60, image_size=32, workers=1)
    fit.run_dir.rename(weights)
    words = [f"--model.init_from={weights}", "--model.lr=1e-9", "--probe.resamples=20"]
    assert main(command("mae", *words, root=phantom, run_dir=run)) == 0
    probe = json.loads((run / "summary.json").read_text())["probe"]
    assert probe["start"] != probe["random_init"]
    # Nothing was learnt, so that pretraining added nothing to what was there.
    for name in ("linear", "knn"):
        assert probe[name]["pretrained"]["value"] == pytest.approx(probe[name]["start"]["value"], abs=0.02)
        gain = probe[name]["pretrained"]["value"] - probe[name]["start"]["value"]
        assert probe["difference"][name]["value"] == pytest.approx(gain)
    said = capsys.readouterr().out
    assert "start 0." in said
    assert "untrained" not in said

    shutil.rmtree(weights)
    words += ["--trainer.max_steps=4", "--model.lr=1e-9", f"--ckpt_path={run}"]
    assert main(command("mae", *words, root=phantom, run_dir=run)) == 0
    resumed = json.loads((run / "summary.json").read_text())["probe"]
    for name in ("linear", "knn"):
        for kept in ("start", "random_init"):
            assert resumed[name][kept] == probe[name][kept]
        gain = resumed[name]["pretrained"]["value"] - probe[name]["start"]["value"]
        assert resumed["difference"][name]["value"] == pytest.approx(gain)


def test_a_run_starts_from_other_weights_and_resumes_without_them(image_folder, tmp_path, capfd):
    path, run = tmp_path / "mae.pth", tmp_path / "run"
    donor = timm.create_model(
        "vit_small_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=1, num_classes=0
    )
    torch.save({"model": donor.state_dict()}, path)
    words = [f"--model.init_from={path}", "--model.lr=1e-9"]
    assert main(command("dino", *words, root=image_folder, run_dir=run)) == 0
    held = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    for part in ("backbone", "teacher_backbone.module"):
        torch.testing.assert_close(
            held[f"objective.{part}.blocks.0.attn.qkv.weight"],
            donor.state_dict()["blocks.0.attn.qkv.weight"],
            atol=1e-4,
            rtol=0,
        )
    path.unlink()
    more = [*words, "--trainer.max_steps=4", f"--ckpt_path={run}"]
    assert main(command("dino", *more, root=image_folder, run_dir=run)) == 0
    assert main(command("dino", *words, root=image_folder, run_dir=tmp_path / "new")) == 1
    assert "no weights at" in capfd.readouterr().err
