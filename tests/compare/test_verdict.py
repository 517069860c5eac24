"""What is said of made results: equal arms are equal, the control is worse, a page holds the numbers of its JSON."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from compare.conftest import RESAMPLES, made_result
from cxrbase.compare.board import RESULT, lay_out
from cxrbase.compare.collect import collect
from cxrbase.compare.report import write_report
from cxrbase.compare.verdict import differences, ranked_tasks, ranking, samples, values

LEVELS = {"mae": 0.70, "dino": 0.70, "simclr": 0.75, "untrained": 0.60}


def results(places):
    return [place.result for place in places if place.result]


def test_equal_arms_have_no_difference_and_the_control_is_worse(finished):
    rows = {(row["first"].split()[0], row["second"].split()[0]): row for row in differences(results(finished(LEVELS)))
            if row["protocol"] == "linear"}  # fmt: skip
    assert len(rows) == 6
    equal, control = rows["mae", "dino"], rows["mae", "untrained"]
    assert equal["difference"] == pytest.approx(0)
    assert equal["low"] <= 0 <= equal["high"]
    assert equal["p_holm"] > 0.9
    assert control["difference"] == pytest.approx(0.1, abs=0.01)
    assert control["low"] > 0
    assert control["p_holm"] < 0.05
    assert all(row["p_holm"] >= row["p"] for row in rows.values())


def test_ranks_are_shared_where_the_interval_includes_zero(finished):
    ranked = ranking(results(finished(LEVELS)), protocol="linear")
    assert [row["rank"] for row in ranked] == [1, 2, 2, 4]
    assert ranked[0]["arm"].startswith("simclr")
    assert ranked[-1]["arm"] == "untrained"


def test_with_one_task_the_ranking_has_the_scores_and_intervals_of_the_task(finished):
    found = results(finished(LEVELS))
    scores = {row["arm"]: row for row in values(found) if row["protocol"] == "linear"}
    for row in ranking(found, protocol="linear"):
        assert {name: row[name] for name in ("value", "low", "high")} == pytest.approx(
            {name: scores[row["arm"]][name] for name in ("value", "low", "high")}
        )


def test_a_task_whose_label_the_source_tells_does_not_count_in_the_ranking(finished):
    found = results(finished(LEVELS))
    plain = ranking(found, protocol="linear")
    for result in found:
        lifted = {name: row | {"samples": [[1 - value / 2 for value in draw] for draw in row["samples"]]}
                  for name, row in result["tasks"]["made"]["protocols"].items()}  # fmt: skip
        result["tasks"]["told"] = result["tasks"]["made"] | {"protocols": lifted, "confounded": True}
    assert ranked_tasks(found, protocol="linear") == ["made"]
    assert ranking(found, protocol="linear") == plain
    assert {row["task"] for row in values(found)} == {"made", "told"}
    for result in found:
        del result["tasks"]["made"]
    assert ranked_tasks(found, protocol="linear") == ["told"]


def test_the_interval_of_a_score_ends_at_one(finished):
    rows = values(results(finished(dict.fromkeys(LEVELS, 0.995))))
    assert all(row["low"] < row["value"] <= row["high"] == 1 for row in rows)


def test_values_are_means_over_seeds_with_intervals_of_the_samples(finished):
    found = results(finished(LEVELS))
    row = next(row for row in values(found) if row["arm"].startswith("mae") and row["protocol"] == "knn")
    runs = list(samples(found, row["arm"], "made", "knn").values())
    assert row["seeds"] == 3
    assert row["value"] == pytest.approx(np.mean([run[:, 0] for run in runs]))
    assert row["low"] < row["value"] < row["high"]


def test_results_csv_and_page_hold_the_same_numbers(finished, plan, tmp_path):
    places = finished(LEVELS)
    content = collect(plan, places, tmp_path, data="data")
    write_report(content, places, tmp_path / "report.html")
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(content))
    with (tmp_path / "results.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [float(row["value"]) for row in written] == [row["value"] for row in content["values"]]
    page = (tmp_path / "report.html").read_text()
    assert content["answer"].startswith("simclr 32-true is best")
    assert content["answer"] in page
    for row in content["values"]:
        assert f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in page
    for row in content["differences"]:
        assert f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]" in page
    assert "made of nothing" in page
    assert "images seen" in page
    assert "labelled patients per class" in page
    assert "left out, because the source, site or origin" not in page
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page), "the page must need no network"


def test_the_page_names_the_tasks_that_are_left_out_of_the_ranking(finished, plan, tmp_path):
    places = finished(LEVELS)
    for place in places:
        result = json.loads((place.folder / RESULT).read_text())
        result["tasks"]["told"] = result["tasks"]["made"] | {"confounded": True}
        (place.folder / RESULT).write_text(json.dumps(result))
    write_report(collect(plan, places, tmp_path, data="data"), places, tmp_path / "report.html")
    assert "told left out, because the source, site or origin" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("device", "said"), [("cuda:0", "of the GPU"), ("cpu", "the peak of the whole process")])
def test_memory_is_said_to_be_of_the_device_that_cells_were_trained_on(finished, plan, tmp_path, device, said):
    places = finished(LEVELS)
    for place in places:
        result = json.loads((place.folder / RESULT).read_text())
        result["summary"] |= {"device": device} if result["summary"] else {}
        (place.folder / RESULT).write_text(json.dumps(result))
    assert not places[0].result["summary"]  # of the untrained network
    write_report(collect(plan, places, tmp_path, data="data"), places, tmp_path / "report.html")
    assert f"Memory is {said}." in (tmp_path / "report.html").read_text()


def test_a_partial_report_says_what_is_missing(finished, plan, tmp_path):
    places = finished(LEVELS, but=("dino 32-true seed 1",))
    content = collect(plan, places, tmp_path, data="data")
    write_report(content, places, tmp_path / "report.html")
    assert not content["complete"]
    assert any("1 of 12 cells have no result yet: dino 32-true seed 1" in warning for warning in content["warnings"])
    assert "This report is partial" in (tmp_path / "report.html").read_text()


def test_nothing_scored_is_said(plan, tmp_path):
    places = lay_out(plan, tmp_path / "none", data="data")
    content = collect(plan, places, tmp_path, data="data")
    write_report(content, places, tmp_path / "report.html")
    assert content["answer"] == "No trained encoder has been scored yet."


def test_a_grid_of_45_pairs_can_tell_and_says_what_it_cannot(plan, tmp_path):
    plan = replace(plan, precisions=["32-true", "bf16-mixed", "16-mixed"])
    places = lay_out(plan, tmp_path / "grid", data="data")
    rng = np.random.default_rng(0)
    for place in places:
        result = made_result(place.cell, LEVELS[place.cell.objective])
        # Trainings scatter: little without training and with DINO, much with the others.
        spread = 0.0005 if place.cell.objective in ("untrained", "dino") else 0.02
        row = result["tasks"]["made"]["protocols"]["linear"]
        shifted = row | {
            "samples": [[value + by for by in [rng.normal(0, spread)] for value in draw] for draw in row["samples"]]
        }
        result["tasks"]["made"]["protocols"] = {"linear": shifted}
        (place.folder / RESULT).write_text(json.dumps(result))
    content = collect(plan, places, tmp_path, data="data")
    rows = [row for row in content["differences"] if row["protocol"] == "linear"]
    assert len(rows) == 45
    told = [row for row in rows if row["first"].startswith("dino") and row["second"] == "untrained"]
    assert len(told) == 3
    assert all(row["p_holm"] < 0.05 for row in told)
    hidden = [row for row in rows if "warning" in row]
    assert hidden
    assert all(row["low"] > 0 or row["high"] < 0 for row in hidden)
    (limit,) = [warning for warning in content["warnings"] if warning.startswith("linear: 45 tests")]
    assert f"the intervals of {len(hidden)} exclude 0 and their corrected p is not below 0.05: more seeds" in limit
    write_report(content, places, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("†</td>") == sum("warning" in row for row in content["differences"])
    assert "&dagger;: the interval over seeds excludes 0, or" in page
    assert limit in page


def test_a_small_family_needs_no_warning(finished, plan, tmp_path):
    content = collect(plan, finished(LEVELS), tmp_path, data="data")
    assert not [warning for warning in content["warnings"] if "tests" in warning]


@pytest.mark.parametrize("defined", [0, 400])
def test_an_interval_that_too_few_resamples_define_is_said_and_the_report_is_written(finished, plan, tmp_path, defined):
    places = finished(LEVELS)
    for place in places:
        result = json.loads((place.folder / RESULT).read_text())
        for row in result["tasks"]["made"]["protocols"].values():
            row["samples"] = [[*row["samples"][0][: defined + 1], *[None] * (RESAMPLES - defined)]]
        (place.folder / RESULT).write_text(json.dumps(result))
    content = collect(plan, places, tmp_path, data="data")
    write_report(content, places, tmp_path / "report.html")
    written = json.loads((tmp_path / "results.json").read_text())
    assert all(row["low"] is row["p"] is None for row in written["differences"])
    assert written["answer"].startswith("No difference is established")
    assert "<strong>" not in (tmp_path / "report.html").read_text().split('id="differences"')[1].split("</table>")[0]
    assert " (no interval: too few resamples hold every class)" in (tmp_path / "report.html").read_text()
