"""Where cells run, and what they are given there: the devices that their words ask for."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from cells_at_work import started
from cxrbase.cli import main
from cxrbase.compare import machine
from cxrbase.compare.board import forget_failures, lay_out
from cxrbase.compare.engines import execute
from cxrbase.compare.machine import Machine, visible_gpus
from cxrbase.compare.run_cell import settle
from cxrbase.compare.slurm import executor_for
from cxrbase.compare.worker import fit_words
from cxrbase.errors import ConfigError


def cell(plan, *words):
    return replace(plan, words=list(words)).cells()[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="on GPUs a share is a device")
@pytest.mark.parametrize(
    ("asked", "jobs", "cells", "found"),
    [
        (None, None, None, ["1"] * 8),
        (None, None, 3, ["2"] * 3),
        (None, None, 1, ["8"]),
        (None, 2, None, ["4", "4"]),
        (None, 16, None, ["1"] * 16),
        (None, 16, 1, ["8"]),
        ("1", 2, None, ["1", "1"]),
    ],
)
def test_cells_share_the_cores_and_keep_to_the_threads_asked_for(plan, monkeypatch, asked, jobs, cells, found):
    monkeypatch.setattr(machine, "available_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    here = Machine(jobs, cells)
    assert [here.take(cell(plan))["OMP_NUM_THREADS"] for _ in found] == found
    assert here.take(cell(plan)) is None


def test_no_jobs_are_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        Machine(0)


@pytest.mark.parametrize(
    ("asked", "devices", "gpus"),
    [
        ([], 1, 1),
        (["devices=2"], 2, 2),
        (["devices=[0, 3, 5]"], 3, 3),
        (["devices=[3]"], 1, 1),
        (["devices=0,1"], 2, 2),
        (["devices='4'"], 4, 4),
        (["devices=-1"], 1, 1),
        (["devices=auto"], 1, 1),
        (["devices=2", "accelerator=cpu"], 2, 1),
    ],
)
def test_a_cell_needs_the_devices_that_its_words_ask_for(plan, asked, devices, gpus):
    words = [f"--trainer.{word}" for word in asked]
    found = cell(plan, *words)
    assert (found.devices, found.gpus) == (devices, gpus)
    assert replace(plan, words=words).cells()[0].devices == 1  # the untrained network is scored only


@pytest.mark.parametrize(("asked", "told"), [("[3]", 1), ("[0, 3, 5]", 3), ("auto", 1), ("2", 2)])
def test_a_cell_trains_on_the_gpus_it_was_given_whatever_they_are_called(plan, tmp_path, monkeypatch, asked, told):
    one = cell(plan, f"--trainer.devices={asked}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    words = fit_words(plan, one, tmp_path, steps=4)
    share = Machine(None, gpus=["1", "4", "7"]).take(one)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", share["CUDA_VISIBLE_DEVICES"])
    assert len(share["CUDA_VISIBLE_DEVICES"].split(",")) == told
    assert fit_words(plan, one, tmp_path, steps=4) == [*words, f"--trainer.devices={told}"]


def test_cells_on_this_machine_get_as_many_gpus_as_they_ask_for(plan):
    one, two = cell(plan), cell(plan, "--trainer.devices=2")
    here = Machine(None, gpus=["4", "5", "7"])
    first, second = here.take(two), here.take(one)
    assert [first, second] == [{"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "7"}]
    assert here.take(one) is None
    here.give_back(second)
    assert here.take(two) is None  # one of the two is still missing
    here.give_back(first)
    assert here.take(two) == {"CUDA_VISIBLE_DEVICES": "4,5"}
    with pytest.raises(ConfigError, match=r"asks for 4 GPUs by .* this machine has 3"):
        here.check(cell(plan, "--trainer.devices=4"))


def test_more_jobs_than_gpus_share_them_evenly(plan):
    here = Machine(4, gpus=["0", "1"])
    assert [here.take(cell(plan))["CUDA_VISIBLE_DEVICES"] for _ in range(4)] == ["0", "1", "0", "1"]
    assert here.take(cell(plan)) is None
    assert Machine(1, gpus=["0", "1"]).take(cell(plan, "--trainer.devices=2")) == {"CUDA_VISIBLE_DEVICES": "0,1"}


def test_gpus_keep_the_names_that_they_were_given_by(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-8a")
    assert visible_gpus() == ["3", "GPU-8a"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ["0", "1"]


@pytest.fixture
def with_srun(tmp_path, monkeypatch):
    """A PATH on which submitit finds Slurm; nothing is submitted to it."""
    pytest.importorskip("submitit")
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def batch_file(folder, gpus, options):
    executor = executor_for(folder, gpus, options)
    assert executor.cluster == "slurm"
    return executor._executor._make_submission_file_text("run", "0").splitlines()


@pytest.mark.usefixtures("with_srun")
def test_a_job_asks_for_the_gpus_of_its_cells_and_for_what_the_user_says(tmp_path):
    usual = batch_file(tmp_path, 2, {})
    assert {"#SBATCH --gpus-per-node=2", "#SBATCH --cpus-per-task=16", "#SBATCH --time=1440"} <= set(usual)
    asked = {"slurm_partition": "gpu", "slurm_account": "lab", "slurm_qos": "long", "timeout_min": 600}
    asked |= {"cpus_per_task": 6, "gpus_per_node": None, "slurm_gres": "gpu:a100:1"}
    own = batch_file(tmp_path, 1, asked)
    assert {"#SBATCH --partition=gpu", "#SBATCH --account=lab", "#SBATCH --qos=long", "#SBATCH --time=600",
            "#SBATCH --cpus-per-task=6", "#SBATCH --gres=gpu:a100:1"} <= set(own)  # fmt: skip
    assert not any("gpus-per-node" in line for line in own)


@pytest.mark.usefixtures("with_srun")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"partitio": "gpu"}, r"--slurm takes parameters of submitit, got .*'partitio'"),
        ({"slurm_partitio": "gpu"}, "slurm_partitio"),
        ({"timeout_min": "long"}, "timeout_min"),
    ],
)
def test_an_option_that_submitit_does_not_know_is_answered_in_a_sentence(tmp_path, options, said):
    with pytest.raises(ConfigError, match=said) as error:
        executor_for(tmp_path, 1, options)
    assert "\n" not in str(error.value)


def test_cells_that_are_lost_before_they_begin_are_failed_cells_and_end_no_other(plan, tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0.1)  # that it waits for what a dead job may have left
    places = lay_out(replace(plan, seeds=[0], objectives=["mae"]), tmp_path / "made", data="data")
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))  # of the jobs
    execute(places, engine="slurm", jobs=None, tick=lambda: None)
    assert [place.failure["reason"] for place in places] == ["killed by signal 9: no output"] * 2


def test_the_error_of_an_earlier_try_is_not_the_reason_of_a_later_end(plan, tmp_path):
    place = lay_out(plan, tmp_path / "made", data="data")[0]
    log = place.folder / "log.txt"
    log.write_text("begins: process 1\nerror: the loss diverged\n")
    settle(place.folder, 1)
    assert place.failure["reason"] == "exit code 1: error: the loss diverged"
    forget_failures([place])
    assert place.failure is None
    settle(place.folder, -9)
    assert place.failure["reason"] == "killed by signal 9: no output"
    with log.open("a") as file:
        file.write("begins: process 2\nstep 20\n")
    settle(place.folder, -9)
    assert place.failure["reason"] == "killed by signal 9: step 20"


@pytest.mark.slow
def test_tasks_of_ray_are_given_the_gpus_of_their_cells(plan, tmp_path, ray):
    words = ["--trainer.accelerator=gpu", "--trainer.devices=2"]
    plan = replace(plan, objectives=["mae"], seeds=[0], words=words)
    places = lay_out(plan, tmp_path / "made", data="data")
    # The node says that it has three; nothing looks for them before training does, which fails.
    ray.init(num_cpus=2, num_gpus=3, log_to_driver=False, include_dashboard=False)
    try:
        execute(places, engine="ray", jobs=None, tick=lambda: None)
    finally:
        ray.shutdown()
    given = {
        place.cell.objective: line.rsplit(" ", 1)[1].split(",")
        for place in places
        for line in (place.folder / "log.txt").read_text().splitlines()
        if line.startswith("begins: ")
    }
    assert {objective: len(names) for objective, names in given.items()} == {"untrained": 1, "mae": 2}


@pytest.mark.slow
def test_a_cell_on_two_devices_is_one_result_also_within_a_job_of_one_task(config, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    for name, value in {
        "NTASKS": "1",
        "JOB_NAME": "cxrbase-compare",
        "PROCID": "0",
        "LOCALID": "0",
        "NODEID": "0",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    words = [*config(control=False), "--engine=slurm", "--words+=--trainer.devices=2", "--slurm={timeout_min: 30}"]
    assert main(words) == 0
    root = tmp_path / "out" / "small"
    (result,) = root.glob("cells/*/result.json")
    found = json.loads(result.read_text())
    assert found["cost"]["global_batch"] == 32
    assert (found["summary"]["steps"], found["spent"]["images"]) == (2, 64)
    assert len(started(root)[result.parent.name]) == 1
    assert "GLOBAL_RANK: 1" in (result.parent / "log.txt").read_text()
