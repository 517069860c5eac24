"""Benchmarks run at the smallest size they take, and leave a JSON that says where, when and how it was made."""

import json
import os
import sys

import pytest

import warm
from commands import REPOSITORY

# Words by script; those that need minutes or libraries outside the tested versions are left to `make bench`.
QUICK = {
    "decode": ["--rounds=1", "--height=64", "--width=48"],
    "pack": ["--rounds=1", "--height=64", "--width=48", "--images=0"],
    "embed": ["--rounds", "1", "--images", "2", "--side", "64", "--batch", "2", "--encoder", "timm:test_vit"],
}
SLOW = {
    "step": ["--size=vit_tiny", "--batch_size=4", "--rounds=1"],
    "throughput": ["--rounds=1", "--repeats=1"],
    "clock": ["--blocks=4", "--block=2"],
    "memory": [],
    "evaluation": ["--resamples", "50", "--coverage_runs", "2"],
}
BENCHES = [*QUICK.items(), *(pytest.param(*one, marks=pytest.mark.slow) for one in SLOW.items())]


@pytest.mark.parametrize(("name", "words"), BENCHES)
def test_a_benchmark_runs_and_says_how_it_was_made(name, words, tmp_path):
    out = tmp_path / "result.json"
    script = REPOSITORY / "benchmarks" / f"{name}.py"
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = warm.run([script, *words, "--out", out], env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert f"benchmarks/{name}.py" in result["command"]
    assert {"date", "machine", "versions"} <= result.keys()
    assert sys.prefix not in out.read_text()


@pytest.mark.parametrize("size", ["vit_small", "vit_base"])
def test_the_table_over_all_benches_says_how_near_a_step_is_to_its_peers_and_to_the_floor(size):
    result = json.loads((REPOSITORY / "benchmarks" / "results" / f"step_{size}_cpu.json").read_text())
    lines = {line["what"]: line for line in result["headlines"]}
    for recipe, measured in result["recipes"].items():
        row = measured["row"]
        beside = lines[f"{recipe} {size}, time of a step / {row['fastest peer']}'s"]
        floor = lines[f"{recipe} {size}, floor of its products / time of a step"]
        assert (beside["value"], beside["goal"]) == (row["ratio"], "at most 0.80")
        assert (floor["value"], floor["goal"]) == (row["floor s"] / row["s a step"], "at least 0.85")


def test_the_table_over_all_benches_says_what_an_image_takes_in_memory():
    result = json.loads((REPOSITORY / "benchmarks" / "results" / "memory.json").read_text())
    lines = {line["what"]: line["value"] for line in result["headlines"]}
    for row in result["table"]:
        if row["recompute"] == "no":
            assert lines[f"{row['objective']} {row['size']}, peak of an image"] == row["MB an image"]
