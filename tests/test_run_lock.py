"""The folder of a run is held by one process, until it ends or dies."""

import json
import os
import signal

import pausing
from commands import command
from cxrbase.cli import main


def test_a_second_run_is_kept_out_of_a_folder_until_the_first_one_is_gone(image_folder, tmp_path, capfd):
    words = command("mae", "--data.num_workers=2", root=image_folder, run_dir=tmp_path / "run")
    words += ["--trainer.max_steps=4", "--checkpoint.every_n_train_steps=2"]
    first = pausing.start(words, "run/last.ckpt")
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    again = [*words, f"--ckpt_path={tmp_path / 'run'}", "--trainer.max_steps=6"]
    assert main(again) == 1
    assert "another process trains into" in capfd.readouterr().err.strip().splitlines()[-1]
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert main(again) == 0  # at once, though its workers may be there still
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 6
