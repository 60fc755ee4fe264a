"""The tabular agent: Q-learning, SARSA, expected SARSA, double and soft Q-learning, in several runs at once.

``textbook`` shows the update rule in its simplest form. The full algorithm is in ``kernels``. This file has its two
drivers: ``learn_mdp`` is compiled and samples from the tables of a ``TabularMDP``; ``learn_env`` steps any Gymnasium
environment from Python. Both can stop after any step and continue later.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from tokenwalk.agents.runs.progress import OnMetrics
from tokenwalk.agents.tabular.config import QLearningConfig
from tokenwalk.agents.tabular.greedy import greedy_policy, soft_policy
from tokenwalk.agents.tabular.kernels import (
    IN_ENVIRONMENT,
    NEVER,
    NO_EPISODE,
    WINDOW,
    StepState,
    advance,
    begin,
    epsilon_at,
    greedy,
    maximum,
    record_episode,
    sample_soft,
    soft_maximum,
    walk_tables,
)
from tokenwalk.agents.tabular.memory import (
    compiled_mdp,
    grown,
    new_memory,
    python_view,
    restricted,
    run_of,
    write_back,
)
from tokenwalk.agents.tabular.observations import ObservationIndex, check_actions, index_of
from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray
from tokenwalk.envs.checks import check_seed
from tokenwalk.envs.tabular import TabularMDP

CHUNK_SECONDS = 0.2  # of learning between two readings of the clock; Ctrl-C waits at most this long
WALK_SECONDS = 0.001  # minimum share of one run in it; passing its arrays takes 1 % of that


class QLearning:
    """R independent runs of one tabular agent. Make it with ``for_mdp`` or ``for_env``.

    Args:
        config: how to learn.
        index: from observations to state indices; it has S of them.
        n_actions: A.
        n_times: T where the agent sees (time, state), because the horizon is part of the task; else 1.
        first_action: the environment's number of action 0.
        runs: R.
        seed: run r samples from the r-th child of SeedSequence(seed).
        log_reference: float [S, A], natural log of the policy that soft-q is regularized against; -inf where
            an action is not available. Uniform over all actions if not given.

    Attributes:
        memory: tables, counters and the episode in progress of all runs; ``generators``: theirs.

    Raises:
        ValueError: runs below 1, a seed that is no integer of 0 or more, or a reference of another shape.
    """

    def __init__(
        self,
        config: QLearningConfig,
        index: ObservationIndex,
        n_actions: int,
        *,
        n_times: int = 1,
        first_action: int = 0,
        runs: int = 1,
        seed: int = 0,
        log_reference: FloatArray | None = None,
    ) -> None:
        if isinstance(runs, bool) or not isinstance(runs, (int, np.integer)) or runs < 1:
            raise ValueError(f"runs is {runs!r}: give an integer of 1 or more")
        self.config, self.index, self.runs, self.seed = config, index, int(runs), check_seed(seed)
        self.n_actions, self.n_times, self.first_action = n_actions, n_times, first_action
        self.memory = new_memory(config, self.runs, n_times * max(index.n_states, 1), n_actions)
        self.reference: FloatArray | None = None  # as given; a mask may narrow the memory's
        if log_reference is not None:
            expected = (index.n_states, n_actions)
            if index.grows or log_reference.shape != expected:
                raise ValueError(
                    f"log_reference has shape {log_reference.shape}: give {expected}, of a dense index"
                )
            self.reference = np.tile(log_reference, (n_times, 1))
            self.memory.log_reference[:] = self.reference
        self.generators = [
            np.random.default_rng(one) for one in np.random.SeedSequence(self.seed).spawn(self.runs)
        ]
        self.environments_begun = np.zeros(
            self.runs, dtype=np.int64
        )  # environments that each run has started in
        self._environments: list[gym.Env[Any, Any] | None] = [None] * self.runs
        self._masks: dict[int, bytes] = {}  # state index -> the mask that the memory's reference follows

    @classmethod
    def for_mdp(
        cls, mdp: TabularMDP, config: QLearningConfig, *, runs: int = 1, seed: int = 0
    ) -> "QLearning":
        """Return an agent for the tables of ``mdp``: its available actions, for soft-q its reference policy.

        Where the horizon is part of the task what the agent sees is (time, state), else the state alone.
        """
        if config.backup == "soft-q":
            reference = np.where(mdp.available, mdp.log_reference, NEVER)
        else:
            reference = np.where(mdp.available, -np.log(mdp.available.sum(axis=1, keepdims=True)), NEVER)
        index = ObservationIndex([mdp.n_states], [0])
        return cls(
            config, index, mdp.n_actions, n_times=_times(mdp), runs=runs, seed=seed, log_reference=reference
        )

    @classmethod
    def for_env(
        cls, env: gym.Env[Any, Any], config: QLearningConfig, *, runs: int = 1, seed: int = 0
    ) -> "QLearning":
        """Return an agent for the spaces of ``env``; its reference is uniform over the available actions.

        Raises:
            UnsupportedSpaceError: actions that are not Discrete; observations that are not Discrete,
                MultiDiscrete or a Tuple of these.
        """
        n_actions, first_action = check_actions(env.action_space)
        index = index_of(env.observation_space)
        return cls(config, index, n_actions, first_action=first_action, runs=runs, seed=seed)

    def learn_mdp(
        self,
        mdp: TabularMDP,
        weights: Mapping[str, float],
        steps: int,
        on_progress: OnMetrics | None = None,
        progress_every: float = 0.2,
    ) -> None:
        """Take ``steps`` more steps in each run, compiled, in the tables of ``mdp``; an open episode continues.

        Args:
            mdp: its horizon truncates, or ends the episode where it is part of the task.
            weights: channel -> weight; the weighted sum is the reward.
            steps: of each run.
            on_progress: called with the steps so far and ``metrics()``, at the end and before it at most
                every ``progress_every`` seconds.

        Raises:
            ValueError: tables of another size than the agent's or without its actions, negative steps.
        """
        has = (self.index.n_states, self.n_actions, self.n_times)
        if (mdp.n_states, mdp.n_actions, _times(mdp)) != has or (self.available & ~mdp.available).any():
            raise ValueError(
                f"the tables have {mdp.n_states} states, {mdp.n_actions} actions and {_times(mdp)} times, "
                f"the agent {has[0]}, {has[1]} and {has[2]}, or it takes actions that are not available there: "
                "make it with QLearning.for_mdp"
            )
        tables, rule = compiled_mdp(mdp, *mdp.reward(weights)), self.config.rule
        learners = [run_of(self.memory, run) for run in range(self.runs)]

        def walk(run: int, n_steps: int) -> None:
            walk_tables(learners[run], rule, tables, self.generators[run], n_steps)

        self._learn(steps, walk, on_progress, progress_every)

    def learn_env(
        self,
        env: gym.Env[Any, Any] | Sequence[gym.Env[Any, Any]],
        steps: int,
        on_progress: OnMetrics | None = None,
        progress_every: float = 0.2,
    ) -> None:
        """Take ``steps`` more steps in each run, in ``env`` (one for each run) with the agent's spaces.

        Masks in ``info["action_mask"]`` are respected. An open episode continues if it is in the same
        environment. Else, and after an interruption, a new episode begins, with a new seed. The other arguments are
        those of ``learn_mdp``.

        Raises:
            UnsupportedSpaceError: spaces that no tabular agent takes.
            ValueError: other spaces than the agent's, another number of environments than runs, negative
                steps, a reward that is not finite, an observation outside its space, a mask of no action.
        """
        envs = list(env) if isinstance(env, Sequence) else [env]
        if len(envs) != self.runs:
            raise ValueError(f"{len(envs)} environments for {self.runs} runs: give one for each")
        has = (self.index.sizes, self.index.starts, (self.n_actions, self.first_action), self.n_times)
        for one in envs:
            index, actions = index_of(one.observation_space), check_actions(one.action_space)
            if (index.sizes, index.starts, actions, 1) != has:
                raise ValueError(
                    f"the agent was not made for the spaces of {one}: make it with QLearning.for_env"
                )

        def walk(run: int, n_steps: int) -> None:
            self._walk_env(run, envs[run], min(n_steps, 1000) if self.index.grows else n_steps)

        self._learn(steps, walk, on_progress, progress_every)

    def _learn(
        self,
        steps: int,
        walk: Callable[[int, int], None],
        on_progress: OnMetrics | None,
        progress_every: float,
    ) -> None:
        """Bring each run to the same step, in turn, in chunks of about CHUNK_SECONDS.

        Only the memory holds the progress of a run. So the agent can continue after an exception between two walks,
        such as Ctrl-C; runs that are behind then catch up.
        """
        if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 0:
            raise ValueError(f"steps is {steps!r}: give an integer of 0 or more")
        target, chunk, reported = self.steps + int(steps), 100, time.perf_counter()
        seconds = max(CHUNK_SECONDS, self.runs * WALK_SECONDS)
        while (behind := target - self.memory.step_state["step"]).any():
            began = time.perf_counter()
            for run in np.flatnonzero(behind).tolist():
                walk(run, min(chunk, int(behind[run])))
            now = time.perf_counter()
            # A walk may stop short of its chunk, so only the steps left bound how far the chunk may grow.
            chunk = max(1, int(min(steps, chunk * min(4.0, seconds / max(now - began, 1e-9)))))
            if on_progress is not None and now - reported >= progress_every:
                reported = now
                on_progress(self.steps, self.metrics())
        if on_progress is not None:
            on_progress(self.steps, self.metrics())

    def _walk_env(self, run: int, env: gym.Env[Any, Any], steps: int) -> None:
        """Take ``steps`` steps of one run in ``env``."""
        if self.index.grows:  # a step shows at most two observations: the next, and one after a reset
            self.memory = grown(self.memory, self.config, self.index.n_states + 2 * steps + 1)
        learner, rule, rng = python_view(self.memory, run), self.config.rule, self.generators[run]
        state_index_of, first_action = self.index.state_index, self.first_action
        now: StepState = learner.step_state
        goes_on = now.episode_in == IN_ENVIRONMENT and self._environments[run] is env
        now.episode_in = (
            NO_EPISODE  # until the loop is over: the state of an interrupted environment is unknown
        )
        try:
            if not goes_on:
                observation, info = env.reset(seed=self._next_environment_seed(run))
                begin(learner, rule, self._masked_state_index(observation, info), rng)
            for _ in range(steps):
                observation, reward, terminated, truncated, info = env.step(now.action + first_action)
                reward = float(reward)
                if not math.isfinite(reward):
                    raise ValueError(f"the reward of {env} is {reward}: it must be finite")
                if terminated:
                    state_index = 0
                elif "action_mask" in info:
                    state_index = self._masked_state_index(observation, info)
                else:
                    state_index = state_index_of(observation)
                advance(learner, rule, reward, state_index, terminated, truncated, rng)
                if terminated or truncated:
                    record_episode(learner)
                    observation, info = env.reset()
                    begin(learner, rule, self._masked_state_index(observation, info), rng)
            now.episode_in = IN_ENVIRONMENT
            self._environments[run] = env
        finally:
            write_back(self.memory, run, learner)

    def _masked_state_index(self, observation: Any, info: Mapping[str, Any]) -> int:
        """Return the state index of ``observation``; narrow its reference policy to the actions that ``info`` allows."""
        state_index = self.index.state_index(observation)
        mask = info.get("action_mask")
        if mask is not None and self._masks.get(state_index) != (key := np.asarray(mask).tobytes()):
            self.memory.log_reference[state_index] = restricted(self._unmasked_reference(state_index), mask)
            self._masks[state_index] = key
        return state_index

    def _unmasked_reference(self, state_index: int) -> FloatArray:
        """Return the log reference policy at a state index before any mask, float64 [A]."""
        if self.reference is None:
            return np.full(self.n_actions, -math.log(self.n_actions))
        log_reference: FloatArray = self.reference[state_index]
        return log_reference

    def _next_environment_seed(self, run: int) -> int:
        """Return a seed for the next environment of a run, a new one each time."""
        self.environments_begun[run] += 1
        child = np.random.SeedSequence(self.seed, spawn_key=(run, int(self.environments_begun[run])))
        return int(child.generate_state(1)[0])

    @property
    def steps(self) -> int:
        """Return the steps that each run has taken (after an interruption: the one that is furthest)."""
        return int(self.memory.step_state["step"].max())

    @property
    def episodes(self) -> IntArray:
        """Return the episodes that each run has finished, int64 [R]."""
        episodes: IntArray = self.memory.step_state["episodes"]
        return episodes.copy()

    @property
    def values(self) -> FloatArray:
        """Return the action values, float64 [R, T or 1, S, A]; the mean of double Q-learning's two tables."""
        return self._by_time(self.memory.q[:, -1]).copy()

    @property
    def available(self) -> BoolArray:
        """Return which actions the agent takes, bool [S, A]: no mask and no reference policy excludes them."""
        available: BoolArray = self.memory.log_reference[: self.index.n_states] > NEVER
        return available

    def greedy_policy(self) -> FloatArray:
        """Return the policy of the best available action, ties split evenly, float64 [R, T or 1, S, A]."""
        return greedy_policy(self.values, self.available)

    def policy(self) -> FloatArray:
        """Return the policy that ``act`` samples from, float64 [R, T or 1, S, A]: greedy, or soft-q's own."""
        if self.config.backup != "soft-q":
            return self.greedy_policy()
        return soft_policy(self.values, self._by_time(self.memory.log_reference), self.config.kl_coef)

    def act(
        self,
        observation: Any,
        rng: np.random.Generator,
        *,
        run: int = 0,
        action_mask: Any = None,
        at: int = 0,
    ) -> int:
        """Return the environment's action of the scored policy, ties broken by ``rng``; nothing is learned.

        Args:
            observation: all actions of one that was never seen have the same value.
            rng: of the caller; the agent's own generators are left alone.
            run: which run's table to use.
            action_mask: the actions allowed now, bool [A]; the last mask seen there if not given.
            at: steps since the episode began, where the agent sees the time.
        """
        known = self.index.find(observation)
        if known is None:
            state_index, values, log_reference = 0, np.zeros(self.n_actions), self._unmasked_reference(0)
        else:
            state_index = known + at * self.index.n_states
            values = self.memory.q[run, -1, state_index]
            log_reference = self.memory.log_reference[state_index]
        if action_mask is not None:
            log_reference = restricted(self._unmasked_reference(state_index), action_mask)
        if self.config.backup == "soft-q":
            best = soft_maximum(values, log_reference, self.config.kl_coef)
            chosen = sample_soft(values, log_reference, best, self.config.kl_coef, rng.random())
        else:
            chosen = greedy(values, log_reference, maximum(values, log_reference), rng.random())
        return chosen + self.first_action

    def metrics(self) -> dict[str, float]:
        """Return the learning curve's tags, averaged over the runs; an episode's only once one has ended."""
        metrics: dict[str, float] = {}
        if not np.isnan(self.recent_returns).all():
            metrics["rollout/ep_rew_mean"] = float(np.nanmean(self.recent_returns))
            metrics["rollout/ep_len_mean"] = float(np.nanmean(self.recent_lengths))
        metrics["train/epsilon"] = epsilon_at(self.config.rule, self.steps)
        step_size = np.full(self.runs, float(self.config.step_size))
        if self.config.step_size_half_life > 0:  # of the entry that each run is about to update
            now = self.memory.step_state  # [R]
            visits = self.memory.visits[np.arange(self.runs), 0, now["state_index"], now["action"]]
            step_size /= 1 + visits / self.config.step_size_half_life
        metrics["train/step_size"] = float(step_size.mean())
        return metrics

    @property
    def recent_returns(self) -> FloatArray:
        """Return each run's mean return, undiscounted, of its last 100 episodes, float64 [R]; NaN before any."""
        return self._mean_of_recent(0)

    @property
    def recent_lengths(self) -> FloatArray:
        """Return the mean length of each run's last 100 episodes, float64 [R]; NaN before any."""
        return self._mean_of_recent(1)

    def _mean_of_recent(self, which: int) -> FloatArray:
        finished = np.minimum(self.episodes, WINDOW)
        sums = self.memory.recent[:, which].sum(axis=1)  # unused entries are 0
        return np.where(finished > 0, sums / np.maximum(finished, 1), np.nan)

    def _by_time(self, table: FloatArray) -> FloatArray:
        """Return [..., X, A] as [..., T or 1, S, A], without the state indices that a growing index has not given yet."""
        n_states = self.index.n_states
        shown = table[..., : self.n_times * n_states, :]
        return shown.reshape(*table.shape[:-2], self.n_times, n_states, self.n_actions)


def _times(mdp: TabularMDP) -> int:
    """Return how often a table holds each state: once, or once for each time before the task's horizon."""
    return mdp.horizon if mdp.horizon is not None and mdp.horizon_terminates else 1
