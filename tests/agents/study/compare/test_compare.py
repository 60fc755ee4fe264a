"""``tokenwalk compare``: its statistics, what it repeats and what it does not."""

import csv
import fcntl
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenwalk.agents.problem.problem import open_problem
from tokenwalk.agents.runs.checkpoint import read_json, write_json
from tokenwalk.agents.study.compare import run as comparing
from tokenwalk.agents.study.compare.plan import estimate, plan
from tokenwalk.agents.study.compare.run import cells_left, claim, compare
from tokenwalk.agents.study.compare.statistics import interquartile_mean, interval


def test_the_interquartile_mean_leaves_out_the_ends() -> None:
    assert interquartile_mean([np.array([0.0, 1.0, 3.0, 100.0])]) == pytest.approx(2.0)
    assert interquartile_mean([np.array([0.0, 100.0]), np.array([1.0, 3.0])]) == pytest.approx(2.0)
    assert interquartile_mean([np.array([1.0, 3.0])]) == pytest.approx(2.0)


def test_intervals_draw_the_seeds_of_each_cell_apart() -> None:
    low, high = interval([np.zeros(4), np.ones(4)])  # whatever is drawn, half of it is 0
    assert (low, high) == (0.5, 0.5)
    assert interval([np.array([1.0]), np.ones(4)]) == (None, None)
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(100):
        low, high = interval([rng.normal(size=20)])
        assert low is not None
        assert high is not None
        inside.append(low <= 0.0 <= high)
    assert 0.8 <= np.mean(inside) <= 1.0


