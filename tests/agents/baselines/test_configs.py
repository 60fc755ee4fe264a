"""Configs refuse what SB3 would choke on, and every agent has one for every environment."""

import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest

from tokenwalk.agents.baselines.configs import (
    AGENTS,
    A2CConfig,
    Config,
    DQNConfig,
    PPOConfig,
    config_from,
    default_config,
    default_steps,
)

IDS = [
    "tokenwalk/CounterWalk-v0",
    "tokenwalk/CounterWalkLong-v0",
    "FrozenLake-v1",
    "CliffWalking-v1",
    "Taxi-v4",
    "CartPole-v1",
]


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_has_a_config_and_a_budget_for_every_environment(agent: str, env_id: str) -> None:
    config = default_config(agent, env_id)
    assert config.discount == {"tokenwalk/CounterWalk-v0": 0.9}.get(env_id, 0.99)
    assert len(fields(config)) <= 10
    assert default_steps(agent, env_id) >= config.num_envs


def test_the_defaults_hold_for_every_version_of_an_environment() -> None:
    assert default_config("ppo", "Taxi-v3") == default_config("ppo", "Taxi-v4")
    assert default_config("ppo", "Taxi-v3") != default_config("ppo", "Acrobot-v1")


BAD: list[tuple[Config, str, Any, str]] = [
    (PPOConfig(), "num_envs", 0, "num_envs is 0: give an integer of 1 or more"),
    (PPOConfig(), "epochs", 2.5, "epochs is 2.5: give an integer"),
    (PPOConfig(), "batch_size", True, "batch_size is True"),
    (PPOConfig(), "batch_size", 1, "batch_size is 1: PPO takes 2 or more"),
    (PPOConfig(), "batch_size", 100, "divisor of num_envs \\* rollout_steps = 1024"),
    (PPOConfig(), "clip_range", 0.0, "clip_range is 0.0: give a number"),
    (PPOConfig(), "discount", 1.1, "discount is 1.1: give a number from 0 to 1"),
    (A2CConfig(), "learning_rate", float("nan"), "learning_rate is nan"),
    (A2CConfig(), "entropy_coef", "0.1", "entropy_coef is '0.1'"),
    (A2CConfig(), "entropy_coef", float("inf"), "entropy_coef is inf"),
    (A2CConfig(), "hidden", [32], "hidden is \\[32\\]: give a tuple of layer widths"),
    (A2CConfig(), "hidden", (32, 0), "hidden is \\(32, 0\\)"),
    (DQNConfig(), "final_epsilon", -0.1, "final_epsilon is -0.1: give a number from 0 to 1"),
    (DQNConfig(), "target_interval", 63, "target_interval is 63: give num_envs = 64 or more"),
    (DQNConfig(), "buffer_size", 255, "buffer_size is 255: .*256"),
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


def test_configs_load_neither_torch_nor_sb3() -> None:
    code = (
        "import sys, tokenwalk.agents.baselines.configs\n"
        "print([name for name in ('torch', 'stable_baselines3') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
