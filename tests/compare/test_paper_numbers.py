"""The tests of the paper's figures on made results: what is paired, and what is not."""

import re
from dataclasses import replace

import numpy as np
import pytest
import yaml

from cxrbase.compare.paper_figures import TITLES, draw
from cxrbase.compare.paper_numbers import METRICS, content
from cxrbase.compare.paper_page import write_page
from cxrbase.compare.paper_plan import Paper, Slot
from cxrbase.compare.paper_scores import Scores
from cxrbase.evaluation.significance import hierarchical_difference
from cxrbase.evaluation.suite.results import Result
from cxrbase.evaluation.task import read_task

OURS, BLANK = Slot("ours", "ssl_cxr", "somewhere"), Slot("untrained", "untrained", "untrained")


@pytest.fixture
def paper(tmp_path):
    """Makes the plan and scores of one task from the metric of each training and draw, by encoder and protocol."""
    task = tmp_path / "task.yaml"
    task.write_text(yaml.safe_dump({"task": {"name": "made", "title": "Made", "data": {"root": "nowhere"}}}))

    def make(levels, *, resamples, classes=None, usual=("a",)):
        plan = Paper("p", [OURS, BLANK], *[[str(task)]] * 3, shots=[4], few=4, seeds=[0, 1], resamples=resamples)
        scores = Scores({str(task): read_task(str(task))}, {})
        patients = np.random.default_rng(0).normal(0, 0.02, resamples)
        for (encoder, protocol), trainings in levels.items():
            made = scores.results["made", encoder]
            for number, draws in enumerate(trainings):
                made += [[]] if number == len(made) else []
                own = (classes or {}).get((encoder, protocol), [usual] * len(draws))
                for seed, value in enumerate(draws):
                    samples = np.array([value, *(value + patients)])
                    made[number].append(result(protocol, seed, samples, own[seed]))
        return content(plan, {}, scores)

    return make


def result(protocol, seed, samples, classes=("a",)):
    row = {"protocol": protocol, "seed": seed, "train_images": 8, "warnings": []}
    row["metrics"] = {name: {"classes": list(classes)} for name in METRICS}
    counts = {"test": {"images": 4, "patients": 4}}
    empty, labels = np.zeros((4, 1)), np.array([[0.0], [0.0], [1.0], [1.0]])
    return Result(row | {"counts": counts}, empty, empty, labels, np.arange(4), dict.fromkeys(METRICS, samples))


def test_accuracy_of_exclusive_classes_is_that_of_the_likeliest_one(tmp_path):
    kinds, made = {"single": "multiclass", "several": "multilabel"}, {}
    for name, kind in kinds.items():
        task = {"name": name, "title": name, "data": {"root": "nowhere"}, "kind": kind, "findings": ["a", "b", "c"]}
        (path := tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"task": task}))
        made[str(path)] = read_task(str(path))
    plan = Paper("p", [OURS], *[list(made)] * 3, shots=[4], few=4, seeds=[0], resamples=2)
    scores = Scores(made, {})
    for name in kinds:
        one = result("linear", 0, np.full(3, 0.5))
        one.macro["top1_accuracy"] = np.array([0.9, 0.8, 1.0])
        labels = np.array([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [1, 1, 0]])
        scores.results[name, "ours"] = [
            [replace(one, labels=labels), replace(one, row=one.row | {"protocol": "linear-4shot"})]
        ]
    found = content(plan, {}, scores)
    values = {row["task"]: row["value"] for row in found["figures"]["figure2"]["values"]
              if row["metric"] == "accuracy" and row["shots"] is None}  # fmt: skip
    assert values == pytest.approx({"single": 0.9, "several": 0.5})
    majority = {task["name"]: task["majority"] for task in found["tasks"]}
    assert majority == pytest.approx({"single": 2 / 3, "several": (0.5 + 0.75 + 1) / 3})


def test_draws_of_few_labels_are_not_paired_with_trainings_of_the_same_number(paper):
    levels = {
        ("ours", "linear"): [[0.9]],
        ("ours", "linear-4shot"): [[0.6, 0.8]],
        ("untrained", "linear"): [[0.6], [0.8]],
    }
    rows = paper(levels, resamples=500)["figures"]["figure4"]["differences"]
    few = next(row for row in rows if row["shots"] == 4)
    assert few["difference"] == pytest.approx(0)
    # The patients are the same and cancel; the seeds are not, and each side moves by itself.
    assert few["low"] < -0.1
    assert few["high"] > 0.1


@pytest.mark.parametrize(("resamples", "said"), [(20, True), (500, False)])
def test_few_resamples_for_the_tests_of_a_figure_are_told(paper, resamples, said):
    levels = {("ours", "linear"): [[0.9]], ("ours", "linear-4shot"): [[0.6, 0.8]], ("untrained", "linear"): [[0.6]]}
    found = paper(levels, resamples=resamples)
    limits = [warning for warning in found["warnings"] if "counted among 20 resamples" in warning]
    assert bool(limits) == said
    if said:
        assert limits[0].startswith("figure2 AUC ")
        assert set(found["figures"]["figure2"]) == {"tasks", "absent", "values", "differences"}


