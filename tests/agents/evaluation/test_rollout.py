"""Played episodes agree with the exact answers, and what is written can be scored again."""

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from tokenwalk.agents.evaluation.rollout import (
    RandomActor,
    TableActor,
    play,
    write_trajectories,
)
from tokenwalk.agents.exact.evaluation import evaluate, reference_policy
from tokenwalk.agents.exact.intervals import mean_and_interval
from tokenwalk.envs.tabular import tabular_mdp

SLIPPERY = {"slip": 0.2, "max_episode_steps": 20}


def test_the_mean_of_played_episodes_is_the_exact_return_within_four_standard_errors() -> None:
    env = gym.make("tokenwalk/CounterWalk-v0", **SLIPPERY)
    mdp = tabular_mdp(env)
    policy = np.array([[[0.9, 0.1], [0.5, 0.5], [0.3, 0.7]]])
    exact = evaluate(mdp, policy).returns["gold"]
    actor = TableActor(policy, int, np.random.default_rng(0))
    returns = [sum(episode.rewards) for episode in play(env, actor, 600, seed=3)]
    assert abs(np.mean(returns) - exact) < 4 * np.std(returns) / len(returns) ** 0.5
    assert (
        abs(np.mean(returns) - evaluate(mdp, reference_policy(mdp)).returns["gold"])
        > 4 * np.std(returns) / len(returns) ** 0.5
    )


def test_a_written_trajectory_holds_what_was_played(tmp_path: Path) -> None:
    env = gym.make("tokenwalk/CounterWalk-v0", **SLIPPERY)
    episodes = list(
        write_trajectories(
            tmp_path / "t.jsonl", play(env, RandomActor(2, np.random.default_rng(1)), 3, seed=5)
        )
    )
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [row["rewards"] for row in rows] == [episode.rewards for episode in episodes]
    for row in rows:
        assert (row["truncated"], row["terminated"]) == (True, False)
        assert len(row["observations"]) == 1 + len(row["actions"]) == 1 + len(row["log_probs"]) == 21
        assert row["gold"] == [1.0 if seen == 1 else -1.0 for seen in row["observations"][1:]]
        assert row["log_probs"] == pytest.approx([-np.log(2)] * 20)


def test_a_masked_action_is_never_played() -> None:
    actor = RandomActor(3, np.random.default_rng(0))
    actions = {actor.act(0, 0, {"action_mask": np.array([1, 0, 1], dtype=np.int8)})[0] for _ in range(50)}
    assert actions == {0, 2}


def test_the_interval_covers_the_mean_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(0)
    hits = sum(
        low <= 0.0 <= high
        for _, (low, high) in (mean_and_interval(rng.normal(size=100)) for _ in range(1000))
    )
    assert 920 <= hits <= 975
    assert mean_and_interval([1.0]) == (1.0, (float("-inf"), float("inf")))
