"""A finite environment as tables: enumerated from its transition, or read from toy-text's ``P``."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import (
    HumanRendering,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    RecordVideo,
    RenderCollection,
    TimeLimit,
)

from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray
from tokenwalk.envs.transition import TransitionModel

MAX_ENTRIES = 20_000_000  # S * A * K; some 500 MB of tables
# Wrappers that change neither the observations nor the rewards.
_TRANSPARENT = (
    HumanRendering,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    RecordVideo,
    RenderCollection,
    TimeLimit,
)


@dataclass(frozen=True)
class TabularMDP:
    """A Markov decision process with S states, A actions and K outcomes; the horizon is a field, not a state.

    Attributes:
        next_state: int64 [S, A, K].
        probability: float64 [S, A, K], sums to 1 over K.
        terminated: bool [S, A, K]; nothing follows a terminated outcome, whatever ``next_state`` says.
        rewards: named channels, each float64 [S, A, K], not summed; "gold" is the true reward.
        last_rewards: channels added to the last step of the horizon, each float64 [S, A]; 0 where absent.
        available: bool [S, A]; every state has an action.
        log_reference: float64 [S, A], natural log-probabilities of the reference policy; -inf where not available.
        start: float64 [S].
        horizon: steps after which an episode ends, or None.
        horizon_terminates: True where the horizon is part of the task (a termination), False where it is a truncation.

    Raises:
        ValueError: shapes that disagree, a state out of range, probabilities that do not sum to 1, a reward that is
            not finite, a state without an action, or a horizon below 1.
    """

    next_state: IntArray
    probability: FloatArray
    terminated: BoolArray
    rewards: Mapping[str, FloatArray]
    last_rewards: Mapping[str, FloatArray]
    available: BoolArray
    log_reference: FloatArray
    start: FloatArray
    horizon: int | None
    horizon_terminates: bool

    def __post_init__(self) -> None:
        if self.next_state.ndim != 3 or 0 in self.next_state.shape:
            raise ValueError(
                f"next_state has shape {self.next_state.shape}: give [S, A, K] with at least one of each"
            )
        s, a, k = self.next_state.shape
        expected: list[tuple[str, Any, tuple[int, ...]]] = [
            ("probability", self.probability, (s, a, k)),
            ("terminated", self.terminated, (s, a, k)),
            ("available", self.available, (s, a)),
            ("log_reference", self.log_reference, (s, a)),
            ("start", self.start, (s,)),
            *((f"rewards[{name!r}]", table, (s, a, k)) for name, table in self.rewards.items()),
            *((f"last_rewards[{name!r}]", table, (s, a)) for name, table in self.last_rewards.items()),
        ]
        for name, table, shape in expected:
            if table.shape != shape:
                raise ValueError(f"{name} has shape {table.shape}: next_state asks for {shape}")
            if "rewards" in name and not np.isfinite(table).all():
                raise ValueError(f"{name} holds a value that is not finite: give finite numbers")
        if self.next_state.min() < 0 or self.next_state.max() >= s:
            raise ValueError(
                f"next_state leaves the states 0 to {s - 1}: it spans {self.next_state.min()} to {self.next_state.max()}"
            )
        if not self.rewards:
            raise ValueError("rewards is empty: name at least one channel")
        if unknown := set(self.last_rewards) - set(self.rewards):
            raise ValueError(
                f"last_rewards names {sorted(unknown)}, which rewards does not: it has {sorted(self.rewards)}"
            )
        for name, sums in (
            ("probability", self.probability.sum(axis=2)),
            ("start", self.start.sum(keepdims=True)),
        ):
            if not np.allclose(sums, 1.0, rtol=0, atol=1e-9):
                raise ValueError(
                    f"{name} sums to {sums.ravel()[np.abs(sums - 1).argmax()]}, not to 1: divide by the sum"
                )
        if (self.probability < 0).any() or (self.start < 0).any():
            raise ValueError("a probability is negative: give probabilities of 0 or more")
        if not self.available.any(axis=1).all():
            raise ValueError(
                f"state {int(np.flatnonzero(~self.available.any(axis=1))[0])} has no available action: "
                "give each state one or more"
            )
        with np.errstate(invalid="ignore"):
            mass = np.where(self.available, np.exp(self.log_reference), 0.0).sum(axis=1)
        if not np.allclose(mass, 1.0, rtol=0, atol=1e-9):
            raise ValueError(
                f"the reference policy of state {int(np.abs(mass - 1).argmax())} does not sum to 1 over the available "
                "actions: divide by the sum"
            )
        if self.horizon is not None and (not isinstance(self.horizon, (int, np.integer)) or self.horizon < 1):
            raise ValueError(f"horizon is {self.horizon!r}: give an integer of 1 or more, or None")

    @property
    def n_states(self) -> int:
        """Return S."""
        return int(self.next_state.shape[0])

    @property
    def n_actions(self) -> int:
        """Return A."""
        return int(self.next_state.shape[1])

    def without_time_limit(self) -> "TabularMDP":
        """Return the process without its horizon where that is a truncation, else itself.

        The discounted value does not depend on a truncation.
        """
        return self if self.horizon_terminates else replace(self, horizon=None)

    def reward(self, weights: Mapping[str, float]) -> tuple[FloatArray, FloatArray]:
        """Return the weighted sums of the channels and of their last-step parts, float64 [S, A, K] and [S, A].

        Raises:
            ValueError: no weights, a weight that is not finite, or a channel that the process does not have.
        """
        if unknown := [name for name in weights if name not in self.rewards]:
            raise ValueError(
                f"no reward channel is called {unknown[0]!r}: there are {', '.join(sorted(self.rewards))}"
            )
        if not weights or not np.isfinite(list(weights.values())).all():
            raise ValueError(f"weights are {dict(weights)}: give at least one channel a finite weight")
        per_step, last = np.zeros(self.next_state.shape), np.zeros(self.available.shape)
        for name, weight in weights.items():
            per_step = per_step + weight * self.rewards[name]
            if name in self.last_rewards:
                last = last + weight * self.last_rewards[name]
        return per_step, last


@dataclass(frozen=True)
class Tables:
    """A model's transition, enumerated: next_state and terminated [S, A, K], rewards by name, probability [S, A, K]."""

    next_state: IntArray
    terminated: BoolArray
    rewards: Mapping[str, FloatArray]
    probability: FloatArray


