"""Charts of many arms: each by a colour and a mark of its own, and precision against score where there are several."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from compare.conftest import made_result
from cxrbase.compare import charts
from cxrbase.compare.board import RESULT, lay_out
from cxrbase.compare.collect import collect
from cxrbase.compare.report import write_report
from cxrbase.evaluation.chart_styles import styles

LEVELS = {"mae": 0.70, "dino": 0.68, "simclr": 0.75, "untrained": 0.60}


def points(svg):
    """Colour and mark of every point of an SVG, those of the legend included."""
    return [(colour, mark) for mark, colour in re.findall(r'<use xlink:href="(#\w+)"[^>]*style="fill: (#\w{6})', svg)]


def score_rows(arms):
    return [
        {"arm": arm, "task": "made", "protocol": "linear", "value": 0.6 + 0.01 * n, "low": 0.55, "high": 0.8}
        for n, arm in enumerate(arms)
    ]


@pytest.mark.parametrize("count", [7, 8, 10, 49])
def test_no_two_arms_look_alike(count):
    found = styles([f"arm {number}" for number in range(count)])
    assert len({(style["color"], style["marker"]) for style in found.values()}) == count


def test_neighbours_differ_in_both_colour_and_mark():
    found = list(styles([f"arm {number}" for number in range(20)]).values())
    for one, next_one in pairwise(found):
        assert one["color"] != next_one["color"]
        assert one["marker"] != next_one["marker"]


def test_a_chart_of_ten_arms_holds_ten_looks_and_ten_names():
    arms = [f"arm {number}" for number in range(10)]
    svg = charts.scores(score_rows(arms), arms, "linear")
    assert len(set(points(svg))) == 10
    assert all(f">{arm}</text>" in svg for arm in arms)


def test_points_of_few_labels_over_other_classes_are_left_out_and_named():
    def row(arm, shots, classes):
        return {"arm": arm, "task": "made", "protocol": f"linear-{shots}shot", "value": 0.6, "low": 0.5, "high": 0.7,
                "classes": classes}  # fmt: skip

    rows = [row("mae", shots, ["a", "b"]) for shots in (4, 16)]
    assert "Left out" not in charts.few_labels(rows, ["mae"], "made")
    svg = charts.few_labels([row("mae", 1, ["b"]), *rows], ["mae"], "made")
    assert "Left out, as the mean is over other classes there: linear-1shot (without a)." in " ".join(
        re.findall(r"<text[^>]*>([^<]*)", svg)
    )
    assert len(points(svg)) == len(points(charts.few_labels(rows, ["mae"], "made")))


def test_precision_is_set_against_score_where_two_were_run(plan, tmp_path):
    plan = replace(plan, precisions=["32-true", "bf16-mixed"])
    places = lay_out(plan, tmp_path / "made", data="data")
    for place in places:
        level = LEVELS[place.cell.objective] - 0.05 * (place.cell.precision == "bf16-mixed")
        Path(place.folder, RESULT).write_text(json.dumps(made_result(place.cell, level)))
    content = collect(plan, places, tmp_path, data="data")
    svg = charts.precision_against_score(content["values"], content["cells"], "made", "linear")
    colours = [colour for colour, _ in points(svg)]
    assert len(set(colours)) == len(plan.objectives)
    # A point for each precision, and one of the legend.
    assert {colours.count(colour) for colour in colours} == {len(plan.precisions) + 1}
    for written in [*plan.objectives, *plan.precisions]:
        assert f">{written}</text>" in svg
    assert "untrained" not in svg
    write_report(content, places, tmp_path / "report.html")
    assert "Precision against score: made" in (tmp_path / "report.html").read_text()


def test_precision_is_not_drawn_where_one_was_run(finished, plan, tmp_path):
    content = collect(plan, finished(LEVELS), tmp_path, data="data")
    assert charts.precision_against_score(content["values"], content["cells"], "made", "linear") == ""
