"""Training through SB3: spaces, metrics, global state, and learning."""

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

import tokenwalk  # noqa: F401 - registers the ids
from tokenwalk.agents.baselines.as_policy import policy_table
from tokenwalk.agents.baselines.callbacks import Model
from tokenwalk.agents.baselines.configs import AGENTS, A2CConfig, Config, DQNConfig, PPOConfig, default_config
from tokenwalk.agents.baselines.sb3 import (
    agent_of,
    build,
    check_spaces,
    make_vec_env,
    train,
)
from tokenwalk.agents.baselines.vec_env import NativeVecEnv
from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact.evaluation import evaluate, reference_policy
from tokenwalk.envs.checks import UnsupportedSpaceError
from tokenwalk.envs.tabular import tabular_mdp

WALK = "tokenwalk/CounterWalk-v0"
SMALL: dict[str, Config] = {
    "ppo": PPOConfig(num_envs=4, rollout_steps=8, discount=0.9),
    "a2c": A2CConfig(num_envs=4, discount=0.9),
    "dqn": DQNConfig(num_envs=4, batch_size=16, discount=0.9),
    "maskable-ppo": PPOConfig(num_envs=4, rollout_steps=8, discount=0.9),
}
every_agent = pytest.mark.parametrize("agent", AGENTS)
Log = list[tuple[int, dict[str, float]]]


def small_model(agent: str, seed: int = 0, env_id: str = WALK, **kwargs: Any) -> Model:
    return build(agent, make_vec_env(env_id, 4, kwargs), SMALL[agent], seed=seed)


def trained(agent: str, seed: int, steps: int = 600) -> Model:
    model = small_model(agent, seed)
    train(model, steps=steps, on_progress=ignore)
    return model


def ignore(step: int, metrics: Mapping[str, float]) -> None:
    del step, metrics


def parameters(model: Model) -> list[Any]:
    return [tensor.numpy().copy() for tensor in model.policy.state_dict().values()]


def same(left: list[Any], right: list[Any]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(left, right, strict=True))


def test_walks_come_as_their_native_environment_and_others_under_monitors() -> None:
    walk = make_vec_env(WALK, 3, {"n_states": 7, "max_episode_steps": 2})
    assert isinstance(walk, NativeVecEnv)
    assert walk.observation_space == spaces.Discrete(7)
    for env_id in (
        "FrozenLake-v1",
        "CartPole-v1",
    ):  # CartPole's native environment resets in steps of its own
        env = make_vec_env(env_id, 2, {"max_episode_steps": 1})
        assert isinstance(env, DummyVecEnv)
        env.seed(0)
        env.reset()
        *_, infos = env.step(np.zeros(2, dtype=np.int64))
        assert [info["episode"]["l"] for info in infos] == [1, 1]


@every_agent
def test_the_same_seed_gives_the_same_parameters_and_another_seed_others(agent: str) -> None:
    first = trained(agent, seed=3)
    assert agent_of(first) == agent
    assert same(parameters(first), parameters(trained(agent, seed=3)))
    assert not same(parameters(first), parameters(trained(agent, seed=4)))
    assert not same(parameters(first), parameters(small_model(agent, seed=3)))


@every_agent
def test_nothing_depends_on_the_global_generators_and_they_stay_as_they_were(agent: str) -> None:
    results = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global generators are what must not matter
        torch.manual_seed(seed)
        before = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
        results.append(parameters(trained(agent, seed=0)))
        after = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
        assert after == before
    assert same(*results)


