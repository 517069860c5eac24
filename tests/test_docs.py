"""The documentation builds without a warning and without a network, its tutorials run, and its tables are fresh."""

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm

import warm
from commands import REPOSITORY, TINY
from cxrbase.cli import main
from cxrbase.data.images import read_manifest
from cxrbase.data.manifest import Manifest
from cxrbase.data.phantom import make_phantom
from cxrbase.evaluate_cli import _task_changes
from cxrbase.evaluation.task import read_task
from cxrbase.evaluation.task_data import load_task_data
from data.sources.trees_large import MAKERS

DOCS = REPOSITORY / "docs"
PAGES = [DOCS / "index.md", DOCS / "use.md", *sorted((DOCS / "tutorials").glob("*.md"))]
BLOCK = re.compile(r'```(sh|python|yaml)(?: title="([^"]+)")?\n(.*?)```', re.S)
SMALL = [*TINY, "--trainer.accelerator=cpu", "--data.num_workers=0", "--probe.resamples=20", "--figures.images=2"]
SMALL_TASK = ["--finetune.epochs=1", "--finetune.accelerator=cpu", "--finetune.resamples=20"]
RECIPES = re.findall(r"^## (.+?)\n.*?```sh\n(.*?)```", (DOCS / "recipes.md").read_text(), re.S | re.M)


def run_line(line, plans, *more):
    """Runs a command of a page, small where it trains; comparisons are planned and not run, tests/compare runs them."""
    # An untrained network of timm is asked for by its name, and one is taken that a test can wait for.
    assert all(map(timm.is_model, re.findall(r"timm:(\w+)", line)))
    words = shlex.split(re.sub(r"timm:\w+", "timm:test_vit", line))[1:]
    if words[0] == "fit":
        words += SMALL_TASK if "--encoder" in words else SMALL
    if words[0] == "evaluate" and "--config" in words:
        words += ["--device=cpu", "--evaluate.resamples=20", "--evaluate.seeds=[0]"]
    planned = len(plans)
    assert main([*words, *more]) == 0
    assert (words[0] in ("compare", "paper")) == (len(plans) == planned + 1)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A few simulated radiographs with labels and splits, as a CSV manifest."""
    import pyarrow.parquet as pq

    root = tmp_path_factory.mktemp("labelled")
    table = pq.read_table(make_phantom(root, patients=150, image_size=32, seed=0, workers=1))
    rows = table.to_pylist()
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table.column_names)
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture(scope="module")
def runs(labelled, tmp_path_factory):
    """What the pages call runs/example and runs/finetuned."""
    folder = tmp_path_factory.mktemp("site") / "runs"
    layers = ("base", "objective/mae", "size/tiny", "data/folder")
    configs = [f"--config={REPOSITORY}/experiments/{layer}.yaml" for layer in layers]
    assert main(["fit", *configs, f"--data.root={labelled}", f"--run_dir={folder}/example", *SMALL]) == 0
    task = folder / "disease.yaml"
    task.write_text(f"task: {{name: disease, title: Nodules, data: {{root: {labelled}}}, findings: [nodule]}}")
    words = ["--config", str(task), "--encoder", f"{folder}/example", "--run_dir", f"{folder}/finetuned", *SMALL_TASK]
    assert main(["fit", *words]) == 0
    return folder


@pytest.fixture
def dicoms(labelled, tmp_path):
    """The DICOM files among the radiographs as an archive writes them: without a suffix, and with a directory."""
    folder = tmp_path / "dicoms"
    for path in labelled.rglob("*.dcm"):
        (folder / path.stem).mkdir(parents=True)
        shutil.copy(path, folder / path.stem / "IM0001")
    shutil.copy(path, folder / "DICOMDIR")
    (folder / "README").touch()
    return folder


def test_the_snippet_for_a_folder_of_dicoms_writes_whose_images_they_are(dicoms, labelled):
    text = (DOCS / "tutorials" / "own-folder.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.S)
    run = warm.run(["-c", snippet.replace("/path/to/dicoms", str(dicoms))])
    assert run.returncode == 0, run.stderr
    said = {Path(row["path"]).stem: row for row in Manifest.read(labelled / "manifest.csv").table.to_pylist()}
    found = read_manifest(dicoms, named=None, targets=None)
    assert len(found) == len(list(labelled.rglob("*.dcm"))) > 10
    for row in found.table.to_pylist():
        known = said[Path(row["path"]).parent.name]
        assert row["patient_id"] == known["patient_id"]
        assert row["view_position"] == {"LATERAL": "LL"}.get(known["view_position"], known["view_position"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_snippet_of_a_page_runs(page, runs, labelled, image_folder, dicoms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "experiments").symlink_to(REPOSITORY / "experiments")
    (tmp_path / "runs").mkdir()
    for run in {"own-folder": (), "few-shot": ("example",)}.get(page.stem, ("example", "finetuned")):
        (tmp_path / "runs" / run).symlink_to(runs / run)
    plans = []
    monkeypatch.setattr("cxrbase.compare_cli._run", lambda plan, **where: plans.append(plan.cells()) or 0)
    monkeypatch.setattr("cxrbase.paper_cli._run", lambda plan, *where: plans.append(plan.given) or 0)
    for kind, title, text in BLOCK.findall(page.read_text()):
        text = text.replace("/path/to/labelled", str(labelled)).replace("/path/to/images", str(image_folder))
        text = text.replace("/path/to/dicoms", str(dicoms))
        if title:
            (tmp_path / title).write_text(text)
        elif kind == "python":
            run = warm.run(["-c", text])
            assert run.returncode == 0, run.stderr
        elif kind == "sh":
            for line in text.strip().splitlines():
                if line.startswith("cxrbase"):
                    run_line(line, plans)
                else:
                    assert line.startswith("make pretrain"), line  # the README's test runs it


def test_commands_that_are_shown_have_the_recipe_of_their_objective_and_size(capsys):
    assert main(["--help"]) == 0
    pages = [*DOCS.rglob("*.md"), REPOSITORY / "README.md"]
    text = "\n".join([*(page.read_text() for page in pages), capsys.readouterr().out]).replace("\\\n", " ")
    shown = re.findall(r"objective/(\w+)\.yaml .*size/(\w+)\.yaml(.*)", text)
    assert len(shown) > 5
    recipes = [(f"recipe/{objective}_{size}.yaml", rest) for objective, size, rest in shown]
    assert [name for name, rest in recipes if (REPOSITORY / "experiments" / name).is_file() and name not in rest] == []


@pytest.mark.parametrize(("title", "text"), RECIPES, ids=[title for title, _ in RECIPES])
def test_the_commands_of_a_recipe_run_on_a_folder_of_the_published_layout(title, text, tmp_path, monkeypatch):
    """As far as the few made images reach: the task is read with its labels and splits, and not trained."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(REPOSITORY / "experiments")
    name = re.search(r"--name (\S+)", text)[1]
    root = tmp_path / "data"
    MAKERS[name](root)
    listed, audited, pretrained, fitted = text.replace(f"/path/to/{name}", str(root)).strip().splitlines()
    # Each made folder lacks an image and holds a broken one.
    run_line(listed.removesuffix(" --partial"), [], "--partial")
    run_line(audited, [])
    few = ["--data.max_bad=0.5", "--data.batch_size=2", "--data.pretrain_on=[train, val]"]
    run_line(pretrained, [], *few, "--data.views.local_size=16")
    assert (tmp_path / pretrained.rpartition("--run_dir=")[2] / "encoder.safetensors").is_file()
    words = shlex.split(fitted)
    changes, rest = _task_changes(words[2:])
    found = load_task_data(read_task(rest[rest.index("--config") + 1], changes={**changes, "data.partial": True}))
    assert found.manifest.root == root
    assert len(found.manifest) > 1


