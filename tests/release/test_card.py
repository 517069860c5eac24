"""The model card tells what the run recorded, and neither paths nor patients."""

import json

from cxrbase.backbones import read_card
from cxrbase.data.manifest import Manifest
from cxrbase.release.card import model_card
from cxrbase.release.run_facts import count_sources, read_run


def test_card_of_a_run_has_its_numbers_and_no_path(fit, tmp_path, image_folder):
    words = [f"--data.root={tmp_path / 'phantom'}", "--data.phantom.patients=60", "--data.phantom.image_size=32"]
    summary = fit("mae", *words, "--probe.resamples=50", data="phantom")
    text = model_card(fit.run_dir, read_card(fit.run_dir), licence="Apache-2.0")
    manifest = Manifest.read(tmp_path / "phantom" / "manifest.parquet")
    train = int((manifest.column("split") == "train").sum())
    assert f"| Simulated radiographs of cxrbase | {train} train," in text
    assert f"{summary['parameters']:,}" in text
    linear = summary["probe"]["linear"]["pretrained"]
    assert f"{linear['value']:.3f} [{linear['low']:.3f}, {linear['high']:.3f}]" in text
    assert "MAE" in text
    assert str(tmp_path) not in text
    assert not any(patient in text for patient in set(manifest.column("patient_id")))


def test_licences_come_from_the_known_sources(tmp_path):
    columns = {"path": ["a.png", "b.png", "c.png"], "source": ["nih", "nih", "mine"], "patient_id": ["1", "1", "2"]}
    mine, nih = count_sources(Manifest.from_columns(columns, root=tmp_path))
    assert (nih.images, nih.patients) == ({"no split": 2}, 1)
    assert "NIH" in nih.title
    assert nih.licence
    assert (mine.name, mine.licence) == ("mine", "")


def test_damaged_records_leave_their_part_out(tmp_path, encoder_folder):
    (tmp_path / "summary.json").write_text("{")
    (tmp_path / "config.yaml").write_text("!!python/object/apply:os.system ['touch hacked']")
    assert read_run(tmp_path).summary == {}
    text = model_card(tmp_path, read_card(encoder_folder), licence="Apache-2.0")
    assert "not recorded" in text
    assert not (tmp_path / "hacked").exists()


def test_an_undefined_score_is_said(tmp_path, encoder_folder):
    score = {"value": None, "low": None, "high": None, "per_class": {"hernia": None}}
    probe = {"n_train": 1, "n_test": 2, "linear": {"pretrained": score, "random_init": score}, "knn": None}
    (tmp_path / "summary.json").write_text(json.dumps({"probe": probe}))
    text = model_card(tmp_path, read_card(encoder_folder), licence="Apache-2.0")
    assert "| hernia | undefined |" in text
