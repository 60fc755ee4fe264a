"""``tokenwalk compare``: its plan, its cells, and which finished cells it repeats."""

import csv
import fcntl
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenwalk.agents.problem.problem import open_problem
from tokenwalk.agents.runs.checkpoint import read_json, write_json
from tokenwalk.agents.runs.tracking import read_metrics
from tokenwalk.agents.study.compare import run as comparing
from tokenwalk.agents.study.compare.plan import estimate, plan
from tokenwalk.agents.study.compare.run import cells_left, claim, compare
from tokenwalk.agents.study.report.page import write_report
from tokenwalk.agents.training import train_agent


def test_the_default_agents_and_rewards_depend_on_the_environment() -> None:
    tokens, walk = plan("Flattery"), plan("CounterWalk")
    assert tokens.agents == ("q-learning", "ppo", "rloo", "sft")
    assert tokens.rewards == ("gold", "proxy", "reward-model", "bonus", "potential", "penalty")
    assert [cell.reward for cell in tokens.cells() if cell.agent == "sft"] == ["gold", "gold"]
    assert len(tokens.cells()) == 2 * (3 * 6 + 1)
    assert (walk.agents, walk.rewards) == (("q-learning", "ppo", "dqn"), ("gold",))
    assert "proxy" not in plan("Keyword").rewards
    half = plan("Flattery", budget=0.5).cells()
    assert estimate(half, 2) < estimate(tokens.cells(), 2) < estimate(tokens.cells(), 1)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"env": "Flattry"}, "Flattery"),
        ({"agents": ["random"]}, "random is a baseline"),
        ({"env": "CounterWalk", "agents": ["rloo"]}, "rloo generates tokens"),
        (
            {"env": "Keyword", "rewards": ["proxy"]},
            "has no reward 'proxy' to compare: give gold, reward-model",
        ),
        (
            {"env_args": {"horizon": 4}, "rewards": ["penalty"]},
            "'penalty' to compare .its model is trained on the default task.*give gold, proxy$",
        ),
        ({"agents": ["ppo", "q-learning", "ppo"]}, "ppo is named twice among the agents"),
        ({"rewards": ["gold", "gold"]}, "gold is named twice among the rewards"),
        ({"env": "Blackjack"}, "Blackjack-v1 has no exact optimum to compare with"),
        ({"agents": ["sft"], "rewards": ["proxy"]}, "sft imitates samples of gold's optimum"),
        ({"budget": 1e-9}, "gives q-learning no step"),
        ({"seeds": 0}, "seeds is 0"),
        ({"budget": 0.0}, "budget is 0.0"),
    ],
)
def test_an_impossible_comparison_is_refused_with_the_reason(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(**{"env": "Flattery", **how})


def test_an_agent_with_some_of_the_rewards_is_summarized_over_those(tmp_path: Path) -> None:
    asked = plan("Flattery", ["q-learning", "sft"], ["gold", "proxy"], seeds=1, budget=0.01)
    report = compare(asked, tmp_path / "compared", jobs=1)
    assert [(row["name"], row["cells"]) for row in report["by_agent"]] == [("q-learning", 2), ("sft", 1)]
    assert [(row["name"], row["cells"]) for row in report["by_reward"]] == [("gold", 2), ("proxy", 1)]


def test_a_task_from_a_file_is_trained_on_its_gold(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\nfrom tokenwalk.envs.tasks import find_task\n"
        "task = replace(find_task('Flattery'), name='Mine')\n"
    )
    env_args = {"task": f"{tmp_path / 'mine.py'}:task"}
    asked = plan("TokenGeneration", ["q-learning"], ["gold", "proxy"], 1, 0.02, env_args)
    report = compare(asked, tmp_path / "compared", jobs=1)
    assert [row["exact"] for row in report["rows"]] == [True, True]
    (tmp_path / "mine.py").write_text(
        (tmp_path / "mine.py").read_text() + "task = replace(task, horizon=4)\n"
    )
    with pytest.raises(ValueError, match="contains a comparison with files"):
        compare(asked, tmp_path / "compared", jobs=1)
    problem = open_problem("TokenGeneration", env_args, reward=["gold=2"])
    assert problem.lines.optimal_train_return == pytest.approx(4.0)  # four tokens


def test_more_seeds_can_be_added_and_a_damaged_run_is_repeated(tmp_path: Path) -> None:
    folder = tmp_path / "compared"
    compare(plan("CounterWalk", ["q-learning"], seeds=2), folder, jobs=1)
    (folder / "runs" / "q-learning-gold-1" / "summary.json").write_text("{torn")
    more = plan("CounterWalk", ["q-learning"], seeds=3)
    claim(folder, more)
    assert [cell.seed for cell in cells_left(more, folder)] == [1, 2]
    assert compare(more, folder, jobs=1)["rows"][0]["seeds"] == 3
    with pytest.raises(ValueError, match="contains a comparison with seeds = 3, not 2"):
        compare(plan("CounterWalk", ["q-learning"], seeds=2), folder, jobs=1)


def test_two_processes_cannot_use_one_folder(tmp_path: Path) -> None:
    asked = plan("CounterWalk", ["q-learning"], seeds=1)
    claim(tmp_path / "compared", asked)
    with (tmp_path / "compared" / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process runs a comparison in"):
            compare(asked, tmp_path / "compared", jobs=1)
    assert compare(asked, tmp_path / "compared", jobs=1)["rows"][0]["seeds"] == 1


def test_another_environment_is_compared_by_its_arguments(tmp_path: Path) -> None:
    short = plan("Flattery", ["q-learning"], ["gold"], seeds=1, budget=0.2, env_args={"horizon": 2})
    (row,) = compare(short, tmp_path / "short", jobs=1)["rows"]
    assert row["gold"] == pytest.approx(1.0)  # because evidence
    assert row["kl"] == pytest.approx(-np.log(0.30 * 0.22))
    with pytest.raises(ValueError, match="contains a comparison with env_args"):
        compare(plan("Flattery", ["q-learning"], ["gold"], 1, 0.2), tmp_path / "short")


def test_ctrl_c_while_a_reward_is_trained_ends_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenwalk.agents.training import train_reward_model as training

    monkeypatch.setattr(training, "train_reward_model_run", lambda *asked: {"interrupted": True})
    asked = plan("Flattery", ["q-learning"], ["gold", "reward-model"], seeds=1)
    with pytest.raises(KeyboardInterrupt):
        compare(asked, tmp_path / "compared", jobs=1)
    assert not (tmp_path / "compared" / "runs").exists()


def test_a_comparison_trains_every_cell_once_and_a_killed_one_is_resumed(tmp_path: Path) -> None:
    folder, asked = tmp_path / "compared", plan("CounterWalk", ["q-learning"], seeds=2, budget=2.0)
    names: list[str] = []
    assert cells_left(asked, folder) == asked.cells()
    report = compare(asked, folder, jobs=1, on_cell=lambda finished, total, name: names.append(name))
    (row,) = report["rows"]
    assert (row["agent"], row["reward"], row["seeds"], row["exact"]) == ("q-learning", "gold", 2, True)
    assert row["score"] == pytest.approx(1.0)
    assert (row["low"], row["high"]) == (1.0, 1.0)
    assert row["steps_to_95"] <= 200
    assert cells_left(asked, folder) == []
    assert sorted(filter(None, names)) == ["q-learning-gold-0", "q-learning-gold-1"]
    with (folder / "comparison.csv").open(encoding="utf-8") as file:
        assert [one["agent"] for one in csv.DictReader(file)] == ["q-learning"]
    assert read_json(folder / "comparison.json")["rows"] == report["rows"]
    # An interrupted run is repeated; a finished one is not.
    summary = folder / "runs" / "q-learning-gold-0" / "summary.json"
    write_json(summary, {**read_json(summary), "interrupted": True})
    kept = (folder / "runs" / "q-learning-gold-1" / "summary.json").stat().st_mtime_ns
    names.clear()
    again = compare(asked, folder, jobs=1, on_cell=lambda finished, total, name: names.append(name))
    assert list(filter(None, names)) == ["q-learning-gold-0"]
    assert (folder / "runs" / "q-learning-gold-1" / "summary.json").stat().st_mtime_ns == kept
    assert again["rows"][0]["score"] == row["score"]
    with pytest.raises(ValueError, match="contains a comparison with seeds = 2, not 1"):
        compare(plan("CounterWalk", ["q-learning"], seeds=1, budget=2.0), folder)
    with pytest.raises(ValueError, match="exists and contains no comparison"):
        compare(asked, tmp_path)
    with pytest.raises(ValueError, match="jobs is 0"):
        compare(asked, folder, jobs=0)


@pytest.mark.slow
def test_each_reward_of_a_comparison_trains_on_the_named_components(tmp_path: Path) -> None:
    asked = plan("Flattery", ["q-learning"], ["penalty", "bonus", "potential"], seeds=1, budget=0.1)
    folder = tmp_path / "compared"
    claim(folder, asked)
    stages: list[str] = []
    comparing._train_rewards(asked, folder, stages.append)
    assert stages == ["training the autoencoder ..."]
    for cell in asked.cells():
        comparing.train_cell(cell, folder)
    found = {cell.reward: read_json(folder / "runs" / cell.name / "config.json") for cell in asked.cells()}
    assert found["penalty"]["reward"] == ["proxy", "sources/autoencoder=-1"]
    assert found["bonus"]["reward"] == ["gold", "sources/autoencoder=0.2..0"]
    assert found["potential"]["shaping"] == ["sources/autoencoder"]
    rows = {row["reward"]: row for row in comparing.summarize(asked, folder)["rows"]}
    assert rows["potential"]["low"] is None  # one seed has no interval


CUSTOM = """
from tokenwalk.agents.policy_gradient.trainer import PolicyGradient


class Mine(PolicyGradient):
    algorithm = "rloo"
"""


def custom_agent(folder: Path, text: str = CUSTOM) -> str:
    """Write a custom agent to ``folder`` and return FILE.py:CLASS."""
    folder.mkdir(exist_ok=True)
    (folder / "agent.py").write_text(text)
    return f"{folder / 'agent.py'}:Mine"


def test_a_custom_agent_is_planned_by_its_label_with_the_steps_of_its_algorithm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = custom_agent(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "a")
    asked = plan("Flattery", ["rloo", "agent.py:Mine"], ["gold"], seeds=1, budget=0.5)
    assert asked.agents == ("rloo", place)  # by its absolute path
    builtin, mine = asked.cells()
    assert (builtin.name, mine.name) == ("rloo-gold-0", "Mine-gold-0")
    assert mine.steps == builtin.steps > 0


def test_an_edited_custom_agent_is_another_comparison(tmp_path: Path) -> None:
    place = custom_agent(tmp_path)
    asked = plan("Flattery", [place], ["gold"], seeds=1)
    claim(tmp_path / "compared", asked)
    kept = read_json(tmp_path / "compared" / "asked.json")
    assert kept["files"] == {place: sha256(CUSTOM.encode()).hexdigest()[:12]}
    claim(tmp_path / "compared", asked)  # the same file is accepted
    custom_agent(tmp_path, CUSTOM + "\n# edited\n")
    with pytest.raises(ValueError, match="contains a comparison with files"):
        claim(tmp_path / "compared", asked)


def test_two_custom_agents_with_one_class_name_are_refused_by_name(tmp_path: Path) -> None:
    one, other = custom_agent(tmp_path / "one"), custom_agent(tmp_path / "other")
    with pytest.raises(ValueError, match=f"{one} and {other} have the same name 'Mine': rename one"):
        plan("Flattery", [one, other], ["gold"])


@pytest.mark.slow
def test_a_custom_agent_is_compared_with_a_built_in_one_and_both_reach_the_same(tmp_path: Path) -> None:
    place = custom_agent(tmp_path)
    asked = plan("Flattery", ["rloo", place], ["gold"], seeds=1, budget=0.02)
    report = compare(asked, tmp_path / "compared", jobs=1)
    assert report["agents"] == ["rloo", "Mine"]
    builtin, mine = report["rows"]
    assert (builtin["agent"], mine["agent"]) == ("rloo", "Mine")
    assert mine["score"] == builtin["score"]  # the subclass changes nothing, and the seed is the same
    assert [row["name"] for row in report["by_agent"]] == ["rloo", "Mine"]
    assert cells_left(asked, tmp_path / "compared") == []
    page = write_report([tmp_path / "compared"], tmp_path / "report")
    assert page["runs"] == 2
    assert "<td class=t>Mine</td>" in Path(page["page"]).read_text(encoding="utf-8")


def test_each_cell_is_trained_from_its_own_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(train_agent, "train", lambda *words, seed, **how: seeds.append(seed))
    for cell in plan("CounterWalk", ["q-learning"], seeds=3).cells():
        comparing.train_cell(cell, tmp_path)
    assert seeds == [0, 1, 2]


def test_a_cell_is_the_training_run_with_its_seed_and_its_steps(tmp_path: Path) -> None:
    asked = plan("CounterWalk", ["q-learning"], seeds=2, budget=0.5)
    compare(asked, tmp_path / "compared", jobs=1)
    for cell in asked.cells():
        train_agent.train(
            "q-learning",
            "CounterWalk",
            steps=cell.steps,
            seed=cell.seed,
            runs=1,
            run_dir=tmp_path / cell.name,
        )
        mine, theirs = (
            read_json(run / "config.json") | {"run_dir": None}
            for run in (tmp_path / "compared" / "runs" / cell.name, tmp_path / cell.name)
        )
        assert mine["seed"] == theirs["seed"] == cell.seed
        curves = [
            [(step, tag, value) for step, _, tag, value in read_metrics(run)]
            for run in (tmp_path / "compared" / "runs" / cell.name, tmp_path / cell.name)
        ]
        assert curves[0] == curves[1]


def finished_run(folder: Path, curve: list[tuple[int, float, float]], **summary: Any) -> None:
    """Write a finished run with a curve of (step, seconds, normalized score)."""
    folder.mkdir(parents=True)
    figures = {"exact": True, "gold": 2.0, "proxy": None, "kl": None, "steps": 100, "seconds": 1.0}
    write_json(folder / "config.json", {"agent": "q-learning"})
    write_json(folder / "summary.json", {**figures, "normalized_score": curve[-1][2], **summary})
    rows = [f"{step},{seconds},eval/normalized_score,{score}" for step, seconds, score in curve]
    (folder / "metrics.csv").write_text("\n".join(["step,seconds,tag,value", *rows]) + "\n")


def test_the_rows_of_a_comparison_are_the_statistics_of_its_runs(tmp_path: Path) -> None:
    asked = plan("CounterWalk", ["q-learning"], seeds=3)
    curves = [
        [(10, 0.1, 0.2), (20, 0.2, 0.95), (30, 0.3, 1.0)],
        [(10, 0.1, 0.96), (20, 0.2, 0.5), (30, 0.3, 0.4)],  # it reached 0.95 once
        [(10, 0.1, 0.0), (20, 0.2, 0.94), (30, 0.3, 0.7)],  # never
    ]
    for cell, curve in zip(asked.cells(), curves, strict=True):
        finished_run(tmp_path / "runs" / cell.name, curve, gold=float(cell.seed), exact=cell.seed != 1)
    (row,) = comparing.summarize(asked, tmp_path)["rows"]
    assert row["score"] == pytest.approx(
        0.7
    )  # the mean of 1.0, 0.4 and 0.7: three scores are too few to cut off any
    assert (row["steps_to_95"], row["seconds_to_95"]) == (20.0, 0.2)  # the median of 20, 10 and infinity
    assert (row["gold"], row["proxy"], row["kl"]) == (1.0, None, None)
    assert (row["seeds"], row["exact"]) == (3, False)
    assert 0.4 <= row["low"] <= 0.7 <= row["high"] <= 1.0


def test_steps_to_95_do_not_exist_where_half_of_the_runs_never_get_there(tmp_path: Path) -> None:
    asked = plan("CounterWalk", ["q-learning"], seeds=2)
    for cell, last in zip(asked.cells(), (1.0, 0.5), strict=True):
        finished_run(tmp_path / "runs" / cell.name, [(10, 0.1, last)])
    (row,) = comparing.summarize(asked, tmp_path)["rows"]
    assert (row["steps_to_95"], row["seconds_to_95"]) == (None, None)


def test_the_estimate_is_a_start_and_the_steps_at_the_familys_speed() -> None:
    cells = plan("CounterWalk", ["q-learning", "ppo"], seeds=2).cells()
    speed = {"q-learning": 200_000.0, "ppo": 15_000.0}
    expected = sum(6.0 + cell.steps / speed[cell.agent] for cell in cells)
    assert estimate(cells, 1) == pytest.approx(expected)
    assert estimate(cells, 4) == pytest.approx(expected / 4)
    assert estimate([], 2) == 0.0