def test_the_commands_and_options_of_a_million_images_run_on_a_few(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(REPOSITORY / "experiments")
    text = (DOCS / "million-images.md").read_text().replace("\\\n", " ").replace("=12", "=2")
    text = re.sub(r"(?<=[ =])/data/", f"{tmp_path}/data/", text)
    for name in ("nih", "padchest"):
        MAKERS[name](tmp_path / "data" / name)
    listed, packed, audited, originals, fitted = (block for kind, _, block in BLOCK.findall(text) if kind == "sh")
    run_line(listed, [])
    # The made folders are small parts of the sets, and each holds a broken image.
    run_line(packed, [], "--partial", "--max_bad=0.5", "--jobs=1")
    run_line(originals, [])
    run_line(audited, [])
    few = ["--data.batch_size=2", "--data.max_bad=0.5", "--run_dir=runs/first"]
    run_line(fitted, [], *few)
    options = re.findall(r"^\| [^|]+ \| (`--data.+`) \|$", text, re.M)
    assert len(options) == 7
    threads, workers, *others = (shlex.split(words) for words in re.findall("`([^`]+)`", " ".join(options)))
    assert len(others) == 6
    run_line(fitted, [], *few, *workers, "--run_dir=runs/workers")
    run_line(fitted, [], *few, *threads, *(word for words in others for word in words), "--run_dir=runs/options")
    run_line(fitted, [], *few, "--trainer.max_steps=3", "--ckpt_path=runs/first")
    assert json.loads((tmp_path / "runs" / "first" / "summary.json").read_text())["steps"] == 3


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
