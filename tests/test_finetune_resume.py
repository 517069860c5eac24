"""Fine-tuning that was killed goes on to the same model; two processes fit as one; other settings are refused."""

import shutil
import signal
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import pausing
import warm
from cxrbase.cli import main
from cxrbase.evaluation.finetune_fit import BestEpoch
from task_runs import make_place, words

EPOCHS = 4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("fit"))


def long_words(place, run, *more):
    """Drop path, few images and workers: all that is random about fine-tuning."""
    return words(place, "phantom", f"--finetune.epochs={EPOCHS}", "--finetune.batch_size=4",
                 "--finetune.fraction=0.7", *more, run=run)  # fmt: skip


STARTS_ANOTHER = """
import runpy, sys
sys.executable = sys.argv.pop(1)
runpy.run_module("cxrbase", run_name="__main__", alter_sys=True)
"""


def start(folder, line):
    """A process of `cxrbase`, and whatever Lightning starts beside it, which need not import libraries again."""
    words = ["-c", STARTS_ANOTHER, warm.python(folder), *line]
    return warm.Process(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def stopped_by(number, place, run):
    """Sends a signal after the first epoch and before the last, and returns the exit code and what was said."""
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = pausing.start(long_words(place, run), "last.ckpt", **streams)
    pausing.signal_and_go_on(process, number)
    said = process.communicate(timeout=60)[1]
    assert not (place / run / "model").exists()
    return process.returncode, said


@pytest.fixture(scope="module")
def killed(place):
    stopped_by(signal.SIGKILL, place, "killed")
    return place / "killed"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_says_how_to_go_on_and_is_no_success(place, number, code):
    found, said = stopped_by(number, place, f"stopped_{code}")
    assert found == code
    assert f"resume with --ckpt_path={place / f'stopped_{code}'}" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_killed_run_refuses_another_rate_and_goes_on_to_the_same_model(place, killed, capsys):
    again = long_words(place, "killed")
    assert main(again) == 1
    assert f"go on with it by --ckpt_path={killed}" in capsys.readouterr().err
    elsewhere = [word for word in again if not word.startswith("--run_dir")]  # the folder is that of the checkpoint
    assert main([*elsewhere, f"--ckpt_path={killed}", "--finetune.lr=1e-4"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "--finetune.lr was 0.02, now it is 0.0001" in last
    taken = place / "taken"
    shutil.copytree(killed, taken)
    assert main([*long_words(place, "taken"), f"--ckpt_path={killed}"]) == 1
    assert f"{taken} holds a run already" in capsys.readouterr().err
    stood = torch.load(killed / "last.ckpt", weights_only=True)
    assert 0 <= stood["epoch"] < EPOCHS - 1
    # Neither the number of workers nor how it is asked for changes what comes out.
    assert main([*elsewhere, f"--ckpt_path={killed}", "--finetune.num_workers=1"]) == 0
    assert main(long_words(place, "whole", "--ckpt_path=last")) == 0
    whole = weights(place / "whole")
    for name, value in weights(killed).items():
        assert torch.equal(value, whole[name]), name
    assert not (killed / "last.ckpt").exists()


def test_the_time_of_a_run_that_was_gone_on_with_is_counted():
    best = BestEpoch(np.zeros((2, 1)), {})
    best.load_state_dict({"score": 0.5, "epoch": 1, "weights": {}, "wall_s": 1000.0})
    best.on_train_start(None, None)
    assert 1000 < best.wall_s < 1010
    assert 1000 < best.state_dict()["wall_s"] < 1010


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_what_is_no_checkpoint_of_fine_tuning_is_one_sentence(place, tmp_path, capsys, content):
    (tmp_path / "last.ckpt").write_bytes(content)
    assert main([*words(place, "phantom", run="refused"), f"--ckpt_path={tmp_path}"]) == 1
    assert "is not a checkpoint of fine-tuning, or is damaged" in capsys.readouterr().err.splitlines()[-1]
    assert main([*words(place, "phantom", run="refused"), f"--ckpt_path={tmp_path / 'nowhere'}"]) == 1
    assert "no checkpoint at" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("mode", ["probe", pytest.param("finetune", marks=pytest.mark.slow)])
def test_two_processes_fit_as_one_with_the_joint_batch(place, tmp_path, mode):
    joint = [f"--finetune.mode={mode}", "--finetune.drop_path=0", "--finetune.weight_decay=0"]
    two = [*joint, "--finetune.batch_size=4", "--finetune.devices=2"]
    process = start(tmp_path, words(place, "phantom", *two, run=f"two_{mode}"))
    error = process.communicate(timeout=240)[1]
    assert process.returncode == 0, error
    assert main(words(place, "phantom", *joint, "--finetune.batch_size=8", run=f"one_{mode}")) == 0
    one, two = weights(place / f"one_{mode}"), weights(place / f"two_{mode}")
    for name, value in one.items():
        if name.startswith("classifier."):
            torch.testing.assert_close(two[name], value, rtol=2e-3, atol=2e-4, msg=lambda text, n=name: f"{n}: {text}")
    assert len(list((place / f"two_{mode}" / "results").glob("*.json"))) == 1