@every_agent
def test_progress_is_sb3s_own_figures_and_what_the_evaluation_returns(
    agent: str, capfd: pytest.CaptureFixture[str]
) -> None:
    log: Log = []
    model = small_model(agent)

    def measure(asked: Model) -> Mapping[str, float]:
        assert asked is model
        return {"eval/gold": float(asked.num_timesteps), "eval/exact": 1.0}

    train(model, steps=1000, on_progress=lambda *entry: log.append(entry), evaluate=measure, log_every=200)
    steps = [step for step, _ in log]
    assert steps[0] == 0
    assert steps == sorted(set(steps))
    assert steps[-1] == model.num_timesteps >= 1000
    assert (
        max(np.diff(steps)) <= 200 + 32
    )  # the last one at the end of its rollout of 4 sub-environments x 8 steps
    assert log[0][1] == {"eval/gold": 0.0, "eval/exact": 1.0}
    assert set(log[-1][1]) > {"eval/gold", "rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps"}
    assert all(metrics["eval/gold"] == step for step, metrics in log)
    assert any(tag.startswith("train/") and tag.endswith("loss") for tag in log[-1][1])
    assert not {"time/time_elapsed", "time/total_timesteps", "train/n_updates"} & set(log[-1][1])
    assert all(isinstance(value, float) for _, metrics in log for value in metrics.values())
    assert capfd.readouterr() == ("", "")


def test_the_logged_returns_are_those_of_whole_episodes_without_discount() -> None:
    log: Log = []
    model = small_model("a2c", max_episode_steps=3)
    train(model, steps=24, on_progress=lambda *entry: log.append(entry))
    rewards = log[-1][1]["rollout/ep_rew_mean"]
    assert log[-1][1]["rollout/ep_len_mean"] == 3
    assert -3 <= rewards <= -1  # three steps from 0: -1 three times, or +1 at most at two of them
    assert not any(tag.startswith("eval/") for _, metrics in log for tag in metrics)


class Halves(gym.Env[Any, Any]):
    """Pays 1 where the action is the first number observed; of every pair of actions one is masked."""

    observation_space = spaces.MultiDiscrete([2, 3])
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.seen = self.np_random.integers([2, 3])
        return self.seen, {}

    def step(self, action: Any) -> Any:
        assert self.action_masks()[action], "a masked action was taken"
        return self.seen, float(action == self.seen[0]), True, False, {}

    def action_masks(self) -> Any:
        return np.arange(2) == self.seen[0]


def test_masks_are_honoured_while_training() -> None:
    log: Log = []
    model = build("maskable-ppo", DummyVecEnv([Halves] * 4), SMALL["maskable-ppo"], seed=0)
    train(model, steps=64, on_progress=lambda *entry: log.append(entry))
    assert model.num_timesteps == 64
    with pytest.raises(AssertionError, match="a masked action was taken"):
        train(build("ppo", DummyVecEnv([Halves] * 4), SMALL["ppo"], seed=0), steps=64, on_progress=ignore)


@every_agent
def test_boxes_and_environments_without_masks_can_be_learned_from(agent: str) -> None:
    model = small_model(agent, env_id="CartPole-v1")
    before = parameters(model)
    train(model, steps=64, on_progress=ignore)
    assert not same(before, parameters(model))


REFUSED: list[tuple[str, spaces.Space[Any], spaces.Space[Any], str]] = [
    (
        "ppo",
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Discrete(2),
        r"observes Tuple.*it takes Discrete, MultiDiscrete",
    ),
    ("ppo", spaces.Dict({"x": spaces.Discrete(2)}), spaces.Discrete(2), "observes Dict"),
    (
        "dqn",
        spaces.Discrete(3, start=1),
        spaces.Discrete(2),
        r"observes Discrete\(3, start=1\).*counted from 0",
    ),
    ("a2c", spaces.MultiDiscrete([3, 3], start=[0, 1]), spaces.Discrete(2), "observes MultiDiscrete"),
    ("a2c", spaces.Discrete(3), spaces.Discrete(2, start=1), r"acts in Discrete\(2, start=1\)"),
    (
        "dqn",
        spaces.Discrete(3),
        spaces.MultiDiscrete([2, 2]),
        "acts in MultiDiscrete.*it takes Discrete, counted",
    ),
    (
        "maskable-ppo",
        spaces.Discrete(3),
        spaces.Box(0, 1),
        "acts in Box.*it takes Discrete, MultiDiscrete, MultiBinary",
    ),
]


