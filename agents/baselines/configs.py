"""Configs of the SB3 agents: a dataclass per algorithm, defaults per environment. Loads no torch."""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from tokenwalk.envs.checks import check_choice, check_count, check_number
from tokenwalk.envs.registration import discount_of

AGENTS = ("ppo", "a2c", "dqn", "maskable-ppo")
Features = Literal["tokens", "trigrams", "one-hot"]


@dataclass(frozen=True)
class PPOConfig:
    """PPO and MaskablePPO (Schulman et al. 2017, "Proximal policy optimization algorithms").

    One update takes ``num_envs * rollout_steps`` steps in ``epochs`` passes of four batches, and clips the
    ratio at 1 - 0.2 and 1 + 0.2. ``entropy_coef`` is a bonus per state that is not in the returns: with it SB3
    does not climb to the KL-regularized optimum of ``tokenwalk solve --kl-coef``; with ``kl_coef`` it does, for
    there the KL is part of the return.

    Raises:
        ValueError: a value out of range.
    """

    num_envs: int = 64
    learning_rate: float = 3e-3
    rollout_steps: int = 16  # per sub-environment
    epochs: int = 4
    discount: float = 0.99
    gae_lambda: float = 0.95
    entropy_coef: float = 0.01
    kl_coef: float = 0.0  # times the KL to the task's reference policy, in the reward: token ids only
    hidden: tuple[int, ...] = (32,)  # widths of the layers, for the policy and for the value alike
    # Of token ids: "tokens" by their distance from the end and as a bag, "trigrams" with a bag of these besides,
    # "one-hot" by their place. On all but the last policy and value share the first layer.
    features: Features = "tokens"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.rollout_steps < 2:
            raise ValueError("rollout_steps is 1: PPO takes 2 or more, to standardize advantages")

    @property
    def batch_size(self) -> int:
        """Return a quarter of what one update takes; half or all of it where it is no multiple of four."""
        taken = self.num_envs * self.rollout_steps
        return next(taken // parts for parts in (4, 2, 1) if taken % parts == 0 and taken // parts > 1)


@dataclass(frozen=True)
class A2CConfig:
    """A2C (Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning", without the asynchrony).

    One update takes ``num_envs * rollout_steps`` steps, once. What PPOConfig says of ``entropy_coef`` and
    ``kl_coef`` holds.

    Raises:
        ValueError: a value out of range.
    """

    num_envs: int = 64
    learning_rate: float = 3e-3
    rollout_steps: int = 8
    discount: float = 0.99
    gae_lambda: float = 0.95
    entropy_coef: float = 0.01
    kl_coef: float = 0.0
    hidden: tuple[int, ...] = (32,)
    features: Features = "tokens"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class DQNConfig:
    """DQN (Mnih et al. 2015, "Human-level control through deep reinforcement learning").

    Each step of the ``num_envs`` sub-environments is followed by ``gradient_steps`` updates on batches out of the last
    50,000 steps, once a batch has been collected. There is no ``kl_coef``: its policy is greedy, so
    its KL cannot be traded against reward; soft Q-learning has one.

    Raises:
        ValueError: a value out of range, or a ``target_interval`` below ``num_envs``.
    """

    num_envs: int = 64
    learning_rate: float = 1e-3
    batch_size: int = 256
    gradient_steps: int = 2
    target_interval: int = (
        1024  # steps of all sub-environments together between two copies into the target network
    )
    exploration_fraction: float = 0.5  # of all steps, over which epsilon falls from 1 to final_epsilon
    final_epsilon: float = 0.05
    discount: float = 0.99
    hidden: tuple[int, ...] = (64,)
    features: Features = "tokens"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.target_interval < self.num_envs:
            raise ValueError(
                f"target_interval is {self.target_interval}: give num_envs = {self.num_envs} or more"
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
    "entropy_coef": (0.0, math.inf),
    "kl_coef": (0.0, math.inf),
    "exploration_fraction": (0.0, 1.0),
    "final_epsilon": (0.0, 1.0),
}

# Environment family -> agent -> steps of all sub-environments together, and what differs from the dataclass. No hidden
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
    "epochs": 8,
    "entropy_coef": 0.1,  # with 0.01 the taxi learns to drive on and never to pick up
    "hidden": (),
}
_FROZEN_LAKE_PPO = {"learning_rate": 1e-2, "hidden": ()}
_TOKENS: dict[str, _Default] = {
    "ppo": (60_000, {"hidden": (64, 32)}),
    "maskable-ppo": (60_000, {"hidden": (64, 32)}),
    "a2c": (100_000, {"hidden": (64, 32)}),
    # A smaller step and a slower target: else some seeds end one word below Keyword's optimum.
    "dqn": (60_000, {"learning_rate": 5e-4, "target_interval": 2048, "hidden": (64, 32)}),
}
_DELAYED_PPO = {
    "rollout_steps": 40,
    "gae_lambda": 1.0,
    "hidden": (64, 32),
}  # whole episodes, credit without decay
_ARITHMETIC_PPO = {
    # Large batches, used twice: small ones, used more often, learn the one-digit sums only.
    "num_envs": 512,
    "learning_rate": 7e-3,
    "epochs": 2,
    "gae_lambda": 1.0,
    "entropy_coef": 0.12,  # an answer of two digits is rarely sampled: entropy keeps it sampled until it is rewarded
    "hidden": (128, 64),
    "features": "trigrams",  # "7+8" is one: with single tokens alone some sums stay unlearned
}
_DEFAULTS: Mapping[str, Mapping[str, _Default]] = {
    **dict.fromkeys(
        ("TokenGeneration", "Keyword", "Password", "Brackets", "Lexicon", "LengthBias", "Flattery"), _TOKENS
    ),
    "Delayed": _TOKENS | dict.fromkeys(("ppo", "maskable-ppo"), (120_000, _DELAYED_PPO)),
    "Arithmetic": _TOKENS | dict.fromkeys(("ppo", "maskable-ppo"), (2_000_000, _ARITHMETIC_PPO)),
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
    """Check each field alone and keep its converted value. Raises ValueError with the value, the range and the field."""
    for one in fields(config):
        object.__setattr__(config, one.name, _checked(one.name, getattr(config, one.name)))


def _checked(name: str, value: object) -> object:
    if name == "hidden":
        if isinstance(value, tuple):
            with suppress(ValueError):
                return tuple(check_count(name, width) for width in value)
        raise ValueError(f"hidden is {value!r}: give a tuple of layer widths of 1 or more, such as (64, 64)")
    if name == "features":
        return check_choice(name, value, get_args(Features))
    if name in _RANGES:
        return check_number(name, value, *_RANGES[name])
    return check_count(name, value)


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
    """Return the steps, of all sub-environments together, that go with the default config. Raises ValueError as it does."""
    steps, _ = _default(agent, env_id)
    return steps


def caveat(agent: str, config: Config, discount: float) -> str | None:
    """Return one line on what ``agent`` optimizes other than the exact answers do, None where it is the same.

    Args:
        agent: its name.
        config: its config.
        discount: of the environment's id, with which the exact answers are given.
    """
    notes = []
    if config.discount != discount:
        notes.append(f"it discounts by {config.discount}, the exact answers by {discount}")
    if not isinstance(config, DQNConfig) and config.entropy_coef > 0:
        notes.append(
            f"its entropy_coef of {config.entropy_coef} is a bonus per state that is not in the returns, so it does "
            "not climb to the KL-regularized optimum (kl_coef with entropy_coef 0 does)"
        )
    return f"{agent} optimizes something else than 'solve': {'; '.join(notes)}" if notes else None


def _default(agent: str, env_id: str) -> _Default:
    """Return the row of the id without namespace and version (it holds for every version), else the general."""
    _check_name(agent)
    family = re.sub(r"-v\d+$", "", env_id.rsplit("/", 1)[-1])
    return _DEFAULTS.get(family, {}).get(agent, _GENERAL[agent])


def _check_name(agent: str) -> None:
    if agent not in AGENTS:
        raise ValueError(f"no SB3 agent is called {agent!r}: there are {', '.join(AGENTS)}")
