"""What `pip install` puts in place is all that the package reads."""

import shutil
import subprocess
import sys
import zipfile

from commands import REPOSITORY


def test_a_wheel_holds_every_file_of_the_package(tmp_path):
    # A copy, because setuptools writes build/ beside what it builds.
    source = tmp_path / "source"
    shutil.copytree(REPOSITORY / "cxrbase", source / "cxrbase", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    words = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", tmp_path, source]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, timeout=120)
    there = {path.relative_to(source).as_posix() for path in (source / "cxrbase").rglob("*") if path.is_file()}
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if name.startswith("cxrbase/")}
    assert packed == there
