"""A training step asks the device nothing: no value is read by the host and no shape depends on data."""

import json
import signal

import pytest
import torch

import asking
from asking import Asked, AskNothing, questions
from commands import command
from cxrbase.optim import param_groups
from cxrbase.views import RandomViews
from two_processes import end_two, start_two
from waiting import until


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MAE", {}),
        ("MAE", {"decoder": "cross"}),
        ("DINO", {}),
        ("DINO", {"centring": "sinkhorn", "batch_norm": True}),
        ("SimCLR", {}),
    ],
)
def test_no_step_reads_a_value_or_a_shape_from_the_device(build, make_views, name, options):
    objective = build(name, **options)
    views = make_views(objective)
    optimizer = torch.optim.AdamW(param_groups(objective, weight_decay=0.05), lr=1e-3, fused=True)
    with AskNothing():
        objective(views, 0.5).loss.backward()
        optimizer.step()
        objective.after_step(0.5)


def test_no_view_reads_a_value_from_the_device():
    make = RandomViews(num_global=2, num_local=2, jitter=0.8, blur=0.5)
    images, ids = torch.zeros(4, 1, 48, 48, dtype=torch.uint8), torch.arange(4)
    with AskNothing():
        views = make(images, torch.full((4, 2), 48), ids, out=32, mean=0.5, std=0.25, seed=0, epoch=0)
    assert [len(views.global_), len(views.local)] == [2, 2]


@pytest.mark.parametrize(
    "ask",
    [lambda x: x[0].item(), lambda x: x[x > 0], lambda x: bool(x[0] > 0), lambda x: x.nonzero(), lambda x: x.unique()],
)
def test_such_a_question_would_be_seen(ask):
    with AskNothing(), pytest.raises(Asked):
        ask(torch.zeros(3))


# Every callback of the command line, and the bar; what reads now and then, after more steps than these.
STEPS = ["--trainer.max_steps=24", "--data.batch_size=1", "--trainer.log_every_n_steps=1000"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mae", ["--trainer.enable_progress_bar=true"]),
        ("mae", ["--trainer.accumulate_grad_batches=2", "--trainer.max_steps=12"]),
        ("dino", ["--trainer.enable_progress_bar=true", "--model.objective.batch_norm=false"]),
    ],
)
def test_no_step_of_a_real_run_reads_a_value_from_the_device(name, words, image_folder, tmp_path):
    steps, asked = questions(command(name, *STEPS, *words, root=image_folder, run_dir=tmp_path / "run", figures=True))
    assert steps == (12 if "--trainer.max_steps=12" in words else 24)
    assert asked == []


def test_a_callback_that_reads_would_be_seen(image_folder, tmp_path):
    words = command("mae", *STEPS, "--trainer.callbacks=asking.Reads", root=image_folder, run_dir=tmp_path / "run")
    steps, asked = questions(words)
    assert len(asked) == steps - 1
    assert "asking.py" in asked[0][-1]


def test_no_step_of_two_processes_reads_a_value_from_the_device(image_folder, tmp_path):
    words = [*STEPS, "--trainer.max_steps=6", "--trainer.devices=2", "--trainer.strategy=ddp"]
    words = command("mae", *words, root=image_folder, run_dir=tmp_path / "run")
    end_two(start_two(lambda rank: [asking.__file__, tmp_path / f"{rank}.json", *words]))
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [6, []]


def test_both_processes_save_and_leave_where_one_of_them_has_sigterm(image_folder, tmp_path):
    words = ["--trainer.max_steps=100000", "--trainer.max_epochs=-1", "--trainer.devices=2", "--trainer.strategy=ddp"]
    words += ["--checkpoint.every_n_train_steps=100000", "--trainer.log_every_n_steps=1", "--probe.enabled=false"]
    words = command("mae", *words, root=image_folder, run_dir=tmp_path)
    started = start_two(lambda rank: ["-m", "cxrbase", *words])
    until(lambda: any(path.stat().st_size > 1000 for path in tmp_path.glob("events.*")), started[0])
    started[1].send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [143, 143], "\n".join(errors)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] > 0
