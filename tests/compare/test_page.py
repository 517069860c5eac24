"""A comparison as a kept result, and its report in a browser: no errors, charts are there, tables sort."""

import json
import shutil

import pytest

import warm
from commands import REPOSITORY
from cxrbase.compare.collect import collect
from cxrbase.compare.report import write_report

LEVELS = {"mae": 0.70, "dino": 0.68, "simclr": 0.75, "untrained": 0.60}


def test_the_report_opens_shows_charts_and_sorts(finished, plan, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    places = finished(LEVELS)
    write_report(collect(plan, places, tmp_path, data="data"), places, tmp_path / "report.html")
    said: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(color_scheme="dark")
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url))
        page.goto((tmp_path / "report.html").as_uri())
        assert page.locator("figure svg").count() >= 3
        assert page.locator("p.answer").inner_text().startswith("simclr 32-true is best")
        first = page.locator("#cost tbody tr:first-child td:first-child")
        heading = page.locator("#cost thead th").nth(0)
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == "ascending"
        assert first.inner_text() == "dino 32-true seed 0"
        heading.locator("button").press("Enter")
        assert first.inner_text() == "untrained seed 2"
        browser.close()
    assert said == []


@pytest.mark.slow
def test_a_comparison_is_kept_as_a_result_of_a_benchmark(finished, plan, tmp_path):
    collect(plan, finished(LEVELS), tmp_path, data="data")
    words = ["--run", tmp_path, "--ran", "cxrbase compare", "--minutes", "3", "--name", "made"]
    script = REPOSITORY / "benchmarks" / "compare_rows.py"
    done = warm.run([script, *words, "--out", tmp_path / "made.json"], cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "made.json").read_text())
    rows = {row["cell"]: row for row in kept["tables"]["Cells"]}
    assert len(rows) == 12
    assert rows["simclr 32-true seed 0"]["made, linear"] == pytest.approx(LEVELS["simclr"], abs=0.01)
    assert kept["ran"] == "cxrbase compare"
    assert "benchmarks/compare_rows.py" in kept["command"]
