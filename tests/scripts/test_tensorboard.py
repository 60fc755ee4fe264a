"""TensorBoard in a real browser shows the curve of a run and its optimum in one chart."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tokenwalk.agents.training.train_agent import train

pytestmark = pytest.mark.slow


@pytest.fixture
def board(tmp_path: Path) -> Iterator[str]:
    """Yield the address of a TensorBoard on one short run."""
    train("q-learning", "CounterWalk", steps=2000, runs=4, run_dir=tmp_path / "runs" / "walk")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(tmp_path / "runs"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/data/environment", timeout=1).close()
                break
            except OSError:
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=20)


def test_the_default_tab_plots_the_return_with_optimum_and_reference_in_one_chart(
    board: str, browser: Any
) -> None:
    from playwright.sync_api import expect

    page = browser.new_page(viewport={"width": 1600, "height": 1200})
    page.goto(board)
    for run in ("walk", "walk/optimum", "walk/reference"):
        expect(page.get_by_text(run, exact=True).first).to_be_visible(timeout=60_000)
    page.get_by_role("combobox", name="Filter tags (regex)").fill("eval/return$")
    card = page.locator("card-view").filter(has_text="eval/return").first
    expect(card).to_be_visible(timeout=30_000)
    expect(card.locator("svg path[d], canvas").first).to_be_attached(timeout=30_000)
    # The tooltip of the chart has one row per plotted run.
    card.hover()
    box = card.locator("line-chart").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tooltip = page.locator(".tooltip").first
    expect(tooltip).to_be_visible(timeout=10_000)
    plotted = tooltip.inner_text()
    page.goto(f"{board}/#hparams")
    for shown in ("step_size", "eval/normalized_score"):
        expect(page.get_by_text(shown).first).to_be_visible(timeout=60_000)
    assert "walk/optimum" in plotted
    assert "walk/reference" in plotted
