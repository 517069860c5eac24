"""How a real run shows its progress: a bar on a terminal, lines in the log of a job."""

import logging
import os
import re
from types import SimpleNamespace

import lightning as L
import numpy as np
import torch

import warm
from commands import command
from cxrbase.progress_lines import ProgressLines

OFTEN = ["--step_times.every_n_steps=1", "--throughput.every_n_steps=1", "--trainer.max_steps=4"]


def shown(image_folder, run, **env):
    words = command("dino", "--trainer.enable_progress_bar=true", *OFTEN, root=image_folder, run_dir=run)
    done = warm.run(["-m", "cxrbase", *words], env=os.environ | {"COLUMNS": "160"} | env)
    assert done.returncode == 0, done.stderr
    return done


def test_the_bar_shows_loss_speed_and_the_split_of_a_step_in_one_line(image_folder, tmp_path):
    done = shown(image_folder, tmp_path / "run", TTY_COMPATIBLE="1", NO_COLOR="1")
    *_, line = re.findall(r"[^\n]*it/s[^\n]*", done.stdout)
    assert re.search(r"loss: \d+\.\d{3} images/s: [\d,]+ %: .*fwd \d+ bwd \d+", line), line
    assert "v_num" not in line


def test_a_job_without_a_terminal_draws_no_bar(image_folder, tmp_path):
    assert "it/s" not in shown(image_folder, tmp_path / "run").stdout


class Tiny(L.LightningModule):
    """Two layers that count as a model."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def lines_of(progress, tmp_path, caplog, steps=4):
    trainer = L.Trainer(max_steps=steps, callbacks=[progress], accelerator="cpu", logger=False,
                        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
                        default_root_dir=tmp_path)  # fmt: skip
    with caplog.at_level(logging.INFO, "cxrbase.progress_lines"):
        trainer.fit(Tiny(), torch.utils.data.DataLoader(torch.zeros(8, 2)))
    return [record.message for record in caplog.records if record.name == "cxrbase.progress_lines"]


def test_lines_say_how_far_a_run_is_and_what_is_left(tmp_path, caplog):
    lines = lines_of(ProgressLines(lambda module: {"weights": len(module.layer.weight)}, first_s=0), tmp_path, caplog)
    assert [re.sub(r"0:00:\d\d", "T", line) for line in lines] == [
        f"step {done} of 4, weights 1, T left" for done in (1, 2, 3, 4)
    ]


def test_lines_come_ever_more_rarely(tmp_path, caplog, monkeypatch):
    seconds = iter(range(0, 100_000, 7))  # a step takes seven seconds
    monkeypatch.setattr("cxrbase.progress_lines.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    lines = lines_of(ProgressLines(), tmp_path, caplog, steps=400)
    said = [int(re.match(r"step (\d+) of 400", line)[1]) for line in lines]
    assert said[:3] == [2, 4, 6]
    gaps = np.diff(said)
    assert (np.diff(gaps) >= 0).all()
    assert gaps[-1] == 8  # 50 s after 2,600


def test_a_short_run_has_none(tmp_path, caplog):
    assert lines_of(ProgressLines(), tmp_path, caplog) == []
