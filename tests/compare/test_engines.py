"""Where cells run on this machine."""

import pytest
import torch

from cxrbase.compare import engines
from cxrbase.compare.engines import slots
from cxrbase.errors import ConfigError


@pytest.mark.skipif(torch.cuda.is_available(), reason="on GPUs a slot is a device")
@pytest.mark.parametrize(
    ("asked", "jobs", "found"),
    [(None, None, ["2", "2", "2", "2"]), (None, 2, ["4", "4"]), (None, 16, ["1"] * 16), ("1", 2, ["1", "1"])],
)
def test_cells_share_the_cores_and_keep_to_the_threads_that_were_asked_for(monkeypatch, asked, jobs, found):
    monkeypatch.setattr(engines, "available_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert [slot["OMP_NUM_THREADS"] for slot in slots(jobs)] == found


def test_no_jobs_are_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        slots(0)