def test_means_over_different_classes_are_not_compared_and_this_is_said(paper):
    levels = {
        ("ours", "linear"): [[0.9]],
        ("ours", "linear-4shot"): [[0.6, 0.8]],
        ("untrained", "linear"): [[0.6], [0.8]],
    }
    found = paper(levels, resamples=500, classes={("ours", "linear-4shot"): [("a",), ("a", "b")]}, usual=("a", "b"))
    for figure in found["figures"].values():
        assert {row["shots"] for row in figure["differences"]} == {None}
    said = [warning for warning in found["warnings"] if "not compared" in warning]
    assert said == [
        f"made, {metric}: ours with 4 labelled patients per class is not compared with untrained, as the means are "
        "over different classes (without b)"
        for metric in METRICS.values()
    ]
    rows = {(row["encoder"], row["shots"]): row for row in found["figures"]["figure4"]["values"]}
    assert rows["ours", 4]["classes"] == ["a"]
    assert rows["ours", None]["classes"] == ["a", "b"]
    assert not [warning for warning in paper(levels, resamples=500)["warnings"] if "not compared" in warning]


def test_points_over_other_classes_are_on_no_line_and_named_below_the_figure(paper):
    levels = {("ours", "linear"): [[0.9]], ("ours", "linear-4shot"): [[0.6]], ("untrained", "linear"): [[0.6]]}
    said = "made AUC, ours with 4 per class (without b); made ACC, ours with 4 per class (without b)."
    for classes, off in (({}, False), ({("ours", "linear-4shot"): [("a",)]}, True)):
        figure = draw(paper(levels, resamples=20, classes=classes, usual=("a", "b")), "figure4")
        assert (said in " ".join(figure.get_supxlabel().split())) == off
        # The line through few labels has no mark; a point of an interval has one.
        (line,) = [line for line in figure.axes[0].lines if line.get_lw() == 1.2]
        assert len(line.get_xdata()) == (0 if off else 1)


def test_draws_are_no_trainings_and_every_training_has_all_draws(paper):
    ours = [[0.70, 0.71, 0.72], [0.74, 0.75, 0.76]]
    levels = {("ours", "linear"): [[0.9], [0.91]], ("ours", "linear-4shot"): ours, ("untrained", "linear"): [[0.6]] * 2}
    found = paper(levels, resamples=500)
    row = next(row for row in found["figures"]["figure4"]["values"] if row["shots"] == 4)
    assert (row["seeds"], row["draws"], row["by_seed"]) == (2, 3, [*ours[0], *ours[1]])
    assert row["value"] == pytest.approx(np.mean(ours))
    gap = next(row for row in found["figures"]["figure4"]["differences"] if row["shots"] == 4)
    assert (gap["seeds"], gap["draws"]) == (2, 3)
    # Two trainings leave one degree of freedom, and six would leave five.
    wanted = hierarchical_difference([runs_of(draws) for draws in ours], [runs_of([0.6] * 3) for _ in range(2)])
    assert (gap["low"], gap["high"], gap["p"]) == pytest.approx((wanted.low, wanted.high, wanted.p_value))
    assert gap["high"] - gap["low"] > 0.3


def runs_of(draws):
    patients = np.random.default_rng(0).normal(0, 0.02, 500)
    return np.array([[value, *(value + patients)] for value in draws])


def test_names_cannot_break_the_tables_of_the_page(tmp_path):
    about = {"task": "effusion | edema", "shots": None, "metric": "auroc", "low": 0.1, "high": 0.3}
    score = about | {"encoder": "a|b", "seeds": 1, "draws": 1, "value": 0.2}
    gap = about | {"against": "c|d", "difference": 0.2, "p": 0.5, "p_holm": 0.5}
    figure = {"values": [score, score | {"metric": "accuracy"}], "differences": [gap]}
    encoder = {"name": "a|b", "title": "of | nobody", "given": False}
    found = {
        "name": "made", "missing": [], "encoders": [encoder], "ours": "", "seeds": [0], "threshold": "youden",
        "resamples": 5, "warnings": [], "figures": dict.fromkeys(TITLES, figure),
    }  # fmt: skip
    write_page(found, tmp_path / "paper.md")
    rows = [line for line in (tmp_path / "paper.md").read_text().splitlines() if line.startswith("|")]
    assert "| effusion \\| edema | a\\|b | all | 1 | 1 | 0.200 [0.100, 0.300] | 0.200 [0.100, 0.300] |" in rows
    assert len(rows) == 3 + 6 * len(TITLES)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4, 7, 8}
