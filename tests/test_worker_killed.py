"""A loader's worker process that the kernel kills is told in a sentence, and the run goes on from its checkpoint."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pausing
from commands import command
from cxrbase.cli import main

STEPS = ["--trainer.max_steps=30", "--trainer.max_epochs=100", "--checkpoint.every_n_train_steps=3"]


def workers(pid):
    """Processes that another one forked, without those that it started by a command of their own."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    # Not the words that `ps` shows: it cuts them where the environment says how wide a terminal is.
    children = [int(child) for child in listed.split()]
    own = Path(f"/proc/{pid}/cmdline").read_bytes()
    return sorted(child for child in children if Path(f"/proc/{child}/cmdline").read_bytes() == own)


def test_a_killed_worker_is_told_in_a_sentence_and_the_run_goes_on(image_folder, tmp_path):
    run = tmp_path / "run"
    # Twenty batches an epoch: with fewer, the workers have loaded them all, and ended, before the first checkpoint.
    words = command("mae", *STEPS, "--data.num_workers=2", "--data.batch_size=2", root=image_folder, run_dir=run)
    process = pausing.start(words, "last.ckpt", stderr=subprocess.PIPE)
    both = workers(process.pid)
    assert len(both) == 2
    os.kill(both[1], signal.SIGKILL)
    process.send_signal(signal.SIGCONT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1, error
    assert "Traceback" not in error
    assert re.findall("cxrbase: error: .*", error) == [
        "cxrbase: error: a worker process of the loader was killed (SIGKILL), perhaps for want of memory: "
        "set fewer num_workers or a smaller batch_size, and go on with --ckpt_path=<run folder>"
    ]
    assert error.rstrip().endswith("<run folder>")
    assert not (run / "summary.json").exists()
    assert main([*words, "--data.num_workers=0", f"--ckpt_path={run}"]) == 0
    assert json.loads((run / "summary.json").read_text())["steps"] == 30
