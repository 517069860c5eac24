"""Figures 2 to 4 on a small phantom: what is drawn is what is written, what is missing is named, mistakes are told."""

import csv
import json
import re
import shutil

import pytest
import torch
import yaml

from commands import EXPERIMENTS, REPOSITORY
from cxrbase.backbones import create_backbone, save_encoder
from cxrbase.cli import main
from cxrbase.compare.paper_encoders import networks, read_cards
from cxrbase.compare.paper_figures import draw, p_text
from cxrbase.compare.paper_numbers import METRICS
from cxrbase.compare.paper_plan import FIGURES, Paper, Slot
from cxrbase.compare.plan import code_version
from cxrbase.data.manifest import Manifest
from cxrbase.data.phantom import make_phantom
from cxrbase.errors import ConfigError
from cxrbase.evaluation.score_text import score_text
from cxrbase.evaluation.suite import feature_store
from cxrbase.evaluation.suite.feature_store import encoder_hash

SHAPE = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
SPEC = {"patients": 110, "image_size": 32}
TASKS = {
    "foreign": {"kind": "binary", "findings": ["foreign_object"]},
    "view": {
        "kind": "binary",
        "findings": ["pa"],
        "targets": {"pa": {"column": "view_position", "positive": ["PA"], "negative": ["AP"]}},
    },
    "pneumonia": {"kind": "binary", "findings": ["pneumonia"], "warnings": ["made up"]},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A phantom of 32 pixels, task files on it and one without images, two encoders, and a plan."""
    root = tmp_path_factory.mktemp("paper")
    make_phantom(root / "phantom", workers=1, **SPEC)
    for name, options in TASKS.items():
        data = {"root": str(root / "phantom"), "phantom": SPEC}
        task = {"name": name, "title": f"The task {name}", "data": data, **options}
        (root / f"{name}.yaml").write_text(yaml.safe_dump({"task": task}))
    elsewhere = {"name": "far", "title": "Far", "data": {"root": str(root / "far"), "source": "rsna"}}
    (root / "far.yaml").write_text(yaml.safe_dump({"task": elsewhere}))
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = create_backbone("vit_tiny_patch16_224", image_size=32, options=SHAPE)
        arguments = {"in_chans": 1, "num_classes": 0, "img_size": 32, **SHAPE}
        card = {"timm_name": "vit_tiny_patch16_224", "timm_args": arguments, "image_size": 32, "mean": 0.5, "std": 0.2}
        save_encoder(network, root / f"encoder{seed}", card)
    return root


@pytest.fixture
def words(world, tmp_path):
    """Writes a plan and returns the words of the command, into a folder of the test unless told otherwise."""

    def write(*more, out=None, **changes):
        plan = yaml.safe_load((EXPERIMENTS / "paper.yaml").read_text()) | {
            "figure2": [f"{world}/foreign.yaml", f"{world}/view.yaml"],
            "figure3": [f"{world}/pneumonia.yaml", f"{world}/far.yaml"],
            "figure4": [f"{world}/pneumonia.yaml"],
            "shots": [1, 2], "few": 2, "seeds": [0, 1], "resamples": 20, "threshold": "youden", "seen": "off",
        } | changes  # fmt: skip
        path = tmp_path / "paper.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in plan.items() if value is not None}))
        return ["paper", f"--config={path}", f"--out={out or tmp_path / 'out'}", "--device=cpu", *more]

    return write


OURS = "--encoder=from_scratch={}/encoder0"


@pytest.fixture(scope="module")
def folder(world):
    return world / "out" / "paper"


@pytest.fixture
def made(words, world, folder):
    """Folder of figures that were drawn once, and what results.json holds."""
    if not (folder / "results.json").is_file():
        assert main(words(OURS.format(world), out=folder.parent)) == 0
    return json.loads((folder / "results.json").read_text())


def points(figure):
    """Value, low and high of every point with an error bar, and the values of all dots."""
    bars, dots = [], []
    for axes in figure.axes:
        for container in axes.containers:
            line, _, (segments,) = container
            (segment,) = segments.get_segments()
            lying = segment[0][1] == segment[1][1]
            ends = segment[:, 0 if lying else 1]
            value = (line.get_xdata() if lying else line.get_ydata())[0]
            bars.append((round(float(value), 9), round(float(ends[0]), 9), round(float(ends[1]), 9)))
        for cloud in axes.collections:
            if type(cloud).__name__ == "PathCollection":
                dots += [offset for offset in cloud.get_offsets().tolist() if offset]
    return sorted(bars), dots


def texts(figure):
    return "\n".join(text.get_text() for axes in figure.axes for text in [*axes.texts, *axes.get_yticklabels()])


@pytest.mark.parametrize("name", FIGURES)
def test_every_number_drawn_is_that_of_the_json(made, name):
    figure, found = draw(made, name), made["figures"][name]
    bars, dots = points(figure)
    assert bars == sorted(
        (round(row["value"], 9), round(row["low"], 9), round(row["high"], 9)) for row in found["values"]
    )
    assert len(dots) == sum(len(row["by_seed"]) for row in found["values"] if len(row["by_seed"]) > 1)
    seeds = {round(value, 9) for row in found["values"] for value in row["by_seed"]}
    assert all({round(x, 9), round(y, 9)} & seeds for x, y in dots)
    written = texts(figure)
    drawn = [score_text(row) for row in found["values"]]
    drawn += [f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]" for row in found["differences"]]
    numbers = re.findall(r"[+-]?\d\.\d{3} \[[+-]?\d\.\d{3}, [+-]?\d\.\d{3}\]", written)
    assert numbers
    assert set(numbers) <= set(drawn)
    if name != "figure4":
        assert sorted(numbers) == sorted(score_text(row) for row in found["values"])
    corrected = {p_text(row) for row in found["differences"]}
    assert set(re.findall(r"p [=<] \d\.\d{3}", written)) <= corrected
    whole = {row["task"] for row in found["values"]}
    assert len(figure.axes) == len(METRICS) * len(whole)


def test_what_is_undefined_is_said_and_not_drawn(made):
    for name in ("figure2", "figure4"):
        row = next(row for row in made["figures"][name]["values"] if row["shots"] == 2)
        rest = [row | {"value": None, "by_seed": []}] + [
            one for one in made["figures"][name]["values"] if one is not row
        ]
        figure = draw(made | {"figures": made["figures"] | {name: made["figures"][name] | {"values": rest}}}, name)
        assert texts(figure).count("undefined") == 1
        assert len(points(figure)[0]) == len(rest) - 1


def test_files_are_there_and_page_and_table_hold_the_numbers_of_the_json(made, folder):
    for name in FIGURES:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    page = (folder / "paper.md").read_text()
    with (folder / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    for name, figure in made["figures"].items():
        own = [row for row in table if row["figure"] == name]
        scores = [row for row in own if row["kind"] == "score"]
        assert [float(row["value"]) for row in scores] == [row["value"] for row in figure["values"]]
        gaps = [row for row in own if row["kind"] == "difference"]
        assert [float(row["p_holm"]) for row in gaps] == [row["p_holm"] for row in figure["differences"]]
        for row in figure["values"]:
            assert score_text(row) in page
        for row in figure["differences"]:
            assert f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] | {p_text(row)}" in page


def test_lines_are_those_that_were_asked_for(made):
    values = made["figures"]["figure4"]["values"]
    assert {(row["encoder"], row["shots"], row["seeds"], row["draws"]) for row in values} == {
        ("from_scratch", None, 1, 1), ("from_scratch", 1, 1, 2), ("from_scratch", 2, 1, 2), ("untrained", None, 2, 1),
    }  # fmt: skip
    assert all(len(row["by_seed"]) == row["seeds"] * row["draws"] for row in values)
    for row in made["figures"]["figure2"]["differences"]:
        assert (row["ours"], row["against"]) == ("from_scratch", "untrained")
        assert row["p_holm"] >= row["p"]
        assert row["low"] <= row["difference"] <= row["high"]
    assert made["threshold"] == "youden"
    assert "pneumonia: made up" in made["warnings"]
    assert "spread between trainings" in made["warnings"][0]


def test_a_missing_baseline_and_a_missing_task_are_named_in_figure_and_page_and_have_no_number(made, folder):
    page = (folder / "paper.md").read_text()
    for name, title in {"supervised_imagenet": "supervised on ImageNet", "ssl_imagenet": "SSL on ImageNet"}.items():
        assert f"{name} ({title}) is missing: its weights are not given" in made["missing"]
        assert f"- {name} ({title}) is missing" in page
        for figure in FIGURES:
            drawn = draw(made, figure)
            assert f"{title} ({name})" in drawn.get_supxlabel()
            assert not [row for row in made["figures"][figure]["values"] if row["encoder"] == name]
    assert texts(draw(made, "figure2")).count("weights not given") == 3 * len(METRICS) * 2
    assert made["figures"]["figure3"]["absent"] == ["far"]
    assert any(line.startswith("far is missing: no folder") and "RSNA" in line for line in made["missing"])
    assert "their images are not there: far" in draw(made, "figure3").get_supxlabel()
    assert "far" not in draw(made, "figure2").get_supxlabel()


@pytest.mark.slow
def test_a_second_run_computes_nothing_and_gives_the_same(made, words, world, folder, monkeypatch):
    monkeypatch.setattr(feature_store, "extract_features", None)
    before = (folder / "results.json").read_bytes(), (folder / "figure4.pdf").read_bytes()
    assert main(words(OURS.format(world), out=folder.parent)) == 0
    assert ((folder / "results.json").read_bytes(), (folder / "figure4.pdf").read_bytes()) == before


def test_scores_lie_in_a_folder_of_their_code_and_decoded_images_in_one_for_all(made, folder):
    assert sorted(path.name for path in (folder / "scores").iterdir()) == sorted([code_version(), "canvas"])
    assert list((folder / "scores" / code_version() / "results").glob("*.json"))
    assert made["environment"]["code"] == code_version()


@pytest.mark.slow
def test_files_of_one_name_are_training_seeds_and_weights_from_imagenet_go_before_scratch(made, words, world, folder):
    more = ["--encoder=from_imagenet={}/encoder0", "--encoder=from_imagenet={}/encoder1", OURS]
    given = [word.format(world) for word in more]
    assert main(words(*given, out=folder.parent, name="seeds", figure2=[f"{world}/pneumonia.yaml"])) == 0
    found = json.loads((folder.parent / "seeds" / "results.json").read_text())
    assert found["ours"] == "from_imagenet"
    rows = {(row["encoder"], row["shots"]): row for row in found["figures"]["figure3"]["values"]}
    assert rows["from_imagenet", None]["seeds"] == rows["from_imagenet", 2]["seeds"] == 2
    assert (rows["from_imagenet", None]["draws"], rows["from_imagenet", 2]["draws"]) == (1, 2)
    assert found["warnings"][0].startswith("one training each of from_scratch: ")
    assert rows["from_scratch", None]["seeds"] == 1
    assert ("from_scratch", 2) not in rows
    assert {row["against"] for row in found["figures"]["figure4"]["differences"]} == {"from_scratch", "untrained"}


@pytest.mark.slow
def test_more_trainings_than_draws_are_all_scored_and_none_is_computed_twice(words, world, folder, monkeypatch):
    given = [f"--encoder=from_scratch={world}/encoder{number}" for number in (0, 1)]
    asked = words(*given, out=folder.parent, name="surplus", seeds=[0], figure2=[f"{world}/pneumonia.yaml"])
    assert main(asked) == 0
    found = json.loads((folder.parent / "surplus" / "results.json").read_text())
    rows = {(row["encoder"], row["shots"]): row for row in found["figures"]["figure3"]["values"]}
    assert (rows["from_scratch", None]["seeds"], rows["from_scratch", 2]["seeds"]) == (2, 2)
    assert len(set(rows["from_scratch", None]["by_seed"])) == 2
    assert found["warnings"][0].startswith("one training each of untrained: ")
    monkeypatch.setattr("cxrbase.evaluation.suite.score_task.score", None)
    assert main(asked) == 0
    assert json.loads((folder.parent / "surplus" / "results.json").read_text()) == found


@pytest.mark.slow
def test_without_an_encoder_of_radiographs_nothing_is_tested_and_a_figure_without_images_says_so(
    words, tmp_path, world
):
    assert main(words(figure4=[f"{world}/far.yaml"], figure2=[f"{world}/pneumonia.yaml"])) == 0
    found = json.loads((tmp_path / "out" / "paper" / "results.json").read_text())
    assert found["ours"] is None
    assert not any(figure["differences"] for figure in found["figures"].values())
    assert {row["shots"] for row in found["figures"]["figure3"]["values"]} == {None}
    assert any("no encoder pretrained on chest X-rays" in line for line in found["missing"])
    empty = draw(found, "figure4")
    assert not empty.axes
    assert "No task of this figure" in empty.get_supxlabel()
    assert "No task of this figure" in (tmp_path / "out" / "paper" / "paper.md").read_text()


def plan(world, *slots):
    return Paper("p", list(slots), ["a.yaml"], ["a.yaml"], ["a.yaml"])


def test_an_untrained_network_is_made_like_ours_once_for_each_seed(world):
    blank = Slot("untrained", "untrained", "untrained")
    cards = read_cards(plan(world, Slot("x", "ssl_cxr", f"{world}/encoder0"), blank))
    assert cards["untrained"]["image_size"] == 32
    state = torch.random.get_rng_state()
    twice = [[one for _, one in networks(blank, cards["untrained"], [0, 1])] for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), state)
    hashes = [[encoder_hash(one.network, one.card) for one in made] for made in twice]
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) == 2
    assert sum(p.numel() for p in twice[0][0].network.parameters()) < 30_000
    named = Slot("untrained", "untrained", "timm:test_vit")
    assert read_cards(plan(world, named))["untrained"]["timm_name"] == "test_vit"
    assert read_cards(plan(world, blank))["untrained"]["image_size"] == 96
    wide = cards["untrained"] | {"image_size": [32, 48]}
    (_, one), *_ = networks(blank, wide, [0])
    assert one.network.patch_embed.grid_size == (2, 3)
    exported = Slot("untrained", "untrained", [f"{world}/encoder0", f"{world}/encoder1"])
    assert [seeds for seeds, _ in networks(exported, {}, [0, 1, 2])] == [[0, 1, 2]] * 2


@pytest.mark.parametrize(
    ("more", "changes", "said"),
    [
        (["--encoder=from_scrach=x"], {}, "did you mean from_scratch?"),
        (["--encoder=runs/mae"], {}, "--encoder takes <name>=<path>"),
        (["--encoder=from_scratch=nowhere/run"], {}, "nowhere/run"),
        (["--encoder=supervised_imagenet=timm:vit_tiny_patch16_224"], {}, "random weights can stand for"),
        (["--encoder=ssl_imagenet=untrained"], {}, "random weights can stand for"),
        (["--device=warp9"], {}, "--device must be"),
        (["--shotz=[1]"], {}, "shotz"),
        (["--config=nowhere.yaml"], {}, "nowhere.yaml"),
        ([], {"few": 3}, "few must be one of shots"),
        ([], {"shots": []}, "few must be one of shots"),
        ([], {"seeds": [0, 0]}, "seeds must differ"),
        ([], {"seeds": []}, "seeds at least 0"),
        ([], {"resamples": 0}, "resamples must be at least 1"),
        ([], {"name": "a/b"}, "name must be the name of a folder"),
        ([], {"figure3": []}, "figure3 must name at least one task"),
        ([], {"figure3": ["nowhere/task.yaml"]}, "no task file nowhere/task.yaml"),
        ([], {"figure3": None}, "figure3"),
        ([], {"encoders": []}, "no encoder is given"),
        ([], {"encoders": [{"name": "a", "role": "best"}]}, "encoders.role: it takes "),
        ([], {"encoders": [{"name": "a", "role": "ssl_cxr"}, {"name": "a", "role": "ssl_cxr"}]}, "are called a"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(words, capsys, tmp_path, more, changes, said):
    assert main(words(*more, **changes)) == 1
    message = capsys.readouterr().err.strip().splitlines()
    assert message[-1].startswith("cxrbase: error: ")
    assert said in message[-1]
    assert not (tmp_path / "out" / "paper" / "results.json").exists()


def test_images_that_are_there_and_malformed_are_an_error_and_not_missing(words, capsys, tmp_path):
    (tmp_path / "images").mkdir()
    task = {"name": "odd", "title": "Odd", "data": {"root": str(tmp_path / "images")}}
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump({"task": task}))
    assert main(words(figure3=[str(tmp_path / "odd.yaml")])) == 1
    assert "needs" in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.slow
def test_unreadable_images_are_answered_by_the_option_that_allows_for_them(words, world, capsys, tmp_path):
    root = shutil.copytree(world / "phantom", tmp_path / "phantom", ignore=shutil.ignore_patterns(".canvas"))
    for path in Manifest.read(root / "manifest.parquet").paths[:9]:
        path.write_bytes(b"not an image")
    task = yaml.safe_load((world / "pneumonia.yaml").read_text())
    task["task"] |= {"name": "torn", "data": {"root": str(root)}}
    (tmp_path / "torn.yaml").write_text(yaml.safe_dump(task))
    given = {"figure2": [f"{tmp_path}/torn.yaml"], "figure3": [f"{tmp_path}/torn.yaml"], "shots": [1], "few": 1}
    command = words("--encoder=from_scratch=" + str(world / "encoder0"), figure4=[f"{tmp_path}/torn.yaml"], **given)
    assert main(command) == 1
    option = re.search(r"allow for them by (--max_bad=[0-9.]+)", capsys.readouterr().err.splitlines()[-1])[1]
    assert main([*command, option, "--cache_gb=0"]) == 0
    assert {path.name.rpartition("-")[2] for path in (tmp_path / "out").rglob("canvas/*.npy")} == {"sizes.npy"}


def test_two_tasks_of_one_name_are_refused(words, world, capsys, tmp_path):
    (tmp_path / "twin.yaml").write_text((world / "view.yaml").read_text())
    assert main(words(figure3=[str(tmp_path / "twin.yaml")])) == 1
    assert "are both called view" in capsys.readouterr().err


def test_the_plan_of_the_project_names_tasks_that_exist_and_every_role():
    content = yaml.safe_load((EXPERIMENTS / "paper.yaml").read_text())
    made = Paper(**(content | {"encoders": [Slot(**slot) for slot in content["encoders"]]}))
    assert all((REPOSITORY / path).is_file() for path in made.tasks)
    assert [slot.role for slot in made.encoders] == [
        "ssl_cxr_from_imagenet", "ssl_cxr", "ssl_imagenet", "supervised_imagenet", "untrained",
    ]  # fmt: skip
    assert [slot.name for slot in made.given] == ["untrained"]
    assert len(made.seeds) == 5
    with pytest.raises(ConfigError, match="names are"):
        made.with_encoders(["zzz=x"])
