"""Fixtures that several test files share."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def cxr_root() -> Path:
    """Folder of real radiographs with a manifest; tests that need it skip where it is absent."""
    root = Path(os.environ.get("CXRBASE_CXR", REPOSITORY.parent / "shared" / "cxr"))
    if not (root / "manifest.csv").is_file():
        pytest.skip("the folder of real radiographs is absent; set CXRBASE_CXR to it")
    return root


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
