"""A run that a limit of steps or time stopped within an epoch or a step goes on there, as if it had not stopped."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback, Timer, model_checkpoint

from commands import command
from cxrbase.cli import main
from test_resume import assert_same, assert_same_end

# The images are 27, and a rate that does not change is the same for any number of steps.
WORDS = ["--trainer.max_epochs=9", "--data.batch_size=2", "--model.min_lr=1", "--model.warmup=0"]
WORDS += ["--model.lr=0.02", "--probe.enabled=false"]


def held(path):
    return torch.load(path, weights_only=True)


def counts(checkpoint):
    return checkpoint["loops"]["fit_loop"]


def stop_after(batches, monkeypatch):
    """Lets a limit of so many seconds end after as many batches, the first of which is looked at before it."""
    passed = itertools.count()
    monkeypatch.setattr(Timer, "time_elapsed", lambda timer, stage=None: float(next(passed)))
    return f"--trainer.max_time=00:00:00:{batches:02}"


class SavesWithin(Callback):
    """Saves after a batch that is within a step, as callbacks may, and within the next one, as after an error."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 6:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/after.ckpt")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 7:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/during.ckpt")


@pytest.mark.parametrize(
    ("steps", "more", "earlier"), [(20, [], False), (5, ["--trainer.accumulate_grad_batches=3"], True)]
)
def test_more_steps_go_on_within_the_epoch(steps, more, earlier, image_folder, tmp_path):
    """Also from a checkpoint of an earlier version, which has the epoch as done."""
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    words = [*WORDS, *more]
    assert main(command("mae", *words, f"--trainer.max_steps={steps}", root=image_folder, run_dir=cut)) == 0
    stopped = held(cut / "last.ckpt")
    assert stopped["CXRDataModule"]["stream"]["epoch"] == 1
    assert 0 < counts(stopped)["epoch_loop.batch_progress"]["current"]["ready"] < 12
    assert stopped["epoch"] == counts(stopped)["epoch_progress"]["current"]["completed"] == 1
    if earlier:
        for counted in counts(stopped)["epoch_progress"].values():
            counted["processed"] = counted["completed"] = counted["ready"]
        torch.save(stopped, cut / "last.ckpt")
    for run, again in ((cut, [f"--ckpt_path={cut}"]), (whole, [])):
        assert main(command("mae", *words, "--trainer.max_steps=40", *again, root=image_folder, run_dir=run)) == 0
    assert_same_end(cut, whole)


def test_a_limit_of_time_ends_with_a_step_and_the_run_goes_on_there(image_folder, tmp_path, monkeypatch):
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    words = [*WORDS, "--trainer.accumulate_grad_batches=3", "--trainer.max_steps=9"]
    with monkeypatch.context() as context:
        limit = stop_after(16, context)  # the fourth of the second epoch's twelve
        assert main(command("dino", *words, limit, root=image_folder, run_dir=cut)) == 0
    stopped = held(cut / "last.ckpt")
    assert stopped["global_step"] == 6
    assert stopped["CXRDataModule"]["stream"]["batches"] == 6
    assert main(command("dino", *words, f"--ckpt_path={cut}", root=image_folder, run_dir=cut)) == 0
    assert main(command("dino", *words, root=image_folder, run_dir=whole)) == 0
    assert_same_end(cut, whole)


def test_a_checkpoint_that_is_due_within_a_step_is_saved_with_it(image_folder, tmp_path, monkeypatch):
    whole, other = tmp_path / "whole", tmp_path / "other"
    words = [*WORDS, "--trainer.accumulate_grad_batches=3", "--trainer.max_steps=6"]
    timed = ["--checkpoint.every_n_train_steps=null", "--checkpoint.train_time_interval=0:00:05"]
    timed += ["--checkpoint.save_top_k=-1"]
    with monkeypatch.context() as context:
        clock = itertools.count()  # a second passes whenever it is looked at
        context.setattr(model_checkpoint, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        assert main(command("mae", *words, *timed, root=image_folder, run_dir=whole)) == 0
    path, *_ = paths = sorted(whole.glob("*step=*.ckpt"))
    assert not any(counts(held(path))["epoch_loop.batch_progress"]["current"]["ready"] % 3 for path in paths)
    assert main(command("mae", *words, f"--ckpt_path={path}", root=image_folder, run_dir=other)) == 0
    assert_same_end(other, whole)


def test_a_checkpoint_from_within_a_step_goes_on_from_its_beginning(image_folder, tmp_path):
    whole = tmp_path / "whole"
    words = [*WORDS, "--trainer.accumulate_grad_batches=3", "--trainer.max_steps=6"]
    saving = "--trainer.callbacks=test_stopped_within.SavesWithin"
    assert main(command("mae", *words, saving, root=image_folder, run_dir=whole)) == 0
    for name in ("after", "during"):
        other = tmp_path / name
        path = whole / f"{name}.ckpt"
        assert held(path)["CXRDataModule"]["stream"]["batches"] % 3
        assert main(command("mae", *words, f"--ckpt_path={path}", root=image_folder, run_dir=other)) == 0
        first, second = (held(run / "last.ckpt") for run in (other, whole))
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "CXRDataModule"):
            assert_same(first[part], second[part], part)
        for part in ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.state_dict"):
            assert_same(counts(first)[part], counts(second)[part], part)
