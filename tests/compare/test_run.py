"""Comparisons that really run: a failing cell, a killed comparison, a Ray cluster that loses a node, an array job."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml

import warm
from cells_at_work import finished, started, workers
from commands import EXPERIMENTS
from compare.conftest import SMALL
from cxrbase.cli import main
from cxrbase.compare.board import lay_out
from cxrbase.compare.engines import execute
from cxrbase.compare.plan import Plan
from cxrbase.compare.run_cell import run
from cxrbase.data.canvas import to_canvas
from cxrbase.data.decode import decode_uint8
from cxrbase.data.manifest import Manifest
from waiting import until


def unblock():
    # A background job inherits an ignored SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_unreadable_images_of_a_task_are_answered_by_the_option_that_allows_for_them(
    config, compared_phantom, tmp_path, capsys
):
    root = shutil.copytree(compared_phantom, tmp_path / "torn", ignore=shutil.ignore_patterns(".canvas"))
    for path in Manifest.read(root / "manifest.parquet").paths[:3]:
        path.write_bytes(b"not an image")
    task = {"name": "torn", "title": "Torn", "data": {"root": str(root)}}
    (tmp_path / "torn.yaml").write_text(yaml.safe_dump({"task": task}))
    assert main(config(tasks=[str(tmp_path / "torn.yaml")])) == 1
    assert "allow for them by --max_bad=" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_a_failing_cell_is_reported_and_a_second_run_does_only_what_is_missing(
    config, compared_phantom, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "executable", str(warm.python(tmp_path)))
    broken = {"rate": {"values": {"usual": ["--model.lr=1e-3"], "absurd": ["--model.lr=1e30", "--model.warmup=0.0"]}}}
    told = "--words+=--probe.test=true"  # for the score of the network that a run starts from
    assert main([*config(axes=broken), told]) == 1
    root = tmp_path / "out" / "small"
    content = json.loads((root / "results.json").read_text())
    states = {cell["title"]: cell["state"] for cell in content["cells"]}
    assert states == {
        "untrained seed 0": "done",
        "mae 32-true usual seed 0": "done",
        "mae 32-true absurd seed 0": "failed",
    }
    failed = next(cell for cell in content["cells"] if cell["state"] == "failed")
    # Named by the loss or, where the run ends before the next step looks at it, by the features.
    assert "learning rate" in failed["failure"] or "diverged" in failed["failure"]
    page = (root / "report.html").read_text()
    assert "mae 32-true absurd seed 0" in page
    assert failed["failure"][:30] in page
    done = next(cell for cell in content["cells"] if cell["title"] == "mae 32-true usual seed 0")
    assert done["spent"]["images"] == 64
    assert done["spent"]["flops"] == pytest.approx(64 * done["cost"]["flops_per_image"])
    assert [point["images"] for point in done["curve"]] == [32, 64]
    assert set(done["tasks"]["phantom"]["protocols"]) == {"linear", "knn", "linear-2shot"}
    before = finished(root)
    far = tmp_path / "far.yaml"
    far.write_text(yaml.safe_dump({"task": {"name": "far", "title": "Far", "data": {"root": str(tmp_path / "far")}}}))
    tasks = [str(tmp_path / "task.yaml"), str(far)]
    # Without the broken axis: the control is there, MAE has another key. A task without images changes nothing.
    assert main([*config(tasks=tasks), told]) == 0
    assert (
        f"far is not scored: no folder {tmp_path / 'far'}"
        in json.loads((root / "results.json").read_text())["warnings"]
    )
    assert "far is not scored" in (root / "report.html").read_text()
    assert {name: when for name, when in finished(root).items() if name in before} == before
    assert "AUROC" in capsys.readouterr().out
    check_control(root)
    check_reading(root, compared_phantom)


@pytest.fixture
def at_home(compared_phantom, tmp_path, monkeypatch):
    """A plan whose paths are of the folder that this process is in."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "experiments").symlink_to(EXPERIMENTS)
    (home / "images").symlink_to(compared_phantom)
    task = {"name": "t", "title": "T", "data": {"root": "images"}, "findings": ["effusion"]}
    (home / "task.yaml").write_text(yaml.safe_dump({"task": task}))
    monkeypatch.chdir(home)
    return Plan(
        name="small", objectives=["mae"], size="tiny", data="phantom", tasks=["task.yaml"], amounts={"images": 64},
        budget="images", seeds=[0], resamples=20, shots=[], words=[*SMALL, "--data.root=images", "--data.phantom=null"],
    )  # fmt: skip


def test_relative_paths_are_of_the_comparison_wherever_a_cell_is_run(at_home, tmp_path, monkeypatch):
    home = os.getcwd()
    place = lay_out(at_home, tmp_path / "made", data="data")[0]
    monkeypatch.setattr(sys, "executable", str(warm.python(tmp_path)))
    monkeypatch.chdir(tmp_path)
    assert run(str(place.folder), home=home) == 0
    assert place.state() == "done"


@pytest.mark.slow
def test_a_ray_cluster_that_was_started_elsewhere_reads_the_files_of_the_comparison(
    at_home, tmp_path, ray, monkeypatch
):
    home = os.getcwd()
    monkeypatch.chdir(tmp_path)
    ray.init(num_cpus=1, log_to_driver=False, include_dashboard=False)
    monkeypatch.chdir(home)
    places = lay_out(at_home, Path("made"), data="data")[:1]
    try:
        execute(places, engine="ray", jobs=None, tick=lambda: None)
    finally:
        ray.shutdown()
    assert places[0].state() == "done"


