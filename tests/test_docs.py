"""The documentation builds without a warning and without a network, its tutorials run, and its tables are fresh."""

import csv
import re
import shlex
import subprocess
import sys

import pytest

from commands import REPOSITORY, TINY
from cxrbase.cli import main
from cxrbase.data.phantom import make_phantom

DOCS = REPOSITORY / "docs"
PAGES = [DOCS / "index.md", DOCS / "use.md", *sorted((DOCS / "tutorials").glob("*.md"))]
BLOCK = re.compile(r'```(sh|python|yaml)(?: title="([^"]+)")?\n(.*?)```', re.S)
SMALL = [*TINY, "--trainer.accelerator=cpu", "--data.num_workers=0", "--probe.resamples=20"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A few simulated radiographs with labels and splits, as a CSV manifest."""
    import pyarrow.parquet as pq

    root = tmp_path_factory.mktemp("labelled")
    table = pq.read_table(make_phantom(root, patients=60, image_size=32, seed=0, workers=1))
    rows = table.to_pylist()
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table.column_names)
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture(scope="module")
def example(labelled, tmp_path_factory):
    """The run that the pages call runs/example."""
    folder = tmp_path_factory.mktemp("site") / "runs" / "example"
    layers = ("base", "objective/mae", "size/tiny", "data/folder")
    configs = [f"--config={REPOSITORY}/experiments/{layer}.yaml" for layer in layers]
    assert main(["fit", *configs, f"--data.root={labelled}", f"--run_dir={folder}", *SMALL]) == 0
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_snippet_of_a_page_runs(page, example, labelled, image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "experiments").symlink_to(REPOSITORY / "experiments")
    (tmp_path / "runs").mkdir()
    if page.stem != "own-folder":
        (tmp_path / "runs" / "example").symlink_to(example)
    for kind, title, text in BLOCK.findall(page.read_text()):
        text = text.replace("/path/to/labelled", str(labelled)).replace("/path/to/images", str(image_folder))
        if title:
            (tmp_path / title).write_text(text)
        elif kind == "python":
            run = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
            assert run.returncode == 0, run.stderr
        elif kind == "sh":
            for line in text.strip().splitlines():
                if line.startswith("cxrbase"):
                    words = shlex.split(line)[1:]
                    assert main([*words, *(SMALL if words[0] == "fit" else [])]) == 0, capsys.readouterr().err
                else:
                    assert line.startswith("make pretrain"), line  # the README's test runs it


def test_pages_build_without_a_warning_and_name_no_other_host(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    home = (tmp_path / "site" / "index.html").read_text()
    loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:)?//', home)
    assert not [host for host in loaded if host]
    assert "fonts.googleapis" not in home
    assert "load_encoder" in (tmp_path / "site" / "reference" / "encoders" / "index.html").read_text()


def test_tables_of_measurements_are_fresh():
    run = subprocess.run(
        [sys.executable, "benchmarks/tables.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_every_page_is_reachable_and_every_link_leads_somewhere():
    for page in DOCS.rglob("*.md"):
        for link in re.findall(r"\]\((?!http|#)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page}: {link}"
