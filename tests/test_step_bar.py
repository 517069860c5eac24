"""The progress bar of a real run."""

import os
import re

import warm
from commands import command


def test_the_bar_shows_loss_speed_and_the_split_of_a_step_in_one_line(image_folder, tmp_path):
    words = command("dino", "--trainer.enable_progress_bar=true", "--step_times.every_n_steps=1",
                    "--throughput.every_n_steps=1", "--trainer.max_steps=4",
                    root=image_folder, run_dir=tmp_path / "run")  # fmt: skip
    wide = os.environ | {"COLUMNS": "160"}
    run = warm.run(["-m", "cxrbase", *words], env=wide)
    assert run.returncode == 0, run.stderr
    (line,) = [line for line in run.stdout.splitlines() if "it/s" in line]
    assert re.search(r"loss: \d+\.\d+ images/s: [\d,]+ %: .*fwd \d+ bwd \d+", line), line
    assert "v_num" not in line
