"""What the SB3 agents can be told: a dataclass per algorithm, defaults per environment. Loads no torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tokenwalk.envs.registration import discount_of

AGENTS = ("ppo", "a2c", "dqn", "maskable-ppo")


@dataclass(frozen=True)
class PPOConfig:
    """PPO and MaskablePPO (Schulman et al. 2017, "Proximal policy optimization algorithms").

    One update takes ``num_envs * rollout_steps`` steps in ``epochs`` passes of batches of ``batch_size``.
    ``entropy_coef`` is a bonus per state that is not in the returns: with it SB3 does not climb to the
    KL-regularised optimum of ``tokenwalk solve --kl-coef``, which has the entropy in the return.

    Raises:
        ValueError: a value out of range, or a rollout that ``batch_size`` does not divide.
    """

    num_envs: int = 64
    learning_rate: float = 3e-3
    rollout_steps: int = 16  # per lane
    batch_size: int = 256
    epochs: int = 4
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    entropy_coef: float = 0.01
    hidden: tuple[int, ...] = (32,)  # widths of the layers, for the policy and for the value alike

    def __post_init__(self) -> None:
        check_fields(self)
        if self.batch_size < 2:
            raise ValueError(
                f"batch_size is {self.batch_size}: PPO takes 2 or more, to standardise advantages"
            )
        if self.num_envs * self.rollout_steps % self.batch_size:
            raise ValueError(
                f"batch_size is {self.batch_size}: give a divisor of num_envs * rollout_steps = "
                f"{self.num_envs * self.rollout_steps}"
            )


@dataclass(frozen=True)
class A2CConfig:
    """A2C (Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning", without the asynchrony).

    One update takes ``num_envs * rollout_steps`` steps, once. What PPOConfig says of ``entropy_coef`` holds.

    Raises:
        ValueError: a value out of range.
    """

    num_envs: int = 64
    learning_rate: float = 3e-3
    rollout_steps: int = 8
    discount: float = 0.99
    gae_lambda: float = 0.95
    entropy_coef: float = 0.01
    hidden: tuple[int, ...] = (32,)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class DQNConfig:
    """DQN (Mnih et al. 2015, "Human-level control through deep reinforcement learning").

    Each step of the ``num_envs`` lanes is followed by ``gradient_steps`` updates on batches out of the last
    ``buffer_size`` steps, once a batch has been collected.

    Raises:
        ValueError: a value out of range, a ``target_interval`` below ``num_envs``, or a buffer smaller than a
            batch.
    """

    num_envs: int = 64
    learning_rate: float = 1e-3
    buffer_size: int = 50_000
    batch_size: int = 256
    gradient_steps: int = 2
    target_interval: int = 1024  # steps of all lanes together between two copies into the target network
    exploration_fraction: float = 0.5  # of all steps, over which epsilon falls from 1 to final_epsilon
    final_epsilon: float = 0.05
    discount: float = 0.99
    hidden: tuple[int, ...] = (64,)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.target_interval < self.num_envs:
            raise ValueError(
                f"target_interval is {self.target_interval}: give num_envs = {self.num_envs} or more"
            )
        if self.buffer_size < max(self.batch_size, self.num_envs):
            raise ValueError(
                f"buffer_size is {self.buffer_size}: give a batch and a step of all lanes or more "
                f"({max(self.batch_size, self.num_envs)})"
            )


Config = PPOConfig | A2CConfig | DQNConfig

_TYPES: Mapping[str, type[PPOConfig] | type[A2CConfig] | type[DQNConfig]] = {
    "ppo": PPOConfig,
    "a2c": A2CConfig,
    "dqn": DQNConfig,
    "maskable-ppo": PPOConfig,
}
_RANGES = {  # the other fields are counts
    "learning_rate": (1e-12, 1.0),
    "discount": (0.0, 1.0),
    "gae_lambda": (0.0, 1.0),
    "clip_range": (1e-6, math.inf),
    "entropy_coef": (0.0, math.inf),
    "exploration_fraction": (0.0, 1.0),
    "final_epsilon": (0.0, 1.0),
}

# Environment family -> agent -> steps of all lanes together, and what differs from the dataclass. No hidden
# layer means one number per observation and action: a table, learned by gradient.
_Default = tuple[int, Mapping[str, Any]]
_GENERAL: Mapping[str, _Default] = {
    "ppo": (300_000, {}),
    "maskable-ppo": (300_000, {}),
    "a2c": (
        300_000,
        {"num_envs": 16, "learning_rate": 1e-3, "rollout_steps": 16, "entropy_coef": 0.0, "hidden": (64, 64)},
    ),
    "dqn": (
        100_000,
        {
            "num_envs": 8,
            "batch_size": 64,
            "gradient_steps": 4,
            "target_interval": 256,
            "exploration_fraction": 0.2,
            "hidden": (128, 128),
        },
    ),
}
_TAXI_PPO = {
    "learning_rate": 2e-2,
    "rollout_steps": 128,
    "batch_size": 2048,
    "epochs": 8,
    "entropy_coef": 0.1,  # with 0.01 the taxi learns to drive on and never to pick up
    "hidden": (),
}
_FROZEN_LAKE_PPO = {"learning_rate": 1e-2, "hidden": ()}
_DEFAULTS: Mapping[str, Mapping[str, _Default]] = {
    "CounterWalk": dict.fromkeys(AGENTS, (20_000, {})),
    "CounterWalkLong": {
        "ppo": (150_000, {}),
        "maskable-ppo": (150_000, {}),
        "a2c": (200_000, {"learning_rate": 5e-3, "rollout_steps": 16, "hidden": (64,)}),
        # With a hidden layer the goal is found and lost again; a table under a slow epsilon keeps it.
        "dqn": (
            200_000,
            {
                "learning_rate": 1e-2,
                "gradient_steps": 4,
                "target_interval": 256,
                "exploration_fraction": 1.0,
                "final_epsilon": 0.2,
                "hidden": (),
            },
        ),
    },
    "FrozenLake": {
        "ppo": (200_000, _FROZEN_LAKE_PPO),
        "maskable-ppo": (200_000, _FROZEN_LAKE_PPO),
        "a2c": (200_000, {}),
        "dqn": (200_000, {"hidden": ()}),
    },
    "CliffWalking": dict.fromkeys(AGENTS, (200_000, {})),
    "Taxi": {
        "ppo": (600_000, _TAXI_PPO),
        "maskable-ppo": (600_000, _TAXI_PPO),
        "dqn": (200_000, {"learning_rate": 5e-3, "gradient_steps": 4, "hidden": ()}),
    },
}


def check_fields(config: Config) -> None:
    """Check each field alone. Raises ValueError with the value, what is allowed and the field's name."""
    for one in fields(config):
        value = getattr(config, one.name)
        if one.name == "hidden":
            if not isinstance(value, tuple) or not all(_is_count(width) for width in value):
                raise ValueError(
                    f"hidden is {value!r}: give a tuple of layer widths of 1 or more, such as (64, 64)"
                )
        elif one.name in _RANGES:
            low, high = _RANGES[one.name]
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not low <= value <= high:
                raise ValueError(f"{one.name} is {value!r}: give a number from {low:g} to {high:g}")
        elif not _is_count(value):
            raise ValueError(f"{one.name} is {value!r}: give an integer of 1 or more")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_agent(agent: str, config: Config) -> None:
    """Raise ValueError unless ``agent`` is one of AGENTS and ``config`` is of its type."""
    _check_name(agent)
    if type(config) is not _TYPES[agent]:
        raise ValueError(f"{agent} takes a {_TYPES[agent].__name__}, not a {type(config).__name__}")


def config_from(agent: str, values: Mapping[str, Any]) -> Config:
    """Return the config of ``agent`` with the fields in ``values``, as JSON gives them back.

    Raises:
        ValueError: an unknown agent, an unknown field, or a value out of range.
    """
    _check_name(agent)
    known = [one.name for one in fields(_TYPES[agent])]
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"{agent} has no field {unknown[0]!r}: it has {', '.join(known)}")
    chosen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return _TYPES[agent](**chosen)


def default_config(agent: str, env_id: str) -> Config:
    """Return the config that suits ``agent`` on ``env_id``; the discount is the id's own.

    Raises:
        ValueError: an unknown agent.
    """
    _, values = _default(agent, env_id)
    return config_from(agent, {"discount": discount_of(env_id), **values})


def default_steps(agent: str, env_id: str) -> int:
    """Return the steps, of all lanes together, that go with the default config. Raises ValueError as it does."""
    steps, _ = _default(agent, env_id)
    return steps


def _default(agent: str, env_id: str) -> _Default:
    """Return the row of the id without namespace and version (it holds for every version), else the general."""
    _check_name(agent)
    family = re.sub(r"-v\d+$", "", env_id.rsplit("/", 1)[-1])
    return _DEFAULTS.get(family, {}).get(agent, _GENERAL[agent])


def _check_name(agent: str) -> None:
    if agent not in AGENTS:
        raise ValueError(f"no SB3 agent is called {agent!r}: there are {', '.join(AGENTS)}")
