"""A finding that nothing was learnt of: it chooses no epoch, and no model gives a probability for it."""

import csv

import numpy as np
import pytest
import torch

from cxrbase.cli import main
from cxrbase.data.canvas import to_canvas
from cxrbase.data.decode import decode, to_uint8
from cxrbase.data.manifest import Manifest
from cxrbase.evaluation.metrics import auroc
from cxrbase.evaluation.suite.results import read_result
from cxrbase.models import load_model
from task_runs import make_place, words


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A phantom whose training images have no positive nodule; validation and test have."""
    root = make_place(tmp_path_factory.mktemp("unlearnt"))
    table = Manifest.read(root / "phantom" / "manifest.parquet")
    columns = {name: table.column(name) for name in ("path", "patient_id", "split", "view_position")}
    columns |= {name: table.column(name) for name in ("label_effusion", "label_nodule")}
    columns["label_nodule"] = np.where(columns["split"] == "train", 0.0, np.arange(len(table)) % 2)
    Manifest.from_columns(columns, root=root / "phantom").write(root / "phantom" / "without.parquet")
    columns["label_effusion"] = np.where(columns["split"] == "val", np.nan, columns["label_effusion"])
    Manifest.from_columns(columns, root=root / "phantom").write(root / "phantom" / "blind.parquet")
    return root


def fitted(place, manifest, *more):
    fixed = [word for word in words(place, run=f"run_{manifest}") if "data.phantom." not in word]
    assert main([*fixed, "--task.data.phantom=null", f"--task.data.manifest={manifest}.parquet", *more]) == 0
    return place / f"run_{manifest}"


@pytest.fixture(scope="module")
def run(place):
    return fitted(place, "without", "--finetune.epochs=3")


def row_of(run):
    (path,) = (run / "results").glob("*.json")
    return read_result(path).row


def test_the_epoch_is_chosen_by_what_was_learnt(run, place):
    model, row = load_model(run), row_of(run)
    assert list(row["undefined"]) == ["nodule"]
    val = Manifest.read(place / "phantom" / "without.parquet", root=place / "phantom").select("val")
    size = model.card["canvas_size"]
    canvases, sizes = zip(*(to_canvas(to_uint8(decode(path)), size) for path in val.paths), strict=True)
    with torch.no_grad():
        views = model.view(torch.from_numpy(np.stack(canvases))[:, None], torch.tensor(sizes))
        chances = model.probabilities_of(model.features(views)).double().numpy()
    truth = np.stack([val.column("label_effusion"), val.column("label_nodule")], axis=1).astype(float)
    areas = auroc(chances, truth)
    assert not np.isnan(areas).any()
    assert areas[0] != pytest.approx(areas[1])
    assert row["validation_score"] == pytest.approx(areas[0], abs=1e-9)


def test_its_model_knows_what_it_learnt(run, place):
    assert load_model(run).card["learnt"] == ["effusion"]
    images = [str(path) for path in sorted((place / "phantom" / "images").iterdir())[:3]]
    assert main(["predict", *images, "--model", str(run), "--out", str(place / "p.csv"), "--device=cpu"]) == 0
    rows = list(csv.DictReader((place / "p.csv").open()))
    assert all(0 < float(row["effusion"]) < 1 for row in rows)
    assert {(row["nodule"], row["present_nodule"]) for row in rows} == {("", "")}
    assert "could not teach it:** nodule." in (run / "model" / "README.md").read_text()


def test_a_validation_split_that_knows_nothing_of_what_was_learnt_gives_no_score(place):
    row = row_of(fitted(place, "blind", "--finetune.epochs=1", "--finetune.mode=probe"))
    assert (row["validation_score"], row["best_epoch"]) == (None, 1)