@pytest.mark.parametrize(("agent", "observation", "action", "message"), REFUSED)
def test_spaces_that_an_agent_cannot_take_are_refused_with_those_that_it_can(
    agent: str, observation: spaces.Space[Any], action: spaces.Space[Any], message: str
) -> None:
    with pytest.raises(UnsupportedSpaceError, match=message):
        check_spaces(agent, observation, action)


def test_bad_arguments_are_named() -> None:
    env = make_vec_env(WALK, 4)
    with pytest.raises(UnsupportedSpaceError, match="Tuple"):
        build("ppo", make_vec_env("Blackjack-v1", 4), SMALL["ppo"], seed=0)
    with pytest.raises(ValueError, match="no SB3 agent is called 'sac'"):
        build("sac", env, SMALL["ppo"], seed=0)
    with pytest.raises(ValueError, match="ppo takes a PPOConfig, not a DQNConfig"):
        build("ppo", env, SMALL["dqn"], seed=0)
    with pytest.raises(ValueError, match="vec_env has 4 sub-environments, the config has num_envs = 64"):
        build("a2c", env, A2CConfig(), seed=0)
    for seed in (-1, 0.5, 2**32):
        with pytest.raises(ValueError, match="seed"):
            build("a2c", env, SMALL["a2c"], seed=seed)  # type: ignore[arg-type]
    model = small_model("a2c")
    for steps in (0, 1.5, True):
        with pytest.raises(ValueError, match=r"steps is .*: give an integer of 1 or more"):
            train(model, steps=steps, on_progress=ignore)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="log_every is 0"):
        train(model, steps=1, on_progress=ignore, log_every=0)


@every_agent
def test_after_ctrl_c_the_model_can_be_used_and_the_global_generators_are_as_before(agent: str) -> None:
    model = small_model(agent)
    before, state = parameters(model), random.getstate()

    def interrupt(step: int, _: Mapping[str, float]) -> None:
        if step >= 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, steps=10_000, on_progress=interrupt, log_every=100)
    assert 200 <= model.num_timesteps < 1000
    assert not same(before, parameters(model))
    assert random.getstate() == state
    assert policy_table(model, 3).sum() == 3
    train(model, steps=100, on_progress=ignore)
    assert model.num_timesteps >= 100


def final_score(agent: str, env_id: str, steps: int, seed: int, **changes: Any) -> float:
    """Return the normalized score of the greedy policy after training with the defaults, exactly."""
    config = replace(default_config(agent, env_id), **changes)
    model = build(agent, make_vec_env(env_id, config.num_envs), config, seed=seed)
    train(model, steps=steps, on_progress=ignore)
    mdp = tabular_mdp(gym.make(env_id))
    gold, reference = (
        evaluate(mdp, policy).returns["gold"]
        for policy in (policy_table(model, mdp.n_states), reference_policy(mdp))
    )
    return (gold - reference) / (solve(mdp, {"gold": 1.0}, discount=1.0).start_value(mdp) - reference)


@pytest.mark.slow
@every_agent
def test_every_agent_reaches_95_percent_of_the_way_to_the_optimum_on_the_walk(agent: str) -> None:
    scores = [final_score(agent, WALK, 6_000, seed) for seed in range(3)]
    assert min(scores) >= 0.95
    # The broken twin hardly moves its parameters: learning, not the initial parameters, gives the score.
    assert min(final_score(agent, WALK, 6_000, seed, learning_rate=1e-12) for seed in range(3)) < 0


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "steps"), [("ppo", 120_000), ("dqn", 160_000)])
def test_the_goal_of_the_long_walk_is_found_and_kept(agent: str, steps: int) -> None:
    assert min(final_score(agent, "tokenwalk/CounterWalkLong-v0", steps, seed) for seed in range(3)) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["ppo", "a2c", "dqn"])
def test_the_frozen_lake_is_crossed_as_well_as_a_discounted_agent_can(agent: str) -> None:
    # At discount 0.99 a stationary policy can reach 0.9945 of the undiscounted optimum over 100 steps.
    assert min(final_score(agent, "FrozenLake-v1", 150_000, seed) for seed in range(2)) >= 0.95
