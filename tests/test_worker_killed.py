"""A loader's worker process that the kernel kills is told in a sentence, and the run goes on from its checkpoint."""

import json
import os
import re
import signal
import subprocess

import pausing
from children import forked
from commands import command
from cxrbase.cli import main

STEPS = ["--trainer.max_steps=30", "--trainer.max_epochs=100", "--checkpoint.every_n_train_steps=3"]


def test_a_killed_worker_is_told_in_a_sentence_and_the_run_goes_on(image_folder, tmp_path):
    run = tmp_path / "run"
    words = command("mae", *STEPS, "--data.num_workers=2", "--data.batch_size=2", root=image_folder, run_dir=run)
    process = pausing.start(words, "last.ckpt", stderr=subprocess.PIPE)
    both = forked(process.pid)
    assert len(both) == 2
    os.kill(both[1], signal.SIGKILL)
    process.send_signal(signal.SIGCONT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1, error
    assert "Traceback" not in error
    assert re.findall("cxrbase: error: .*", error) == [
        "cxrbase: error: a worker process of the loader was killed (SIGKILL), possibly out of memory: "
        "set fewer num_workers or a smaller batch_size, and resume with --ckpt_path=<run folder>"
    ]
    assert error.rstrip().endswith("<run folder>")
    assert not (run / "summary.json").exists()
    assert main([*words, "--data.num_workers=0", f"--ckpt_path={run}"]) == 0
    assert json.loads((run / "summary.json").read_text())["steps"] == 30
