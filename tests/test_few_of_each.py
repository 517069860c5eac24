"""Few labels where an image has exactly one class: each class has as many patients as the protocol says, no more."""

import re

import pytest
import yaml

from cxrbase.cli import main
from cxrbase.data.manifest import Manifest
from cxrbase.evaluation.suite.results import read_result
from task_runs import make_place

VIEWS = {"pa": "PA", "ap": "AP", "lateral": "LATERAL"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A phantom, an encoder, and the task of telling three views apart."""
    root = make_place(tmp_path_factory.mktemp("few"))
    task = {"name": "views", "title": "three views", "data": {"root": str(root / "phantom")}, "kind": "multiclass",
            "findings": list(VIEWS),
            "targets": {name: {"column": "view_position", "positive": [view], "negative": []}
                        for name, view in VIEWS.items()}}  # fmt: skip
    (root / "views.yaml").write_text(yaml.safe_dump({"task": task}))
    return root


def fit(place, shots):
    return main(["fit", f"--config={place / 'views.yaml'}", f"--finetune.shots={shots}", "--finetune.epochs=1",
                 "--finetune.resamples=10", "--finetune.accelerator=cpu", f"--encoder={place / 'encoder'}",
                 f"--run_dir={place / f'shots{shots}'}"])  # fmt: skip


@pytest.mark.parametrize("shots", [1, 4])
def test_each_of_several_classes_has_its_own_patients_and_no_others(place, shots):
    assert fit(place, shots) == 0
    (path,) = (place / f"shots{shots}" / "results").glob("*.json")
    row = read_result(path).row
    assert row["protocol"] == f"finetune-{shots}shot"
    assert row["train_images"] == shots * len(VIEWS)
    assert row["undefined"] == {}


def test_more_of_each_class_than_there_are_is_answered_by_the_most_that_there_are(place, capsys):
    table = Manifest.read(place / "phantom" / "manifest.parquet").select("train")
    counts = sorted(len(set(table.patients()[table.column("view_position") == view])) for view in VIEWS.values())
    assert fit(place, 400) == 1
    assert f"set finetune.shots to at most {counts[-2]}" in capsys.readouterr().err.splitlines()[-1]
    assert fit(place, counts[-2] + 1) == 1
    assert re.search(r"no class has \d+ patients", capsys.readouterr().err.splitlines()[-1])
    assert fit(place, counts[-2]) == 0
