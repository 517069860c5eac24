"""Micro-batches and processes: the same update as one process with the joint batch."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands import REPOSITORY, command
from cxrbase.cli import main
from small_runs import train
from two_processes import end_two, free_port, start_two

pytestmark = pytest.mark.filterwarnings("ignore")


def in_two_processes(runs, folder):
    """Runs `small_runs.train` in two processes, all runs in one pair, and returns what both have at each end."""
    (folder / "runs.json").write_text(json.dumps(runs))
    script = str(Path(__file__).with_name("small_runs.py"))
    end_two(start_two(lambda rank: [script, folder, rank]))
    ends = [[torch.load(folder / f"{n}-{rank}.pt", weights_only=True) for rank in range(2)] for n in range(len(runs))]
    for first, second in ends:
        torch.testing.assert_close(second, first, rtol=0, atol=0)
    return [first for first, _ in ends]


def assert_same_update(parts, whole, steps=3):
    """Gradients, as Adam remembers them, to rounding; then weights, teacher and centre to what Adam makes of it."""
    assert parts["steps"] == whole["steps"] == steps
    assert parts["lr"] == pytest.approx(whole["lr"], rel=1e-12)
    rounding = 1e-4 * max(float(gradient.abs().max()) for gradient in whole["gradients"].values())
    for name, gradient in whole["gradients"].items():
        torch.testing.assert_close(parts["gradients"][name], gradient, rtol=1e-4, atol=rounding)
    for name, value in whole["state"].items():
        # Adam steps as far for a gradient of nothing but rounding, as a bias before BatchNorm has, as for any other.
        student = name.replace("teacher_head.module", "head").replace("teacher_backbone.module", "backbone")
        gradient = whole["gradients"].get(student)
        firm = ... if gradient is None else gradient.abs() > rounding
        torch.testing.assert_close(parts["state"][name][firm], value[firm], rtol=1e-3, atol=2e-4)


@pytest.fixture(scope="module")
def two_hundred_images(tmp_path_factory):
    root = tmp_path_factory.mktemp("many")
    noise = np.random.default_rng(0).integers(0, 256, (200, 6, 6), np.uint8)
    for number, image in enumerate(noise):
        Image.fromarray(image).resize((36, 40), Image.Resampling.BICUBIC).save(root / f"{number:03}.png")
    return root


@pytest.mark.parametrize("name", ["mae", "dino"])
@pytest.mark.parametrize("size", [2, 16])
def test_four_accumulated_batches_are_one_large_one(name, size, two_hundred_images):
    parts = train(name, two_hundred_images, batch_size=size, accumulate_grad_batches=4)
    whole = train(name, two_hundred_images, batch_size=4 * size)
    assert parts["lr"] != pytest.approx(0.032 * 4 * size / 256)  # the schedule moved it
    assert_same_update(parts, whole)
    if name == "dino":
        assert float(whole["state"]["centre"].abs().max()) > 0


@pytest.mark.parametrize("name", ["mae", "dino"])
@pytest.mark.parametrize(("size", "drop_last", "steps"), [(3, True, 8), (4, False, 8), (5, False, 6)])
def test_so_they_are_over_epochs_that_end_within_a_step(name, size, drop_last, steps, image_folder):
    # 27 images: a batch alone is left over, or is the last step, or 5 and 2 images are.
    both = {"drop_last": drop_last, "steps": -1, "max_epochs": 2}
    parts = train(name, image_folder, batch_size=size, accumulate_grad_batches=2, **both)
    assert_same_update(parts, train(name, image_folder, batch_size=2 * size, **both), steps)


def test_two_processes_are_one_with_the_joint_batch_and_uneven_data_ends(image_folder, tmp_path):
    parts = {
        "mae": {"batch_size": 4},
        "dino": {"batch_size": 2, "accumulate_grad_batches": 2},
        "dino_balanced": {"batch_size": 4},
        "simclr": {"batch_size": 4},
    }
    # Plain, so a parameter without a gradient would end it.
    common = {"root": str(image_folder), "devices": 2, "strategy": "ddp"}
    runs = [{"name": name, **common, **settings} for name, settings in parts.items()]
    # 27 images: the last batch of an epoch is smaller, and one image has no partner.
    runs.append({"name": "mae", **common, "batch_size": 4, "drop_last": False, "steps": -1, "max_epochs": 2})
    *ends, uneven = in_two_processes(runs, tmp_path)
    for name, end in zip(parts, ends, strict=True):
        assert_same_update(end, train(name, image_folder, batch_size=8))
    assert uneven["steps"] == 8


def test_weights_spread_over_two_processes_are_one_process_with_the_joint_batch(image_folder, tmp_path):
    parts = {
        "mae": {"batch_size": 4, "gradient_clip_val": 0.5},
        "dino": {"batch_size": 2, "accumulate_grad_batches": 2},
        "dino_balanced": {"batch_size": 4, "model": {"recompute": True}},
        "simclr": {"batch_size": 4},
    }
    common = {"root": str(image_folder), "devices": 2, "strategy": "sharded"}
    ends = in_two_processes([{"name": name, **common, **settings} for name, settings in parts.items()], tmp_path)
    for (name, settings), end in zip(parts.items(), ends, strict=True):
        clip = settings.get("gradient_clip_val")
        assert end["sharded"]
        assert_same_update(end, train(name, image_folder, batch_size=8, gradient_clip_val=clip))


def documented(nodes):
    """Words of docs/million-images.md before and after those of a run, for so many nodes of this host."""
    page = (REPOSITORY / "docs" / "million-images.md").read_text()
    (launch, after) = re.search(r"torchrun (--nnodes=4 .*?) -m cxrbase fit \.\.\. \\\n +(--trainer.*)", page).groups()
    ours = {"--nnodes=4": f"--nnodes={nodes}", "--nproc-per-node=8": "--nproc-per-node=1", "node0:29500":
            f"localhost:{free_port()}", "--trainer.num_nodes=4": f"--trainer.num_nodes={nodes}",
            "--trainer.devices=8": "--trainer.devices=1"}  # fmt: skip
    for said, mine in ours.items():
        assert (launch + after).count(said) == 1
        launch, after = launch.replace(said, mine), after.replace(said, mine)
    return launch.split(), after.split()


def launch_nodes(words, count):
    """Runs `cxrbase` with words on so many nodes of this host by torchrun, as the page on many images says."""
    launch, after = documented(count)
    whole = [sys.executable, "-m", "torch.distributed.run", *launch, "-m", "cxrbase", *words, *after]
    nodes = [subprocess.Popen(whole, stderr=subprocess.PIPE, text=True) for _ in range(count)]
    errors = [node.communicate(timeout=300)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0] * count, "\n".join(errors)


@pytest.mark.slow
def test_nodes_of_torchrun_on_one_host_are_one_process_and_any_number_goes_on_where_others_stopped(
    image_folder, tmp_path
):
    words = ["--probe.enabled=false", "--figures.enabled=false", "--trainer.max_epochs=9"]

    def run(name, *more, nodes, workers=0):
        said = command("mae", *words, *more, f"--data.batch_size={8 // nodes}", f"--data.num_workers={workers}",
                       root=image_folder, run_dir=tmp_path / name)  # fmt: skip
        if nodes == 1:
            assert main(said) == 0
        else:
            launch_nodes(said, nodes)

    def held(name):
        return torch.load(tmp_path / name / "last.ckpt", weights_only=True)

    # The third step is within the second epoch.
    for name, nodes, workers in (("two", 2, 2), ("one", 1, 0)):
        run(name, "--trainer.max_steps=3", nodes=nodes, workers=workers)
    assert held("two")["batch"] == held("one")["batch"] == {"images": 8, "accumulated": 1}
    torch.testing.assert_close(held("two")["state_dict"], held("one")["state_dict"], rtol=1e-3, atol=1e-4)
    for name, parent in (("grown", "one"), ("four", "two")):
        shutil.copytree(tmp_path / parent, tmp_path / name)
    for name, nodes, workers in (("two", 1, 0), ("one", 1, 0), ("grown", 2, 0), ("four", 4, 1)):
        run(name, "--trainer.max_steps=7", f"--ckpt_path={tmp_path / name}", nodes=nodes, workers=workers)
    for name in ("two", "grown", "four"):
        assert held(name)["global_step"] == 7
        assert held(name)["CXRDataModule"] == held("one")["CXRDataModule"]
        torch.testing.assert_close(held(name)["state_dict"], held("one")["state_dict"], rtol=1e-3, atol=2e-4)
