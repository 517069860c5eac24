"""A run that diverges stops, keeps its last good checkpoint, and says what can be done, which then works."""

import pytest
import torch

from commands import REPOSITORY, command
from cxrbase.cli import main
from cxrbase.divergence import StepReport, all_finite
from cxrbase.weights import load_any_encoder
from two_processes import start_two

pytestmark = pytest.mark.filterwarnings("ignore")
QUIET = ["--probe.enabled=false", "--figures.enabled=false", "--trainer.max_epochs=99"]


def words(run, root, *more, steps=6, **options):
    said = ["--model.objective=diverging.Diverging", *(f"--model.objective.{k}={v}" for k, v in options.items())]
    said += [*QUIET, f"--trainer.max_steps={steps}", "--checkpoint.every_n_train_steps=1", *more]
    return command("mae", *said, root=root, run_dir=run)


def assert_good(run, *, step):
    held = torch.load(run / "last.ckpt", weights_only=True)
    assert held["global_step"] == step
    assert all_finite(held["state_dict"].values())
    assert all_finite(v for kept in held["optimizer_states"][0]["state"].values() for v in kept.values())


@pytest.mark.parametrize("what", ["gradient", "spike", "loss"])
def test_a_step_that_spoils_the_weights_is_never_saved(what, image_folder, tmp_path, capfd):
    assert main(words(tmp_path, image_folder, what=what)) == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert ("the loss is nan at step 2" if what == "loss" else "not finite at step 3") in error
    assert_good(tmp_path, step=2)
    assert not (tmp_path / "encoder.safetensors").exists()


@pytest.mark.parametrize("what", ["gradient", "loss"])
def test_a_bad_last_step_leaves_neither_checkpoint_nor_encoder(what, image_folder, tmp_path, capfd):
    never = "--checkpoint.every_n_train_steps=1000"
    assert main(words(tmp_path, image_folder, never, steps=3, what=what)) == 1
    assert "there is no checkpoint from before it" in capfd.readouterr().err
    assert not {"last.ckpt", "encoder.safetensors", "summary.json"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_two_processes_stop_together_where_one_of_them_diverges(what, image_folder, tmp_path):
    said = words(tmp_path, image_folder, "--trainer.devices=2", "--trainer.strategy=ddp", what=what, rank=1)
    paths = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    started = start_two(lambda rank: ["-m", "cxrbase", *said], env=paths)
    errors = [process.communicate(timeout=120)[1].strip().splitlines()[-1] for process in started]
    assert [process.returncode for process in started] == [1, 1]
    assert all("the loss is nan at step 2" if what == "loss" else "not finite at step 3" in said for said in errors)
    assert_good(tmp_path, step=2)


def option(error, name):
    """A word of a message, as somebody would copy it."""
    (word,) = [word.rstrip(",;:") for word in error.split() if word.startswith(f"--{name}=")]
    return word


def test_what_the_message_names_can_be_done(image_folder, tmp_path, capfd):
    run, mean = tmp_path / "run", "--data.mean=0.4"
    assert main(words(run, image_folder, mean, what="spike")) == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    anew = [option(error, "model.init_from"), "--model.lr=1e-4", "--model.warmup=0.5"]
    capfd.readouterr()
    assert main(words(tmp_path / "anew", image_folder, *anew, batch=0)) == 0
    said = capfd.readouterr().err
    assert "none skipped, none missing" in said
    assert "mean and std" not in said
    assert load_any_encoder(str(run / "last.ckpt"))[1]["mean"] == 0.4
    on = [mean, option(error, "ckpt_path"), option(error, "trainer.gradient_clip_val")]
    assert main(words(run, image_folder, *on, what="spike")) == 0
    assert_good(run, step=6)
    # Where clipping was not enough, less is named.
    clipped = words(tmp_path / "clipped", image_folder, "--trainer.gradient_clip_val=3.0", what="gradient")
    assert main(clipped) == 1
    assert option(capfd.readouterr().err, "trainer.gradient_clip_val").endswith("=1")


def test_a_report_is_the_mean_of_a_step_and_read_once():
    report = StepReport()
    assert report.read() is None
    for loss in (1.0, 2.0):
        report.add(torch.tensor(loss, requires_grad=True) / 2)
    report.send(4, 0.1)
    assert report.read() == (4, 0.1, 1.5)
    assert report.read() is None
    assert report.last == (4, 0.1, 1.5)


def test_one_number_among_many_is_enough():
    good = [torch.ones(3), torch.ones(2, dtype=torch.int64), "no tensor", torch.zeros(0)]
    assert all_finite(good)
    assert all_finite([])
    for bad in (float("nan"), float("inf")):
        assert not all_finite([*good, torch.tensor([0.0, bad])])