def test_a_plan_takes_what_suits_the_environment() -> None:
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
            "'penalty' to compare .it is learned on the task as it is.*give gold, proxy$",
        ),
        ({"agents": ["ppo", "q-learning", "ppo"]}, "ppo is named twice among the agents"),
        ({"rewards": ["gold", "gold"]}, "gold is named twice among the rewards"),
        ({"env": "Blackjack"}, "Blackjack-v1 has no exact optimum to compare with"),
        ({"agents": ["sft"], "rewards": ["proxy"]}, "sft imitates samples of gold's optimum"),
        ({"budget": 1e-9}, "q-learning takes no step"),
        ({"seeds": 0}, "seeds is 0"),
        ({"budget": 0.0}, "budget is 0.0"),
    ],
)
def test_what_cannot_be_compared_is_named(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(**{"env": "Flattery", **how})


def test_an_agent_that_has_only_some_of_the_rewards_is_summed_up_over_those(tmp_path: Path) -> None:
    asked = plan("Flattery", ["q-learning", "sft"], ["gold", "proxy"], seeds=1, budget=0.01)
    report = compare(asked, tmp_path / "compared", jobs=1)
    assert [(row["name"], row["cells"]) for row in report["by_agent"]] == [("q-learning", 2), ("sft", 1)]
    assert [(row["name"], row["cells"]) for row in report["by_reward"]] == [("gold", 2), ("proxy", 1)]


def test_a_task_from_a_file_is_paid_by_its_gold(tmp_path: Path) -> None:
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
    with pytest.raises(ValueError, match="holds a comparison with files"):
        compare(asked, tmp_path / "compared", jobs=1)
    problem = open_problem("TokenGeneration", env_args, reward=["gold=2"])
    assert problem.lines.optimal_train_return == pytest.approx(4.0)  # of four tokens


def test_more_seeds_go_on_and_what_is_damaged_is_trained_again(tmp_path: Path) -> None:
    folder = tmp_path / "compared"
    compare(plan("CounterWalk", ["q-learning"], seeds=2), folder, jobs=1)
    (folder / "runs" / "q-learning-gold-1" / "summary.json").write_text("{torn")
    more = plan("CounterWalk", ["q-learning"], seeds=3)
    claim(folder, more)
    assert [cell.seed for cell in cells_left(more, folder)] == [1, 2]
    assert compare(more, folder, jobs=1)["rows"][0]["seeds"] == 3
    with pytest.raises(ValueError, match="holds a comparison with seeds = 3, and 2 was asked for"):
        compare(plan("CounterWalk", ["q-learning"], seeds=2), folder, jobs=1)


def test_two_do_not_compare_in_one_folder(tmp_path: Path) -> None:
    asked = plan("CounterWalk", ["q-learning"], seeds=1)
    claim(tmp_path / "compared", asked)
    with (tmp_path / "compared" / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="is being compared in by another process"):
            compare(asked, tmp_path / "compared", jobs=1)
    assert compare(asked, tmp_path / "compared", jobs=1)["rows"][0]["seeds"] == 1


def test_another_environment_is_compared_by_its_arguments(tmp_path: Path) -> None:
    short = plan("Flattery", ["q-learning"], ["gold"], seeds=1, budget=0.2, env_args={"horizon": 2})
    (row,) = compare(short, tmp_path / "short", jobs=1)["rows"]
    assert row["gold"] == pytest.approx(1.0)  # because evidence
    assert row["kl"] == pytest.approx(-np.log(0.30 * 0.22))
    with pytest.raises(ValueError, match="holds a comparison with env_args"):
        compare(plan("Flattery", ["q-learning"], ["gold"], 1, 0.2), tmp_path / "short")


def test_ctrl_c_while_a_reward_is_learned_ends_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenwalk.agents.training import train_reward_model as teaching

    monkeypatch.setattr(teaching, "train_reward_model_run", lambda *asked: {"interrupted": True})
    asked = plan("Flattery", ["q-learning"], ["gold", "reward-model"], seeds=1)
    with pytest.raises(KeyboardInterrupt):
        compare(asked, tmp_path / "compared", jobs=1)
    assert not (tmp_path / "compared" / "runs").exists()


def test_a_comparison_trains_every_cell_once_and_a_killed_one_goes_on(tmp_path: Path) -> None:
    folder, asked = tmp_path / "compared", plan("CounterWalk", ["q-learning"], seeds=2, budget=2.0)
    told: list[str] = []
    assert cells_left(asked, folder) == asked.cells()
    report = compare(asked, folder, jobs=1, told=lambda over, all_, name: told.append(name))
    (row,) = report["rows"]
    assert (row["agent"], row["reward"], row["seeds"], row["exact"]) == ("q-learning", "gold", 2, True)
    assert row["score"] == pytest.approx(1.0)
    assert (row["low"], row["high"]) == (1.0, 1.0)
    assert row["steps_to_95"] <= 200
    assert cells_left(asked, folder) == []
    assert sorted(filter(None, told)) == ["q-learning-gold-0", "q-learning-gold-1"]
    with (folder / "comparison.csv").open(encoding="utf-8") as file:
        assert [one["agent"] for one in csv.DictReader(file)] == ["q-learning"]
    assert read_json(folder / "comparison.json")["rows"] == report["rows"]
    # One that was killed in the middle, and one that a person stopped, are trained again; the rest is left as it is.
    summary = folder / "runs" / "q-learning-gold-0" / "summary.json"
    write_json(summary, {**read_json(summary), "interrupted": True})
    kept = (folder / "runs" / "q-learning-gold-1" / "summary.json").stat().st_mtime_ns
    told.clear()
    again = compare(asked, folder, jobs=1, told=lambda over, all_, name: told.append(name))
    assert list(filter(None, told)) == ["q-learning-gold-0"]
    assert (folder / "runs" / "q-learning-gold-1" / "summary.json").stat().st_mtime_ns == kept
    assert again["rows"][0]["score"] == row["score"]
    with pytest.raises(ValueError, match="holds a comparison with seeds = 2, and 1 was asked for"):
        compare(plan("CounterWalk", ["q-learning"], seeds=1, budget=2.0), folder)
    with pytest.raises(ValueError, match="exists and holds no comparison"):
        compare(asked, tmp_path)
    with pytest.raises(ValueError, match="jobs is 0"):
        compare(asked, folder, jobs=0)


@pytest.mark.slow
def test_the_rewards_of_a_cell_are_what_their_names_say(tmp_path: Path) -> None:
    asked = plan("Flattery", ["q-learning"], ["penalty", "bonus", "potential"], seeds=1, budget=0.1)
    folder = tmp_path / "compared"
    claim(folder, asked)
    said: list[str] = []
    comparing._learn_rewards(asked, folder, said.append)
    assert said == ["learning the autoencoder that is compared ..."]
    for cell in asked.cells():
        comparing.train_cell(cell, folder)
    found = {cell.reward: read_json(folder / "runs" / cell.name / "config.json") for cell in asked.cells()}
    assert found["penalty"]["reward"] == ["proxy", "sources/autoencoder=-1"]
    assert found["bonus"]["reward"] == ["gold", "sources/autoencoder=0.2..0"]
    assert found["potential"]["shaping"] == ["sources/autoencoder"]
    rows = {row["reward"]: row for row in comparing.summarize(asked, folder)["rows"]}
    assert rows["potential"]["low"] is None  # one seed has no interval
