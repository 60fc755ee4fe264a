"""Configs refuse what SB3 would choke on, and every agent has one for every environment."""

import json
import subprocess
import sys
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import pytest

from tokenwalk.agents.baselines.configs import (
    AGENTS,
    A2CConfig,
    Config,
    DQNConfig,
    PPOConfig,
    caveat,
    config_from,
    default_config,
    default_steps,
)
from tokenwalk.envs.registration import discount_of

IDS = [
    "tokenwalk/CounterWalk-v0",
    "tokenwalk/CounterWalkLong-v0",
    "FrozenLake-v1",
    "CliffWalking-v1",
    "Taxi-v4",
    "CartPole-v1",
    "tokenwalk/Keyword-v0",
    "tokenwalk/Lexicon-v0",
    "tokenwalk/Arithmetic-v0",
]


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_has_a_config_and_a_budget_for_every_environment(agent: str, env_id: str) -> None:
    config = default_config(agent, env_id)
    assert config.discount == discount_of(env_id)
    assert len(fields(config)) <= 10
    assert default_steps(agent, env_id) >= config.num_envs


def test_the_defaults_hold_for_every_version_of_an_environment() -> None:
    assert default_config("ppo", "Taxi-v3") == default_config("ppo", "Taxi-v4")
    assert default_config("ppo", "Taxi-v3") != default_config("ppo", "Acrobot-v1")


def test_trigrams_are_the_default_where_a_prompt_has_to_be_known_as_a_whole() -> None:
    assert {env_id for env_id in IDS if default_config("ppo", env_id).features == "trigrams"} == {
        "tokenwalk/Arithmetic-v0"
    }


BAD: list[tuple[Config, str, Any, str]] = [
    (PPOConfig(), "num_envs", 0, "num_envs is 0: give an integer of 1 or more"),
    (PPOConfig(), "epochs", 2.5, "epochs is 2.5: give an integer"),
    (PPOConfig(), "epochs", True, "epochs is True"),
    (PPOConfig(), "rollout_steps", 1, "rollout_steps is 1: PPO takes 2 or more"),
    (PPOConfig(), "kl_coef", -0.1, "kl_coef is -0.1: give a finite number of 0 or more"),
    (PPOConfig(), "features", "bag", "features is 'bag': give one of tokens, trigrams, one-hot"),
    (PPOConfig(), "discount", 1.1, "discount is 1.1: give a finite number of 0 or more and at most 1"),
    (A2CConfig(), "learning_rate", float("nan"), "learning_rate is nan"),
    (A2CConfig(), "entropy_coef", "0.1", "entropy_coef is '0.1'"),
    (A2CConfig(), "entropy_coef", float("inf"), "entropy_coef is inf"),
    (A2CConfig(), "hidden", [32], "hidden is \\[32\\]: give a tuple of layer widths"),
    (A2CConfig(), "hidden", (32, 0), "hidden is \\(32, 0\\)"),
    (
        DQNConfig(),
        "final_epsilon",
        -0.1,
        "final_epsilon is -0.1: give a finite number of 0 or more and at most 1",
    ),
    (DQNConfig(), "target_interval", 63, "target_interval is 63: give num_envs = 64 or more"),
]


@pytest.mark.parametrize(("config", "name", "value", "message"), BAD)
def test_a_bad_value_is_named_with_what_is_allowed(
    config: Config, name: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(config, **{name: value})


def test_a_config_comes_back_from_json_and_unknown_names_are_refused() -> None:
    assert config_from("dqn", {"hidden": [8, 8], "batch_size": 32}) == DQNConfig(hidden=(8, 8), batch_size=32)
    with pytest.raises(ValueError, match="dqn has no field 'epochs': it has num_envs"):
        config_from("dqn", {"epochs": 3})
    with pytest.raises(ValueError, match="no SB3 agent is called 'sac': there are ppo, a2c"):
        default_config("sac", "CartPole-v1")


def test_four_batches_make_a_pass_where_they_can() -> None:
    assert [PPOConfig(num_envs=n, rollout_steps=t).batch_size for n, t in ((64, 16), (3, 2), (1, 5))] == [
        256,
        3,
        5,
    ]
    assert PPOConfig(num_envs=2, rollout_steps=2).batch_size == 2  # a batch of one has no deviation


def test_what_differs_from_the_exact_answers_is_said_in_one_line() -> None:
    assert caveat("ppo", PPOConfig(entropy_coef=0.0), 0.99) is None
    assert caveat("dqn", DQNConfig(discount=1.0), 1.0) is None
    bonus = caveat("a2c", A2CConfig(entropy_coef=0.25), 0.99)
    both = caveat("ppo", PPOConfig(discount=0.9), 1.0)
    assert bonus is not None
    assert "entropy_coef of 0.25 is a bonus per state that is not in the returns" in bonus
    assert both is not None
    assert "discounts by 0.9, the exact answers by 1.0; its entropy_coef" in both
    assert "\n" not in both


def test_configs_load_neither_torch_nor_sb3() -> None:
    code = (
        "import sys, tokenwalk.agents.baselines.configs\n"
        "print([name for name in ('torch', 'stable_baselines3') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_numbers_of_numpy_are_converted() -> None:
    given = PPOConfig(num_envs=np.int64(4), discount=np.float32(0.5), hidden=(np.int32(8),))  # type: ignore[arg-type]
    assert [type(one) for one in (given.num_envs, given.discount, given.hidden[0])] == [int, float, int]
    assert json.loads(json.dumps(asdict(given)))["num_envs"] == 4
