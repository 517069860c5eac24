"""Comparisons that really run: a failing cell, a killed comparison, a Ray cluster that loses a node, an array job."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

import warm
from commands import EXPERIMENTS
from cxrbase.cli import main
from cxrbase.data.canvas import to_canvas
from cxrbase.data.decode import decode_uint8
from cxrbase.data.manifest import Manifest
from cxrbase.data.phantom import make_phantom

SMALL = [
    "--data.image_size=32", "--data.canvas_size=32", "--data.batch_size=16", "--trainer.accelerator=cpu",
    '--model.backbone_options={"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}', "--figures.images=2",
    "--probe.limit=200", "--checkpoint.every_n_train_steps=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare") / "phantom"
    make_phantom(root, patients=60, image_size=32, workers=1)
    return root


@pytest.fixture
def config(phantom, tmp_path):
    """Writes a plan on a small phantom; its words make networks as small as a test can use."""
    task = tmp_path / "task.yaml"
    data = {"root": str(phantom), "phantom": {"patients": 60, "image_size": 32}}
    task.write_text(yaml.safe_dump({"task": {"name": "phantom", "title": "Findings", "data": data}}))

    def write(**changes):
        spec = '--data.phantom={"patients": 60, "image_size": 32}'
        plan = {
            "name": "small", "objectives": ["mae"], "size": "tiny", "data": "phantom", "tasks": [str(task)],
            "amounts": {"images": 64}, "budget": "images", "seeds": [0], "resamples": 50, "shots": [2], "points": 2,
            "words": [*SMALL, f"--data.root={phantom}", spec, "--data.crop_borders=true"],
            "experiments": str(EXPERIMENTS),
        } | changes  # fmt: skip
        path = tmp_path / "compare.yaml"
        path.write_text(yaml.safe_dump(plan))
        return ["compare", f"--config={path}", f"--out={tmp_path / 'out'}", "--jobs=1"]

    return write


def finished(folder: Path) -> dict[str, float]:
    """Time of writing of each result."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("cells/*/result.json")}


def test_a_failing_cell_is_reported_and_a_second_run_does_only_what_is_missing(
    config, phantom, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "executable", str(warm.python(tmp_path)))
    broken = {"rate": {"values": {"usual": ["--model.lr=1e-3"], "absurd": ["--model.lr=1e30", "--model.warmup=0.0"]}}}
    assert main(config(axes=broken)) == 1
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
    assert main(config()) == 0  # without the broken axis: the control is there, MAE has another key
    assert {name: when for name, when in finished(root).items() if name in before} == before
    assert "AUROC" in capsys.readouterr().out
    check_control(root)
    check_reading(root, phantom)


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
def test_a_killed_comparison_leaves_a_report_and_goes_on(config, tmp_path):
    words = config(objectives=["mae", "simclr"], amounts={"images": 256})
    root = tmp_path / "out" / "small"
    process = subprocess.Popen([sys.executable, "-m", "cxrbase", *words], preexec_fn=unblock)
    deadline = time.time() + 300
    while not finished(root) and time.time() < deadline:
        time.sleep(0.5)
    before = finished(root)
    assert before
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
    assert "This report is partial" in (root / "report.html").read_text()
    assert main(words) == 0
    assert {name: when for name, when in finished(root).items() if name in before} == before
    assert len(finished(root)) == 3


def unblock():
    # A background job inherits an ignored SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
def test_an_array_job_gives_the_same_files(config, tmp_path):
    pytest.importorskip("submitit")
    assert main([*config(), "--engine=slurm"]) == 0
    assert len(finished(tmp_path / "out" / "small")) == 2


@pytest.mark.slow
def test_a_ray_cluster_that_loses_a_node_loses_nothing_and_does_nothing_twice(config, tmp_path):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    root = tmp_path / "out" / "small"
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        words = config(objectives=["mae", "simclr"], seeds=[0, 1])
        import threading

        def lose():
            while len(finished(root)) < 2:
                time.sleep(0.3)
            cluster.remove_node(second)

        thread = threading.Thread(target=lose)
        thread.start()
        assert main([*words, "--engine=ray"]) == 0
        thread.join(timeout=10)
        assert len(finished(root)) == 6
        assert not list(root.glob("cells/*/failed.json"))
    finally:
        ray.shutdown()
        cluster.shutdown()
