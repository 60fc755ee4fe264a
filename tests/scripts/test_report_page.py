"""The report, opened in a real browser at the width of a desk and of a telephone."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from tokenwalk.agents.study.reporting import write_report
from tokenwalk.agents.study.training import train

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt install chromium)"),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None,
        reason="playwright is not installed (pip install playwright)",
    ),
]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_whole_at_any_width_without_an_error_and_without_a_network(
    width: int, tmp_path: Path
) -> None:
    from playwright.sync_api import sync_playwright

    train("q-learning", "Flattery", steps=2_000, runs=1, run_dir=tmp_path / "run")
    page_file = write_report([tmp_path / "run"], tmp_path / "out")["page"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"file://{page_file}")
        assert page.locator("svg").count() == 3
        for picture in page.locator("svg").all():
            box = picture.bounding_box()
            assert box is not None
            assert 0 < box["width"] <= width
        assert (
            page.evaluate("document.documentElement.scrollWidth") <= width
        )  # only tables scroll, by themselves
        assert said == []
        assert asked == [f"file://{page_file}"]
        browser.close()
