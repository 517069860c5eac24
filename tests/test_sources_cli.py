"""`cxrbase sources` as a user runs it."""

import subprocess
import sys

import pytest

from cxrbase.data.manifest import Manifest
from cxrbase.data.sources.catalogue import SOURCES
from data.sources.trees_small import TREES


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "cxrbase", "sources", *words], capture_output=True, text=True, timeout=120
    )


def line_of_failure(done):
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_list_names_every_source():
    done = run()
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.split() == ["name", "images", "patients", "size", "access", "licence"]
    assert [line.split()[0] for line in rest[: len(SOURCES)]] == list(SOURCES)
    assert "5,856" in done.stdout
    assert "CC BY 4.0" in done.stdout


@pytest.mark.parametrize("name", ["kermany", "object-cxr"])
def test_one_source_tells_everything(name):
    done = run("--name", name)
    assert done.returncode == 0, done.stderr
    source = SOURCES[name]
    for fact in (source.title, source.access, source.licence, f"{source.images:,}", *source.layout, *source.notes):
        assert fact in done.stdout


def test_manifest_is_written_and_counted(tmp_path):
    root, out = tmp_path / "set", tmp_path / "deep" / "kermany.parquet"
    rows = TREES["kermany"](root)["rows"]
    refused = run("--name=kermany", f"--root={root}", f"--out={out}")
    assert "10 of the 5,856 images" in line_of_failure(refused)
    assert not out.exists()
    done = run("--name", "kermany", "--root", str(root), "--out", str(out), "--partial")
    assert done.returncode == 0, done.stderr
    assert sorted(Manifest.read(out, root=root).column("path")) == sorted(rows)
    assert "10 images, 3 patients" in done.stdout
    assert "split: test 3, train 4, val 3" in done.stdout
    assert "view: AP 10" in done.stdout
    assert "viral_pneumonia: 2 present, 8 absent, 0 unknown" in done.stdout
    assert "2 patient ids are in two official splits" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--name=kermani"], "did you mean kermany"),
        (["--name=kermany", "--root=x"], "--out"),
        (["--name=kermany", "--out=x.parquet"], "--root"),
        (["--name=kermany", "--root=x", "--out=x.csv"], ".parquet"),
        (["--name=kermany", "--root=nowhere", "--out=x.parquet"], "nowhere"),
        (["--root=x"], "--name"),
        (["--nmae=kermany"], "nmae"),
    ],
)
def test_mistakes_are_answered_in_one_line(words, said):
    assert said in line_of_failure(run(*words))
