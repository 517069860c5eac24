"""The report in a real browser: it opens without errors, charts are there, tables sort, also by keyboard."""

import shutil

import pytest

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
