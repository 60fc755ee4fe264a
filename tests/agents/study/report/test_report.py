"""``tokenwalk report``: what stands on the page, and what it refuses."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tokenwalk.agents.policy_gradient.config import PolicyGradientConfig
from tokenwalk.agents.study.compare.plan import plan
from tokenwalk.agents.study.compare.run import compare
from tokenwalk.agents.study.report.page import find_runs, write_report
from tokenwalk.agents.tabular.config import QLearningConfig
from tokenwalk.agents.training.train_agent import train


class Tags(HTMLParser):
    """Collects the tags, and what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            inside = (value or "").startswith(("#", "data:"))
            if name in ("src", "href", "xlink:href") and not inside:
                self.fetched.append(value or "")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with runs of Flattery: a tabular agent with two seeds, and a language model."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        train("q-learning", "Flattery", steps=2_000, runs=1, seed=seed, run_dir=folder / f"q{seed}")
    small: Any = PolicyGradientConfig(n_layers=1, n_heads=2, width=16, evaluate_every=2)
    train("rloo", "Flattery", steps=3_000, config=small, run_dir=folder / "rloo")
    return folder


def test_the_page_holds_runs_curves_sources_the_truth_and_texts_and_fetches_nothing(
    runs: Path, tmp_path: Path
) -> None:
    found = write_report([runs], tmp_path / "out")
    page = Path(found["page"]).read_text(encoding="utf-8")
    assert (found["env"], found["runs"]) == ("tokenwalk/Flattery-v0", 3)
    assert [Path(one).name for one in found["pictures"]] == ["curves.svg", "goodhart.svg", "sources.svg"]
    seen = Tags()
    seen.feed(page)
    assert seen.fetched == []
    assert "script" not in seen.tags
    assert seen.tags.count("svg") == 3
    assert seen.tags.count("table") == 2
    for heading in (
        "Runs",
        "Learning curves",
        "What each source gave",
        "Gold against KL",
        "Completions before and after",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert "before: the reference policy" in page
    assert re.search("<mark>(evidence|therefore)</mark>", page)
    best = "because <mark>evidence</mark> because <mark>evidence</mark> <mark>therefore</mark>"
    assert re.search(
        rf"<td class=t>q-learning</td><td>2.5</td><td class=t>\d of 6</td><td class=t>{best}</td>", page
    )
    assert "<th>prompt</th>" not in page  # Flattery has none


def test_each_pay_has_a_panel_with_its_own_optimum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenwalk.agents.study.report import charts as pictures

    for reward in ("proxy", "gold"):
        for agent in ("q-learning", "sarsa"):
            train(
                agent, "Flattery", steps=500, runs=1, reward=[reward], run_dir=tmp_path / f"{agent}-{reward}"
            )
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(pictures, "plot_curves", lambda panels, metric, path: drawn.update(panels))
    monkeypatch.setattr(pictures, "_plot_path", lambda axes, report: None)
    with pytest.raises(FileNotFoundError):  # what nobody drew
        write_report([tmp_path], tmp_path / "out")
    assert list(drawn) == ["paid by gold", "paid by proxy"]
    assert all(list(one.groups) == ["q-learning", "sarsa"] for one in drawn.values())
    assert [one.lines["optimum"] for one in drawn.values()] == [2.5, 3.5]


def test_a_picture_of_many_agents_and_rewards_keeps_its_axes(tmp_path: Path) -> None:
    from tokenwalk.agents.evaluation.goodhart import goodhart_report
    from tokenwalk.agents.study.report.charts import plot_goodhart

    trained = {
        f"paid by {reward}": [(f"agent {number}", float(number), 1.0) for number in range(6)]
        for reward in range(6)
    }
    # Where the legend took all the room matplotlib only warned, which is an error here.
    plot_goodhart(goodhart_report("Flattery"), tmp_path / "picture.svg", trained)
    assert (tmp_path / "picture.svg").read_text().count('<g id="axes_') == 6


def test_the_walk_has_its_action_values_and_a_comparison_its_table(tmp_path: Path) -> None:
    compare(plan("CounterWalk", ["q-learning"], seeds=2), tmp_path / "compared", jobs=1)
    found = write_report([tmp_path / "compared"], tmp_path / "out", metric="eval/gold")
    assert [Path(one).name for one in found["pictures"]] == ["curves.svg", "values.svg"]
    page = Path(found["page"]).read_text(encoding="utf-8")
    assert "<h2>Compared, 2 seeds</h2>" in page
    assert "<h2>Action values</h2>" in page


def test_runs_of_one_agent_are_told_apart_by_their_weights_and_their_settings(tmp_path: Path) -> None:
    for number, (reward, step_size) in enumerate([("proxy=-1", 0.5), ("proxy=2", 0.5), ("proxy=2", 1.0)]):
        config = QLearningConfig(step_size=step_size)
        how: Any = {"steps": 200, "runs": 1, "config": config, "reward": [reward]}
        train("q-learning", "Flattery", **how, run_dir=tmp_path / str(number))
    runs, _ = find_runs([tmp_path])
    assert [run.label for run in runs] == [
        "q-learning, paid by proxy=-1",
        "q-learning, step_size 0.5, paid by proxy=2",
        "q-learning, step_size 1.0, paid by proxy=2",
    ]


def test_the_truth_is_drawn_of_the_runs_own_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenwalk.agents.study.report import charts as pictures

    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(pictures, "plot_goodhart", lambda report, path, trained: seen.append(report))
    env_args = {"task": "Flattery", "horizon": 3}
    train("q-learning", "TokenGeneration", steps=200, runs=1, env_args=env_args, run_dir=tmp_path / "short")
    with pytest.raises(FileNotFoundError):  # what nobody drew
        write_report([tmp_path / "short"], tmp_path / "out")
    assert seen[0]["proxy_optimum"] == pytest.approx(2.1)
    assert not (tmp_path / "out").exists()


def test_damaged_files_are_named_and_nothing_is_left_behind(tmp_path: Path) -> None:
    compare(plan("CounterWalk", ["q-learning"], seeds=1), folder := tmp_path / "compared", jobs=1)
    cell = folder / "runs" / "q-learning-gold-0"
    for path, text, message in (
        (folder / "comparison.json", "{}", "comparison.json is damaged"),
        (cell / "metrics.csv", "", "their metrics.csv are empty or damaged"),
        (cell / "summary.json", "{}", "summary.json is damaged"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            write_report([folder], tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_runs_label_is_what_its_seeds_have_in_common(runs: Path) -> None:
    found, _ = find_runs([runs])
    assert [run.label for run in found] == ["q-learning", "q-learning", "rloo"]


def test_what_cannot_be_reported_is_named_and_nothing_is_written(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train("random", "CounterWalk", run_dir=tmp_path / "walk")
    train("random", "Flattery", env_args={"horizon": 3}, run_dir=tmp_path / "short")
    empty, unfinished = tmp_path / "empty", tmp_path / "unfinished"
    empty.mkdir()
    train("random", "Flattery", run_dir=unfinished)
    (unfinished / "summary.json").unlink()
    cases: list[tuple[list[Path], dict[str, str], str]] = [
        ([tmp_path / "nowhere"], {}, "nowhere is no folder"),
        ([empty], {}, "there is no agent's run in"),
        ([runs, tmp_path / "walk"], {}, "which do not go into one picture"),
        ([runs, tmp_path / "short"], {}, "its defaults and {'horizon': 3}, which do not go into one picture"),
        ([unfinished], {}, "is still being written, or was killed"),
        ([runs], {"metric": "eval/glory"}, "no run has a metric 'eval/glory': give one of .*eval/gold"),
    ]
    for paths, how, message in cases:
        with pytest.raises(ValueError, match=message):
            write_report(paths, out, **how)
        assert not out.exists()
    out.mkdir()
    with pytest.raises(ValueError, match="out exists: name a new folder"):
        write_report([runs], out)
