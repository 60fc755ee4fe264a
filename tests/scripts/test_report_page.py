"""The report in a real browser, at the width of a desktop and of a phone."""

from pathlib import Path
from typing import Any

import pytest

from tokenwalk.agents.study.report.page import write_report
from tokenwalk.agents.training.train_agent import train

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_whole_at_any_width_without_an_error_and_without_a_network(
    width: int, browser: Any, tmp_path: Path
) -> None:
    train("q-learning", "Flattery", steps=2_000, runs=1, run_dir=tmp_path / "run")
    page_file = write_report([tmp_path / "run"], tmp_path / "out")["page"]
    page = browser.new_page(viewport={"width": width, "height": 900})
    messages: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"file://{page_file}")
    assert page.locator("svg").count() == 3
    for chart in page.locator("svg").all():
        box = chart.bounding_box()
        assert box is not None
        assert box["width"] >= 600  # its text is readable
    # A table or a chart that is wider than the page scrolls by itself.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert messages == []
    assert requests == [f"file://{page_file}"]
