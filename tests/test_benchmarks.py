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
