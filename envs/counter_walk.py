"""The counter-walk: one action adds 1 to an integer, the other subtracts 1.

This file is the example for a new environment: a model with one pure batched transition, a scalar environment that
reads the tables enumerated from it, and a vector environment that calls it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray
from tokenwalk.envs.checks import (
    EpisodeEndedError,
    check_action,
    check_actions,
    check_count,
    check_num_envs,
    check_number,
    check_render_mode,
    check_seed,
    check_time_limit,
)
from tokenwalk.envs.random_numbers import EpisodeClock, EpisodeClocks, env_seeds, uniform
from tokenwalk.envs.tabular import enumerate_transitions
from tokenwalk.envs.transition import Transition, sample_outcomes

ADD, SUBTRACT = 0, 1


@dataclass(frozen=True)
class CounterWalkModel:
    """The walk as a finite model: S = ``n_states``, A = 2, K = 2 if ``slip`` > 0, else 1 (outcome 1: the opposite action).

    Raises:
        ValueError: fewer than 2 states, ``start`` or ``goal`` outside them, ``slip`` outside [0, 1), or a walk that
            starts on the goal that ends it.
    """

    n_states: int = 3
    start: int = 0
    goal: int = 1
    slip: float = 0.0
    terminate_at_goal: bool = False

    def __post_init__(self) -> None:
        for name, low in (("n_states", 2), ("start", 0), ("goal", 0)):
            value = check_count(name, getattr(self, name), low)
            if name != "n_states" and value >= self.n_states:
                raise ValueError(
                    f"{name} is {value}: give a state from 0 to {self.n_states - 1}, or raise n_states"
                )
        check_number("slip", self.slip, 0.0, 1.0, high_open=True)
        if not isinstance(self.terminate_at_goal, bool):
            raise ValueError(f"terminate_at_goal is {self.terminate_at_goal!r}: give True or False")
        if self.terminate_at_goal and self.start == self.goal:
            raise ValueError(
                f"start and goal are both {self.start}: the walk would end before its first step"
            )

    @property
    def n_actions(self) -> int:
        """Return 2: add and subtract."""
        return 2

    @property
    def n_outcomes(self) -> int:
        """Return 1 where nothing is random, else 2."""
        return 2 if self.slip > 0 else 1

    @property
    def start_distribution(self) -> FloatArray:
        """Return 1 at the start state and 0 elsewhere, float64 [S]."""
        one_hot: FloatArray = np.eye(self.n_states)[self.start]
        return one_hot

    def transition(self, state: IntArray, action: IntArray, outcome: IntArray | int) -> Transition:
        """Return the step of ``state`` [B] in 0..S-1 under ``action`` [B] in 0..1 with ``outcome`` [B] (1: slipped)."""
        lowers = (action ^ outcome) if self.slip > 0 else action  # [B], 1 where the counter goes down
        row = state + state + lowers  # [B]
        next_state = self._arrival.take(row)  # [B]
        terminated = (
            next_state == self.goal if self.terminate_at_goal else np.zeros(row.shape, dtype=np.bool_)
        )
        return Transition(next_state, terminated, {"gold": self._gold.take(row)})

    @cached_property
    def _arrival(self) -> IntArray:
        """Return the next state of (state, add) and (state, subtract), int64 [2 S]: a lookup is faster than clipping."""
        moved = np.arange(self.n_states)[:, None] + np.array([1, -1])
        arrival: IntArray = np.clip(moved, 0, self.n_states - 1).ravel()
        return arrival

    @cached_property
    def _gold(self) -> FloatArray:
        """Return the reward of each entry of ``_arrival``, float64 [2 S]: +1 at the goal, -1 elsewhere."""
        return np.where(self._arrival == self.goal, 1.0, -1.0)

    def outcome_probability(self, state: IntArray, action: IntArray) -> FloatArray:
        """Return the probability of each outcome, float64 [B, K]: 1 - slip for the action taken, slip for its opposite."""
        row = np.array([1 - self.slip, self.slip] if self.n_outcomes > 1 else [1.0])
        return np.broadcast_to(row, (len(state), len(row)))


class CounterWalkEnv(gym.Env[np.int64, np.int64]):
    """A counter that moves by one in each step, between two walls.

    ## Description
    A counter starts at ``start``. Each action adds or subtracts 1. Walls stop it at 0 and at ``n_states - 1``.
    The reward is for being at ``goal``.

    ## Action Space
    ``Discrete(2)``: 0 adds one, 1 subtracts one. With probability ``slip`` the opposite action is taken.

    ## Observation Space
    ``Discrete(n_states)``: the counter.

    ## Starting State
    ``start``, always.

    ## Reward
    +1 where the next state is ``goal``, -1 elsewhere (no unit). Range [-1, 1].

    ## Episode End
    *Termination*: on arrival at ``goal`` if ``terminate_at_goal``, else never.
    *Truncation*: after 100 steps (``CounterWalk-v0``) or 1,000 (``CounterWalkLong-v0``), by Gymnasium's TimeLimit.

    ## Information
    ``reset`` and ``step`` return an empty dictionary.

    ## Optimal return
    ``CounterWalk-v0``: 0 over its 100 steps (+1 and -1 in turn); with discount 0.9 the optimal values are
    V(0) = V(2) = 10/19 and V(1) = -10/19, because V(0) = 1 + 0.9 V(1) and V(1) = -1 + 0.9 V(0).
    ``CounterWalkLong-v0``: -98 (99 steps at -1, then +1).

    ## Arguments
    ``n_states=3, start=0, goal=1, slip=0.0, terminate_at_goal=False``; ``render_mode="ansi"`` shows the line of
    states, the counter in brackets, the goal with a star.

    ## References
    None: the environment was made for this package.

    ## Version History
    v0: first version.

    Raises:
        InvalidActionError: ``step`` with an action that is not 0 or 1; the state is unchanged.
        EpisodeEndedError: ``step`` before ``reset`` or after termination; the state is unchanged.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self,
        n_states: int = 3,
        start: int = 0,
        goal: int = 1,
        slip: float = 0.0,
        terminate_at_goal: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.model = CounterWalkModel(n_states, start, goal, slip, terminate_at_goal)
        self.render_mode = check_render_mode(render_mode)
        self.observation_space = gym.spaces.Discrete(n_states)
        self.action_space = gym.spaces.Discrete(2)
        tables = enumerate_transitions(self.model)
        # rows[state][action][outcome] is exactly what step returns: one lookup, so it cannot disagree with the tables.
        self._rows = [
            [
                [
                    (
                        int(tables.next_state[s, a, k]),
                        float(tables.rewards["gold"][s, a, k]),
                        bool(tables.terminated[s, a, k]),
                    )
                    for k in range(self.model.n_outcomes)
                ]
                for a in range(2)
            ]
            for s in range(n_states)
        ]
        self._random = self.model.n_outcomes > 1
        self._clock = EpisodeClock()
        self._stream = 0
        self._time = 0
        self._state = start
        self._row: list[list[tuple[int, float, bool]]] | None = None  # None: reset is needed

    def reset(  # type: ignore[override]
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Start an episode; a ``seed`` restarts the count of episodes. ``options`` are not used."""
        seed = None if seed is None else check_seed(seed)
        super().reset(seed=seed)
        self._clock.begin(seed, self.np_random)
        self._stream, self._time = self._clock.stream if self._random else 0, 0
        self._state = self.model.start
        self._row = self._rows[self._state]
        return self._state, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:  # type: ignore[override]
        """Move the counter: (observation, reward, terminated, False, {})."""
        row = self._row
        if row is None:
            raise EpisodeEndedError("the episode has ended or was never started: call reset() before step()")
        if type(action) is not int or not 0 <= action < 2:
            action = check_action(action, 2)
        outcome = 0
        if self._random:
            self._time += 1
            outcome = int(uniform(self._stream, self._time) >= 1 - self.model.slip)
        state, reward, terminated = row[action][outcome]
        self._state = state
        self._row = None if terminated else self._rows[state]
        return state, reward, terminated, False, {}

    def render(self) -> str | None:
        """Return the line of states as text (``render_mode="ansi"``), else None with Gymnasium's warning."""
        if self.render_mode is None:
            gym.logger.warn("render() needs render_mode='ansi': give it to gym.make")
            return None
        return plot_line(self._state, self.model)


class CounterWalkVectorEnv(VectorEnv[IntArray, IntArray, Any]):
    """B counter-walks stepped together: sub-environment i equals a ``CounterWalkEnv`` with the seed ``seed + i``.

    Autoreset is SAME_STEP: a sub-environment that ends is reset in the same step; its last observation is in
    ``info["final_obs"]`` under the mask ``info["_final_obs"]``, as with Gymnasium's SyncVectorEnv.

    Args:
        num_envs: B, the number of sub-environments.
        max_episode_steps: steps after which a sub-environment is truncated; None (or -1, as in ``gym.make``) for no limit.
        n_states, start, goal, slip, terminate_at_goal, render_mode: as for ``CounterWalkEnv``.

    Raises:
        ValueError: arguments out of range. InvalidActionError and EpisodeEndedError from ``step``, state unchanged.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4, "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        n_states: int = 3,
        start: int = 0,
        goal: int = 1,
        slip: float = 0.0,
        terminate_at_goal: bool = False,
        render_mode: str | None = None,
    ) -> None:
        super().__init__()
        self.model = CounterWalkModel(n_states, start, goal, slip, terminate_at_goal)
        self.num_envs = check_num_envs(num_envs)
        self.max_episode_steps = check_time_limit(max_episode_steps)
        self.render_mode = check_render_mode(render_mode)
        self.single_observation_space = gym.spaces.Discrete(n_states)
        self.single_action_space = gym.spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._random = self.model.n_outcomes > 1
        self._clocks = EpisodeClocks(num_envs, self.max_episode_steps)
        self._state = np.full(num_envs, start, dtype=np.int64)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[IntArray, dict[str, Any]]:
        """Start an episode in every sub-environment: (observations int64 [B], {}). ``options`` are not used."""
        seeds = env_seeds(seed, self.num_envs)
        super().reset(seed=None if None in seeds else seeds[0])
        self._clocks.reset(seeds, self.np_random)
        self._state = np.full(self.num_envs, self.model.start, dtype=np.int64)
        return self._state.copy(), {}

    def step(self, actions: Any) -> tuple[IntArray, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Move every counter: (observations int64 [B], rewards float64 [B], terminated [B], truncated [B], info)."""
        clocks, model = self._clocks, self.model
        if not clocks.started:
            raise EpisodeEndedError("the sub-environments were never started: call reset() before step()")
        actions = check_actions(actions, self.num_envs, 2)
        truncated = clocks.tick()
        outcome: IntArray | int = 0
        if self._random:
            outcome = sample_outcomes(model.outcome_probability(self._state, actions), clocks.sample())
        state, terminated, rewards = model.transition(self._state, actions, outcome)
        info: dict[str, Any] = {}
        if np.count_nonzero(terminated) or np.count_nonzero(truncated):  # several times faster than any()
            ended = terminated | truncated
            final = np.full(self.num_envs, None, dtype=object)
            final[ended] = state[ended]
            info = {"final_obs": final, "_final_obs": ended, "final_info": {}, "_final_info": ended.copy()}
            clocks.restart(ended.nonzero()[0])
            state[ended] = model.start
        self._state = state
        return state.copy(), rewards["gold"], terminated, truncated, info

    def render(self) -> tuple[str, ...] | None:
        """Return each sub-environment's line of states (``render_mode="ansi"``), else None."""
        if self.render_mode is None:
            return None
        return tuple(plot_line(int(state), self.model) for state in self._state)


def plot_line(state: int, model: CounterWalkModel) -> str:
    """Return the line of states around ``state``, at most 21 of them: the counter in brackets, the goal with a star."""
    first = max(0, min(state - 10, model.n_states - 21))
    last = min(model.n_states, first + 21)
    cells = [f"{s}*" if s == model.goal else f"{s}" for s in range(first, last)]
    cells[state - first] = f"[{cells[state - first]}]"
    return ("... " if first else "") + " ".join(cells) + (" ..." if last < model.n_states else "")
