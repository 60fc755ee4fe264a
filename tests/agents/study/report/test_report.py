"""``tokenwalk report``: the contents of the page, and the errors."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenwalk.agents.exact_tokens.completions import Completions
from tokenwalk.agents.policy_gradient.config import PolicyGradientConfig
from tokenwalk.agents.problem.problem import open_problem
from tokenwalk.agents.study.compare.plan import plan
from tokenwalk.agents.study.compare.run import compare
from tokenwalk.agents.study.report import charts, page
from tokenwalk.agents.study.report.page import write_report
from tokenwalk.agents.study.report.runs import Run, find_runs
from tokenwalk.agents.tabular.config import QLearningConfig
from tokenwalk.agents.training.train_agent import train


class Tags(HTMLParser):
    """Collects the tags, and the files that a browser would fetch."""

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


def test_the_page_has_every_section_and_fetches_nothing(runs: Path, tmp_path: Path) -> None:
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
        "Reward components",
        "Gold against KL",
        "Completions before and after training",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert "before training: the reference policy" in page
    assert re.search("<mark>(evidence|therefore)</mark>", page)
    best = "because <mark>evidence</mark> because <mark>evidence</mark> <mark>therefore</mark>"
    assert re.search(
        rf"<td class=t>q-learning</td><td>2.5</td><td class=t>\d of 6</td><td class=t>{best}</td>", page
    )
    assert "<th>prompt</th>" not in page  # Flattery has no prompts


def test_each_training_reward_has_a_panel_with_its_own_optimum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reward in ("proxy", "gold"):
        for agent in ("q-learning", "sarsa"):
            train(
                agent, "Flattery", steps=500, runs=1, reward=[reward], run_dir=tmp_path / f"{agent}-{reward}"
            )
    plotted: dict[str, Any] = {}
    monkeypatch.setattr(charts, "plot_curves", lambda panels, metric, path: plotted.update(panels))
    monkeypatch.setattr(charts, "_plot_path", lambda axes, report: None)
    with pytest.raises(FileNotFoundError):  # no chart was plotted
        write_report([tmp_path], tmp_path / "out")
    assert list(plotted) == ["trained on gold", "trained on proxy"]
    assert all(list(one.groups) == ["q-learning", "sarsa"] for one in plotted.values())
    assert [one.lines["optimum"] for one in plotted.values()] == [2.5, 3.5]


def test_a_chart_of_many_agents_and_rewards_keeps_its_axes(tmp_path: Path) -> None:
    from tokenwalk.agents.evaluation.goodhart import goodhart_report

    trained = {
        f"trained on {reward}": [(f"agent {number}", float(number), 1.0) for number in range(6)]
        for reward in range(6)
    }
    # If the legend takes all the space, matplotlib warns, which is an error here.
    charts.plot_goodhart(goodhart_report("Flattery"), tmp_path / "chart.svg", trained)
    assert (tmp_path / "chart.svg").read_text().count('<g id="axes_') == 6


def test_the_walk_has_its_action_values_and_a_comparison_its_table(tmp_path: Path) -> None:
    compare(plan("CounterWalk", ["q-learning"], seeds=2), tmp_path / "compared", jobs=1)
    found = write_report([tmp_path / "compared"], tmp_path / "out", metric="eval/gold")
    assert [Path(one).name for one in found["pictures"]] == ["curves.svg", "values.svg"]
    page = Path(found["page"]).read_text(encoding="utf-8")
    assert "<h2>Comparison, 2 seeds</h2>" in page
    assert "<h2>Action values</h2>" in page


def test_runs_of_one_agent_are_labeled_by_their_weights_and_their_settings(tmp_path: Path) -> None:
    for number, (reward, step_size) in enumerate([("proxy=-1", 0.5), ("proxy=2", 0.5), ("proxy=2", 1.0)]):
        config = QLearningConfig(step_size=step_size)
        how: Any = {"steps": 200, "runs": 1, "config": config, "reward": [reward]}
        train("q-learning", "Flattery", **how, run_dir=tmp_path / str(number))
    runs, _ = find_runs([tmp_path])
    assert [run.label for run in runs] == [
        "q-learning, trained on proxy=-1",
        "q-learning, step_size 0.5, trained on proxy=2",
        "q-learning, step_size 1.0, trained on proxy=2",
    ]


def test_gold_against_kl_is_plotted_for_the_environment_of_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(charts, "plot_goodhart", lambda report, path, trained: seen.append(report))
    env_args = {"task": "Flattery", "horizon": 3}
    train("q-learning", "TokenGeneration", steps=200, runs=1, env_args=env_args, run_dir=tmp_path / "short")
    with pytest.raises(FileNotFoundError):  # no chart was plotted
        write_report([tmp_path / "short"], tmp_path / "out")
    assert seen[0]["proxy_optimum"] == pytest.approx(2.1)
    assert not (tmp_path / "out").exists()


def test_damaged_files_are_named_and_no_report_is_left(tmp_path: Path) -> None:
    compare(plan("CounterWalk", ["q-learning"], seeds=1), folder := tmp_path / "compared", jobs=1)
    cell = folder / "runs" / "q-learning-gold-0"
    for path, text, message in (
        (folder / "comparison.json", "{}", "comparison.json is damaged"),
        (cell / "metrics.csv", "", "every metrics.csv is empty or damaged"),
        (cell / "summary.json", "{}", "summary.json is damaged"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            write_report([folder], tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_runs_label_is_what_its_seeds_have_in_common(runs: Path) -> None:
    found, _ = find_runs([runs])
    assert [run.label for run in found] == ["q-learning", "q-learning", "rloo"]


def test_an_impossible_report_is_refused_and_nothing_is_written(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train("random", "CounterWalk", run_dir=tmp_path / "walk")
    train("random", "Flattery", env_args={"horizon": 3}, run_dir=tmp_path / "short")
    empty, unfinished = tmp_path / "empty", tmp_path / "unfinished"
    empty.mkdir()
    train("random", "Flattery", run_dir=unfinished)
    (unfinished / "summary.json").unlink()
    cases: list[tuple[list[Path], dict[str, str], str]] = [
        ([tmp_path / "nowhere"], {}, "nowhere is not a folder"),
        ([empty], {}, "no run of an agent in"),
        (
            [runs, tmp_path / "walk"],
            {},
            "several environments, tokenwalk/CounterWalk-v0 and tokenwalk/Flattery-v0",
        ),
        ([runs, tmp_path / "short"], {}, "with different arguments, its defaults and {'horizon': 3}"),
        ([unfinished], {}, "is incomplete, because it is still running or was killed"),
        ([runs], {"metric": "eval/glory"}, "no run has a metric 'eval/glory': give one of .*eval/gold"),
    ]
    for paths, how, message in cases:
        with pytest.raises(ValueError, match=message):
            write_report(paths, out, **how)
        assert not out.exists()
    out.mkdir()
    with pytest.raises(ValueError, match="out exists: name a new folder"):
        write_report([runs], out)


def logged_run(folder: Path, rows: list[tuple[int, str, float]], **config: Any) -> Run:
    """Write the metrics.csv of a run with rows of (step, tag, value) and return the run."""
    folder.mkdir()
    lines = [f"{step},0.0,{tag},{value}" for step, tag, value in rows]
    (folder / "metrics.csv").write_text("\n".join(["step,seconds,tag,value", *lines]) + "\n")
    return Run(folder, {"agent": "ppo", "config": {}, "seed": 0, **config}, {})


def test_a_curve_is_sorted_by_step_and_keeps_the_last_value_of_a_step(tmp_path: Path) -> None:
    rows = [
        (20, "eval/return", 2.0),
        (10, "eval/return", 1.0),
        (20, "eval/gold", 9.0),
        (20, "eval/return", 3.0),
    ]
    assert logged_run(tmp_path / "run", rows).curve("eval/return") == [(10, 1.0), (20, 3.0)]


def test_a_label_names_the_agent_its_rewards_and_its_shaping(tmp_path: Path) -> None:
    def label(**config: Any) -> str:
        return Run(tmp_path, {"agent": "ppo", **config}, {}).label

    assert label() == "ppo"
    assert label(reward=["gold"]) == "ppo"
    assert label(reward=["gold=2", "runs/model=-1"]) == "ppo, trained on gold=2 + model=-1"
    assert label(shaping=["runs/value"]) == "ppo, trained on gold, shaped by value"
    assert label(agent="/somewhere/mine.py:Mine") == "Mine"


def test_a_band_is_the_mean_minimum_and_maximum_of_interpolated_curves() -> None:
    band = charts._banded([[(0, 0.0), (10, 10.0), (20, 0.0)], [(0, 4.0), (20, 24.0), (30, 99.0)]])
    assert band["steps"] == [0.0, 10.0, 20.0]  # 30 is beyond the end of the first
    assert band["mean"] == [2.0, 12.0, 12.0]  # at 10 the second has 14
    assert (band["low"], band["high"]) == ([0.0, 10.0, 0.0], [4.0, 14.0, 24.0])


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("eval/kl", "nats"),
        ("eval/entropy", "nats"),
        ("eval/return", "reward per episode"),
        ("rollout/ep_rew_mean", "reward per episode"),
        ("reward/praise/weighted", "reward per episode"),
        ("eval/normalized_score", "1: the optimum"),
        ("rollout/ep_len_mean", "steps"),
        ("train/loss", "no unit"),
    ],
)
def test_each_metric_has_its_unit_on_the_axis(metric: str, unit: str) -> None:
    assert charts._unit_of(metric) == unit


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (1234.5, "1,234"),
        (0.123456, "0.1235"),
        (12_000, "12,000"),
        ("gold", "gold"),
    ],
)
def test_a_number_of_the_page_is_short(value: Any, text: str) -> None:
    assert page._number(value) == text


def test_cells_of_a_table_are_escaped_and_markup_is_not() -> None:
    table = page._rows(("steps_to_95", "text"), [(1, "<b>"), (2.5, page.Markup("<mark>a</mark>"))], "text")
    assert "<th>steps to 95</th><th>text</th>" in table
    assert "<td>1</td><td class=t>&lt;b&gt;</td>" in table
    assert "<td>2.5</td><td class=t><mark>a</mark></td>" in table


def test_completions_are_marked_by_the_sign_of_the_gold_reward_of_each_token() -> None:
    problem = open_problem("Flattery")
    assert problem.tokens is not None
    task = problem.tokens.task
    ids = {token: number for number, token in enumerate(task.vocabulary.tokens)}
    words = ["because", "evidence", "great"]
    tokens = np.full((2, task.horizon), task.vocabulary.pad)
    tokens[:, :3] = [ids[word] for word in words]
    none = np.zeros(2)  # the log-probabilities are not shown
    texts = Completions(np.zeros(2, dtype=np.int64), tokens, np.array([3, 3]), none, none)
    marked = "because <mark>evidence</mark> <mark class='loss'>great</mark>"
    assert page._marked(texts, problem) == [("", 0.5, "2 of 2", marked)]  # 1 for the pair, -0.5 for praise


def test_a_run_that_logged_no_components_has_no_chart_of_them(tmp_path: Path) -> None:
    once = logged_run(tmp_path / "once", [(10, "reward/gold", 1.0), (10, "reward/gold/weight", 1.0)])
    assert charts.terms_chart([once], tmp_path / "terms.svg") is False
    assert not (tmp_path / "terms.svg").exists()
    twice = logged_run(tmp_path / "twice", [(10, "reward/gold", 1.0), (20, "reward/gold", 2.0)])
    assert (
        charts.terms_chart([once, twice], tmp_path / "terms.svg") is True
    )  # the second run has the label, too


def test_a_chart_needs_a_known_suffix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has the suffix '\.txt': give a \.png, \.svg or \.pdf file"):
        charts.plot_values(np.zeros((3, 2)), np.zeros((3, 2)), "q", tmp_path / "values.txt")


def test_the_page_marks_each_greedy_action_once(tmp_path: Path) -> None:
    policy = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    charts.plot_values(np.zeros((3, 2)), policy, "q", tmp_path / "values.svg")
    text = (tmp_path / "values.svg").read_text(encoding="utf-8")
    assert text.count('<g id="line2d_') - charts_ticks(text) == 4  # one dot per action with a probability


def charts_ticks(svg: str) -> int:
    """Return the number of tick marks of a chart: each is a line inside a tick group."""
    return svg.count('<g id="xtick_') + svg.count('<g id="ytick_')