@pytest.mark.slow
def test_what_is_scored_otherwise_is_not_pretrained_again(config, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(warm.python(tmp_path)))
    plan = {"control": False, "findings": ["effusion"]}
    assert main(config(**plan)) == 0
    (first,) = (tmp_path / "out").glob("small/cells/*")
    assert main(config(**plan, shots=[4])) == 0
    (second,) = set((tmp_path / "out").glob("small/cells/*")) - {first}
    found = [json.loads((folder / "result.json").read_text()) for folder in (first, second)]
    assert set(found[1]["tasks"]["phantom"]["protocols"]) == {"linear", "knn", "linear-4shot"}
    for name in ("spent", "curve", "cost", "summary", "peak_memory_gb"):
        assert found[0][name] == found[1][name]
    encoders = [(folder / "run" / "encoder.safetensors").read_bytes() for folder in (first, second)]
    assert encoders[0] == encoders[1]
    assert not (second / "run" / "last.ckpt").exists()  # nothing was trained there


@pytest.mark.slow
def test_a_budget_of_seconds_becomes_the_steps_that_fit_into_it(config, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(warm.python(tmp_path)))
    words = config(control=False, amounts={"seconds": 1.0}, budget="seconds", findings=["effusion"])
    assert main(words) == 0
    (cell,) = json.loads((tmp_path / "out" / "small" / "results.json").read_text())["cells"]
    cost, summary = cell["cost"], cell["summary"]
    assert cost["global_batch"] == 16
    assert cost["steps"] == summary["steps"] == round(1.0 / (16 * cost["seconds_per_image"]))
    # What was measured beforehand is what the run took, as far as a busy machine allows to say.
    assert 0.2 < cost["seconds_per_image"] * summary["images_per_s"] < 5
    assert cell["spent"]["seconds"] == pytest.approx(cell["spent"]["images"] / summary["images_per_s"])


def check_control(root):
    """The control is the network that the other cells start from."""
    content = json.loads((root / "results.json").read_text())
    control, trained = (root / "cells" / cell["folder"] / "run" for cell in content["cells"])
    in_run = json.loads((trained / "summary.json").read_text())["probe"]["random_init"]
    # The probe of the run and the suite differ in details of the fit, not in the features.
    found = content["cells"][0]["tasks"]["phantom"]["protocols"]["linear"]["value"]
    assert found == pytest.approx(in_run, abs=0.05)
    assert (control / "encoder.safetensors").is_file()


def check_reading(root, phantom):
    """Cells are scored on images that were read as those of their training were, the control too."""
    cards = [json.loads(path.read_text()) for path in root.glob("cells/*/run/encoder.json")]
    assert {card["crop_borders"] for card in cards} == {True}
    (canvases,) = (root / "scores" / "canvas").glob("*-64.npy")  # decoded once for all that score
    paths = Manifest.read(phantom / "manifest.parquet").paths
    wanted = [to_canvas(decode_uint8(path, crop=True), 64)[0] for path in paths]
    np.testing.assert_array_equal(np.load(canvases), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_comparison_leaves_a_report_and_no_worker_and_goes_on(config, tmp_path, number):
    words = config(objectives=["mae", "simclr"], amounts={"images": 256})
    root = tmp_path / "out" / "small"
    process = subprocess.Popen([sys.executable, "-m", "cxrbase", *words], preexec_fn=unblock)
    until(lambda: len(started(root)) == 2)
    before = finished(root)
    assert before
    process.send_signal(number)
    assert process.wait(timeout=120) == 130
    assert workers(root) == []
    assert "This report is partial" in (root / "report.html").read_text()
    assert main(words) == 0
    assert {name: when for name, when in finished(root).items() if name in before} == before
    assert len(finished(root)) == 3
    assert all(len(started(root)[name]) == 1 for name in before)


@pytest.mark.slow
def test_a_cell_that_was_killed_before_its_summary_is_trained_again(config, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(warm.python(tmp_path)))
    assert main(config(control=False)) == 0
    (result,) = (tmp_path / "out").glob("small/cells/*/result.json")
    whole = json.loads(result.read_text())
    result.unlink()
    (result.parent / "run" / "summary.json").unlink()
    assert main(config(control=False)) == 0
    again = json.loads(result.read_text())
    assert again["spent"]["images"] == whole["spent"]["images"] == 64
    assert len(again["curve"]) == len(whole["curve"])


@pytest.mark.slow
def test_an_array_job_gives_the_same_files(config, tmp_path):
    pytest.importorskip("submitit")
    assert main([*config(), "--engine=slurm"]) == 0
    assert len(finished(tmp_path / "out" / "small")) == 2


@pytest.mark.slow
def test_a_ray_cluster_that_loses_a_node_loses_nothing_and_does_nothing_twice(config, tmp_path, ray, cluster):
    second = cluster.add_node(num_cpus=1)
    root = tmp_path / "out" / "small"
    ray.init(log_to_driver=False)
    words = config(objectives=["mae", "simclr"], seeds=[0, 1])
    lost = {}

    def lose():
        until(lambda: len(finished(root)) >= 2 and len(started(root)) == len(finished(root)) + 2)  # both are busy
        lost["before"] = finished(root)
        cluster.remove_node(second)

    thread = threading.Thread(target=lose)
    thread.start()
    assert main([*words, "--engine=ray"]) == 0
    thread.join(timeout=10)
    before, after, begun = lost["before"], finished(root), started(root)
    assert len(after) == 6
    assert not list(root.glob("cells/*/failed.json"))
    # What was done when the node was lost was not begun again. Of the rest one cell was, that which ran there,
    # unless its worker came to the end in the seconds that it is left.
    assert {name: after[name] for name in before} == before
    assert {name: len(begun[name]) for name in before} == dict.fromkeys(before, 1)
    assert sum(len(processes) - 1 for processes in begun.values()) <= 1
    assert main([*words, "--engine=ray"]) == 0
    assert (finished(root), started(root)) == (after, begun)