def enumerate_transitions(model: TransitionModel, max_entries: int = MAX_ENTRIES) -> Tables:
    """Return every step of ``model`` as tables, by one batched call of its transition.

    Raises:
        ValueError: more than ``max_entries`` combinations of state, action and outcome.
    """
    shape = (model.n_states, model.n_actions, model.n_outcomes)
    check_size(*shape, max_entries)
    state, action, outcome = (index.ravel() for index in np.indices(shape, dtype=np.int64))
    step = model.transition(state, action, outcome)
    probability = model.outcome_probability(state, action)[np.arange(len(state)), outcome]
    return Tables(
        np.asarray(step.next_state, dtype=np.int64).reshape(shape),
        np.asarray(step.terminated, dtype=np.bool_).reshape(shape),
        {name: np.asarray(reward, dtype=np.float64).reshape(shape) for name, reward in step.rewards.items()},
        np.asarray(probability, dtype=np.float64).reshape(shape),
    )


def check_size(n_states: int, n_actions: int, n_outcomes: int, max_entries: int = MAX_ENTRIES) -> None:
    """Raise ValueError, with the count, where tables would hold more than ``max_entries`` entries."""
    count = n_states * n_actions * n_outcomes
    if count > max_entries:
        raise ValueError(
            f"{n_states:,} states x {n_actions} actions x {n_outcomes} outcomes are {count:,} table entries, "
            f"more than the limit of {max_entries:,}: make the environment smaller or raise max_entries"
        )


