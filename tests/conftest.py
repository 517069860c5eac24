"""Fixtures that several test files share."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import lightning  # noqa: F401  (binds its log handler to the session's stderr, not to one test's)
import numpy as np
import pytest
from PIL import Image

import cxrbase
from commands import REPOSITORY, command

# Under `make test ARGS=...` these would reach every make that a test starts.
for name in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "ARGS"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items):
    """Files whose tests run whole commands come first, so that no process is left with a long one at the end."""
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path.parent not in (here, here / "compare"))


@pytest.fixture(scope="session")
def cxr_root() -> Path:
    """Folder of real radiographs with a manifest; tests that need it skip where it is absent."""
    root = Path(os.environ.get("CXRBASE_CXR", REPOSITORY.parent / "shared" / "cxr"))
    if not (root / "manifest.csv").is_file():
        pytest.skip("the folder of real radiographs is absent; set CXRBASE_CXR to it")
    return root


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A copy of the package that its code is hashed from."""
    copied = tmp_path / "cxrbase"
    shutil.copytree(Path(cxrbase.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cxrbase, "__file__", str(copied / "__init__.py"))
    return copied


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """Forty small grey images without a manifest."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number in range(40):
        rows, columns = np.mgrid[:48, : 40 + number % 9]
        smooth = np.sin(rows / generator.uniform(3, 9)) + np.cos(columns / generator.uniform(3, 9))
        Image.fromarray(np.uint8(60 * (smooth + 2))).save(root / f"{number:02}.png")
    return root


@pytest.fixture
def ray(monkeypatch):
    """Ray with a folder of its own, where it finds no other cluster of this machine and no other process finds its."""
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Not in the folder of the test: Ray's sockets are in it, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield ray


@pytest.fixture
def cluster(ray, monkeypatch):
    """A Ray cluster of one core, the one that `RAY_ADDRESS` names."""
    from ray.cluster_utils import Cluster

    # Any free port in place of the ones that a second cluster of a machine finds taken.
    ports = {"dashboard_agent_listen_port": 0, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20, **ports})
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def fit(image_folder, tmp_path):
    """Runs `cxrbase fit` in this process and returns its summary; `fit.run_dir` is where."""
    from cxrbase.cli import main

    def run(objective, *words, **options):
        run.run_dir = tmp_path / "run"
        assert main(command(objective, *words, root=image_folder, run_dir=run.run_dir, **options)) == 0
        return json.loads((run.run_dir / "summary.json").read_text())

    return run
