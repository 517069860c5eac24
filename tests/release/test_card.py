"""The model card tells what the run recorded, and neither paths nor patients."""

import json
import re
import shutil

import numpy as np
import pytest

from commands import REPOSITORY
from cxrbase.backbones import read_card
from cxrbase.data.manifest import Manifest
from cxrbase.evaluation.image_groups import count_images
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
    for name, (low, high) in linear["per_class_interval"].items():
        area = linear["per_class"][name]
        assert low <= area <= high
        assert f"| {name} | {area:.3f} [{low:.3f}, {high:.3f}] |" in text
    assert "MAE" in text
    assert str(tmp_path) not in text
    splits, sexes = manifest.column("split"), manifest.column("sex")
    for sex in ("F", "M"):
        inside = (splits == "train") & (sexes == sex)
        patients = len(set(manifest.patients()[inside]))
        assert f"| sex | {sex} | {inside.sum()} | {patients} |" in text
    assert re.search(r"\| age in years \| 40-59 \| \d+ \| \d+ \|", text)
    report = summary["probe"]["subgroups"]
    assert {"sex", "view_position", "site", "age"} == set(report)
    for group, entry in report["view_position"]["groups"].items():
        assert f"| view | {group} | {entry['images']} | {entry['auroc']['value']:.3f} [" in text
    for group in report["view_position"]["too_few"]:
        assert f"| view | {group} | too few |  |" in text
    assert not any(patient in text for patient in set(manifest.column("patient_id")))


def test_the_card_needs_no_data(fit, tmp_path):
    words = [f"--data.root={tmp_path / 'phantom'}", "--data.phantom.patients=30", "--data.phantom.image_size=32"]
    fit("mae", *words, "--probe.resamples=20", "--trainer.max_epochs=1", data="phantom")
    before = model_card(fit.run_dir, read_card(fit.run_dir), licence="Apache-2.0")
    shutil.rmtree(tmp_path / "phantom")
    assert model_card(fit.run_dir, read_card(fit.run_dir), licence="Apache-2.0") == before
    assert "| Simulated radiographs of cxrbase |" in before


def test_the_record_counts_what_was_trained_on_and_names_no_small_group(tmp_path):
    count = 24
    columns = {"path": [f"{n}.png" for n in range(count)], "patient_id": [f"p{n // 2}" for n in range(count)]}
    columns |= {"sex": ["F", "F", "M", "M"] * 5 + [""] * 4, "age": [30.0, 30, 70, 70] * 5 + [float("nan")] * 4}
    columns |= {"site": ["hill"] * 18 + ["the house of p9"] * 2 + ["river"] * 4, "split": ["train"] * 22 + ["test"] * 2}
    manifest = Manifest.from_columns(columns, root=tmp_path)
    trained = np.flatnonzero(manifest.column("split") == "train")
    found = count_images(manifest, trained)
    assert found["sources"] == [{"name": "", "images": {"train": 22, "test": 2}, "patients": 12}]
    trained_on = found["trained_on"]
    assert (trained_on["images"], trained_on["patients"]) == (22, 11)
    assert trained_on["groups"]["sex"] == {
        "F": {"images": 10, "patients": 5},
        "M": {"images": 10, "patients": 5},
        "unknown": {"images": 2, "patients": 1},
    }
    assert trained_on["groups"]["age"]["20-39"] == {"images": 10, "patients": 5}
    assert trained_on["groups"]["site"] == {
        "hill": {"images": 18, "patients": 9},
        "other": {"images": 4, "patients": 2},
    }
    assert set(trained_on["groups"]) == {"sex", "age", "site"}
    assert "house" not in json.dumps(found)


@pytest.mark.parametrize(
    "data",
    [1, {"sources": 3, "trained_on": []}, {"sources": [4, {"name": 1}], "trained_on": {"groups": {"sex": {"F": 1}}}}],
)
def test_a_record_of_images_that_is_none_is_left_out(tmp_path, encoder_folder, data):
    probe = {"linear": {"pretrained": {}}, "subgroups": {"sex": 3, "age": {"groups": {"0-19": 1}, "gap": 2}}}
    (tmp_path / "summary.json").write_text(json.dumps({"data": data, "probe": probe}))
    facts = read_run(tmp_path)
    assert (facts.sources, facts.groups) == ((), {})
    assert "are not recorded" in model_card(tmp_path, read_card(encoder_folder), licence="Apache-2.0")


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


