"""The soak of benchmarks/million_rows.py, on few records: killed and started again, every record is drawn once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_killed_again_and_again_every_record_is_drawn_once_in_every_epoch(tmp_path):
    words = ["--folder", tmp_path / "rows", "--rows=30000", "--epochs=2", "--kills=2", "--share=0.2"]
    run = subprocess.run(
        [sys.executable, "benchmarks/million_rows.py", *map(str, words), "--out", str(tmp_path / "out.json")],
        cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    soak = json.loads((tmp_path / "out.json").read_text())["soak"]
    assert sum(soak["killed"].values()) == 2
    assert soak["records_not_drawn_exactly_once"] == [0, 0]
