"""Limits on cores are kept to."""

import os
import subprocess
import sys

import pytest

from cxrbase import cores
from cxrbase.cores import _quota, available_cores


def test_affinity_limits():
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); from cxrbase.cores import available_cores as a; print(a())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "1"
    assert 1 <= available_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize("text", ["100000 100000", "50000 100000"])
def test_a_quota_limits_and_leaves_one(tmp_path, monkeypatch, text):
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert available_cores() == 4
    (tmp_path / "cpu.max").write_text(text)
    assert available_cores() == 1


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000", None), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 0), ("", None), ("1 0", None)],
)
def test_a_quota_is_read(tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text)
    assert _quota(tmp_path / "cpu.max") == cores
    assert _quota(tmp_path / "absent") is None