@pytest.mark.parametrize("end", [None, float("nan"), "0.7"])
def test_an_undefined_interval_is_said_as_on_the_screen(end, tmp_path, encoder_folder):
    score = {"value": 0.812, "low": end, "high": end, "per_class": {}}
    probe = {"n_train": 1, "n_test": 2, "linear": {"pretrained": score, "random_init": score}, "knn": None}
    (tmp_path / "summary.json").write_text(json.dumps({"probe": probe}))
    text = model_card(tmp_path, read_card(encoder_folder), licence="Apache-2.0")
    assert "| linear | 0.812 (no interval: too few resamples hold every class) |" in text


def test_the_weights_that_a_run_started_from_have_a_column(tmp_path, encoder_folder):
    score = {"value": 0.7, "low": 0.6, "high": 0.8, "per_class": {}}
    linear = {"pretrained": score, "start": score | {"value": 0.65}, "random_init": score | {"value": 0.61}}
    probe = {"n_train": 1, "n_test": 2, "linear": linear, "knn": linear}
    (tmp_path / "summary.json").write_text(json.dumps({"probe": probe}))
    text = model_card(tmp_path, read_card(encoder_folder), licence="Apache-2.0")
    header, _, row, _ = text[text.index("| Probe |") :].splitlines()[:4]
    assert header == "| Probe | Pretrained | Start | Untrained |"
    assert [cell[:5] for cell in row.split(" | ")[1:]] == ["0.700", "0.650", "0.610"]


SUMMARY = {
    "objective": "MAE", "parameters": 1234, "images_seen": 5678, "steps": 90, "wall_s": 12.0, "devices": 2,
    "device": "cuda:0", "precision": "bf16-mixed", "loss_first": 1.0, "loss_last": 0.5, "version": "9.9",
    "data": {
        "sources": [{"name": "nih", "images": {"train": 30, "test": 4}, "patients": 7}],
        "trained_on": {"groups": {"sex": {"F": {"images": 20, "patients": 5}, "M": {"images": 10, "patients": 6}}}},
    },
    "probe": {
        "n_train": 30, "n_test": 40,
        "linear": {
            "pretrained": {
                "value": 0.8, "low": 0.7, "high": 0.9, "per_class": {"hernia": 0.75, "mass": None},
                "per_class_interval": {"hernia": [0.65, 0.85], "mass": None},
            },
            "random_init": {"value": 0.6, "low": 0.5, "high": 0.7, "per_class": {}},
        },
        "knn": None,
        "subgroups": {"sex": {"groups": {"F": {"images": 31, "auroc": {"value": 0.7, "low": 0.6, "high": 0.8}}}}},
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("Network", ["| Input | one channel, 32 x 32 pixels, mean 0.5, standard deviation 0.25 |", "opset 18"]),
        ("Use", ["cxrbase.load_encoder("]),
        ("Data", ["NIH", "| 30 train, 4 test | 7 |", "| sex | F | 20 | 5 |", "no identifier of a patient",
                  "no reconstruction", "credentialed sources"]),
        ("Training", ["| Objective | MAE |", "| Compute | 12 s on 2 x cuda:0, precision bf16-mixed |", "9.9"]),
        ("Results", ["| linear | 0.800 [0.700, 0.900] | 0.600 [0.500, 0.700] |", "| hernia | 0.750 [0.650, 0.850] |",
                     "| mass | undefined |", "| sex | F | 31 | 0.700 [0.600, 0.800] |"]),
        ("Limits", ["Other scanners", "lateral"]),
        ("How to cite", ["CITATION.cff", "https://arxiv.org/abs/2410.08861", "every data set above"]),
    ],
)  # fmt: skip
def test_each_section_of_the_card_of_an_encoder(section, said, tmp_path, encoder_folder):
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    export = {"max_difference": 1e-7, "checked_with": "onnxruntime 1", "opset": 18}
    text = model_card(tmp_path, read_card(encoder_folder), licence="CC-BY-NC-4.0", export=export)
    assert text.startswith("---\nlicense: cc-by-nc-4.0\n")
    sections = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    for words in said:
        assert words in sections[section]
    assert (REPOSITORY / "CITATION.cff").is_file()


@pytest.mark.parametrize("ends", [{"hernia": 3}, {"hernia": [0.1]}, [1], {"hernia": ["a", None]}, None])
def test_damaged_intervals_leave_the_score(ends, tmp_path, encoder_folder):
    pretrained = SUMMARY["probe"]["linear"]["pretrained"] | {"per_class_interval": ends}
    probe = SUMMARY["probe"] | {"linear": {"pretrained": pretrained}}
    (tmp_path / "summary.json").write_text(json.dumps({"probe": probe}))
    assert "| hernia | 0.750" in model_card(tmp_path, read_card(encoder_folder), licence="Apache-2.0")