def tabular_mdp(env: gym.Env[Any, Any], max_entries: int = MAX_ENTRIES) -> TabularMDP:
    """Return the tables of ``env``, which has a ``model`` of this package or toy-text's ``P``, through its wrappers.

    A TimeLimit becomes the horizon (a truncation). The reference policy is uniform: every action is available.

    Raises:
        ValueError: an environment without tables, one whose wrappers change observations, actions or rewards, one
            whose ``P`` does not hold all of its dynamics (Taxi's fickle passenger), or one that is too large.
    """
    horizon = _time_limit(env)
    inner = env.unwrapped
    if hasattr(inner, "tabular_mdp"):  # a task's own tables also have named channels and a reference policy
        mdp: TabularMDP = inner.tabular_mdp(max_entries)
        if horizon is None or (mdp.horizon is not None and mdp.horizon <= horizon):
            return mdp  # the task always ends before the limit
        return replace(mdp, horizon=horizon, horizon_terminates=False)
    if hasattr(inner, "model"):
        tables = enumerate_transitions(inner.model, max_entries)
        start = inner.model.start_distribution
    elif hasattr(inner, "P") and hasattr(inner, "initial_state_distrib"):
        tables, start = (
            _toy_text_tables(inner, max_entries),
            np.asarray(inner.initial_state_distrib, dtype=np.float64),
        )
    else:
        raise ValueError(
            f"{inner} has no tables: it needs a finite model as in tokenwalk.envs.counter_walk, or toy-text's P "
            "(FrozenLake, CliffWalking, Taxi)"
        )
    n_states, n_actions, _ = tables.next_state.shape
    return TabularMDP(
        next_state=tables.next_state,
        probability=tables.probability,
        terminated=tables.terminated,
        rewards=tables.rewards,
        last_rewards={},
        available=np.ones((n_states, n_actions), dtype=np.bool_),
        log_reference=np.full((n_states, n_actions), -np.log(n_actions)),
        start=start,
        horizon=horizon,
        horizon_terminates=False,
    )


def _time_limit(env: gym.Env[Any, Any]) -> int | None:
    """Return the smallest TimeLimit among the wrappers of ``env``. Raises ValueError for a wrapper that changes the task."""
    limits: list[int] = []
    while isinstance(env, gym.Wrapper):
        if not isinstance(env, _TRANSPARENT):
            raise ValueError(
                f"the wrapper {type(env).__name__} may change observations or rewards, so its tables are not "
                f"those of {env.unwrapped}: read the tables of the environment without it"
            )
        if isinstance(env, TimeLimit):
            limits.append(int(env._max_episode_steps))
        env = env.env
    return min(limits, default=None)


def _toy_text_tables(env: Any, max_entries: int) -> Tables:
    """Return the tables of toy-text's ``P[state][action] = [(probability, next_state, reward, terminated), ...]``."""
    if getattr(env, "fickle_passenger", False):
        raise ValueError(
            "Taxi with fickle_passenger=True changes its destination outside P: its tables would be wrong"
        )
    n_states, n_actions = len(env.P), len(env.P[0])
    n_outcomes = max(len(outcomes) for row in env.P.values() for outcomes in row.values())
    check_size(n_states, n_actions, n_outcomes, max_entries)
    shape = (n_states, n_actions, n_outcomes)
    next_state, terminated = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.bool_)
    reward, probability = np.zeros(shape), np.zeros(shape)
    for s in range(n_states):
        for a in range(n_actions):
            for k, (p, following, gold, ends) in enumerate(env.P[s][a]):
                probability[s, a, k], next_state[s, a, k], reward[s, a, k], terminated[s, a, k] = (
                    p,
                    following,
                    gold,
                    ends,
                )
    return Tables(next_state, terminated, {"gold": reward}, probability)
