"""Additional rewards, reward logs and potential-based shaping for any Gymnasium environment, scalar or vector.

``AddRewards``, ``MonitorRewards`` and ``PotentialShaping`` wrap a ``gym.Env``. ``AddRewardsVector``,
``MonitorRewardsVector`` and ``PotentialShapingVector`` wrap a vector environment in any of Gymnasium's autoreset modes.
They give each sub-environment, infos included, what the scalar wrapper gives.

>>> import gymnasium as gym, numpy as np
>>> def is_late(step):
...     return (step.next_observation >= 8).astype(np.float64)
>>> env = AddRewards(gym.make("FrozenLake-v1"), [(StepFunction("late", is_late, 0, 1), 0.1)])
>>> env = PotentialShaping(env, ObservationFunction(lambda place: place / 15.0), discount=0.99)
>>> observation, info = env.reset(seed=0)
>>> sorted(env.step(1)[4])
['gold', 'prob', 'reward/env', 'reward/late', 'reward/late/weighted', 'reward/shaping']
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray
from tokenwalk.envs.checks import EpisodeEndedError
from tokenwalk.envs.rewards.shaping import check_discount
from tokenwalk.envs.rewards.source import SourceContractError
from tokenwalk.envs.steps import (
    OWN,
    Batch,
    EnvStep,
    Mechanism,
    ObservationFunction,
    ObservationPotential,
    Scoring,
    Shaping,
    StepFunction,
    StepSource,
    check_potential,
    check_step_sources,
    check_weighted,
    copy_batch,
    put_rows,
    stack,
    take_rows,
)

__all__ = [
    "AddRewards",
    "AddRewardsVector",
    "EnvStep",
    "MonitorRewards",
    "MonitorRewardsVector",
    "ObservationFunction",
    "ObservationPotential",
    "PotentialShaping",
    "PotentialShapingVector",
    "StepFunction",
    "StepSource",
]

Info = dict[str, Any]


def _refuse_clash(key: str) -> None:
    raise SourceContractError(
        f"{key!r} is in the environment's info already: rename the reward function, or add the two potentials"
    )


class _RewardWrapper(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """An environment whose rewards a mechanism changes."""

    _mechanism: Mechanism

    def __init__(self, env: gym.Env[Any, Any], **arguments: Any) -> None:
        # Not copied: an argument may hold a network.
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, **arguments)
        gym.Wrapper.__init__(self, env)
        self._kept: Batch | None = None  # None: reset is needed

    def _visit(self, observation: Any, asked: bool) -> Batch:
        return self._mechanism.visit(stack(self.observation_space, [observation]), np.array([asked]))

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        """Start an episode of the environment, whose observation and info are unchanged."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._kept = None  # if the visit fails, nothing of the last episode remains
        self._kept = self._visit(observation, True)
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Info]:
        """Step the environment: (its observation, the reward, its terminated, its truncated, its info and the terms)."""
        before = self._kept
        if before is None:
            raise EpisodeEndedError("the episode has ended or was never started: call reset() before step()")
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._kept = None  # after a failure below the episode cannot continue
        own = float(reward)
        after = self._visit(observation, not terminated)
        ends = np.array([terminated], dtype=np.bool_), np.array([truncated], dtype=np.bool_)
        given = EnvStep(before, stack(self.action_space, [action]), after, np.array([own]), *ends)
        rewards, terms = self._mechanism.apply(given)  # [1], each [1]
        logged = dict.fromkeys(OWN, own) | info
        for key, term in terms.items():
            if key in logged:
                _refuse_clash(key)
            logged[key] = float(term[0])
        self._kept = None if terminated else after
        return observation, float(rewards[0]), terminated, truncated, logged


def _autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """Return the autoreset mode of ``env``. Raises ValueError where its metadata has none."""
    mode = env.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        raise ValueError(
            f"{env} has the autoreset_mode {mode!r} in its metadata: set it to an AutoresetMode, "
            "which says where a step's next observation is"
        )
    return mode


def _log(info: Info, key: str, column: FloatArray, mask: BoolArray) -> None:
    """Write ``column`` [B] into ``info`` where ``mask`` [B] is True, with Gymnasium's masks.

    An existing entry is kept if it is the environment's own reward, and refused otherwise.
    """
    if not mask.any():
        return
    present = np.zeros(len(mask), dtype=np.bool_)
    if key in info:
        present = np.array(info.get(f"_{key}", ~present), dtype=np.bool_)
    if key not in OWN and (present & mask).any():
        _refuse_clash(key)
    new = mask & ~present
    info[key] = np.where(new, column, info[key]) if key in info else np.where(new, column, 0.0)
    info[f"_{key}"] = present | mask


class _VectorRewardWrapper(VectorWrapper):
    """A vector environment whose rewards a mechanism changes, separately for each sub-environment.

    A step that only resets a sub-environment (NEXT_STEP, the step after an end) is not scored, shaped or logged. Where a
    sub-environment is reset in the step that ends it (SAME_STEP), the next observation is ``info["final_obs"]`` and the
    terms are in ``info["final_info"]``. The spec of a Gymnasium vector environment holds no wrappers.
    """

    _mechanism: Mechanism

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self._mode = _autoreset_mode(env)
        self._kept: Batch | None = None  # None: every sub-environment needs a reset
        self._over = np.zeros(
            self.num_envs, dtype=np.bool_
        )  # [B], sub-environments whose next step is a reset

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Info | None = None
    ) -> tuple[Batch, Info]:
        """Start an episode in every sub-environment, or in those of ``options["reset_mask"]``, bool [B].

        Raises:
            EpisodeEndedError: a mask, where every sub-environment needs a reset.
        """
        every_env = np.ones(self.num_envs, dtype=np.bool_)
        mask = self._reset_mask(options)
        observation, info = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        kept, self._kept = self._kept, None  # if the visit fails, nothing of the last episodes remains
        visited = self._mechanism.visit(observation, every_env if mask is None else mask)
        if mask is not None and kept is not None:
            rows, space = np.flatnonzero(mask), self.single_observation_space
            visited = put_rows(space, kept, rows, take_rows(space, visited, rows))
        self._kept = visited
        self._over = self._over & ~(every_env if mask is None else mask)
        return observation, info

    def _reset_mask(self, options: Info | None) -> BoolArray | None:
        """Return the reset mask in ``options``, bool [B]; None for all sub-environments."""
        mask = (options or {}).get("reset_mask")
        # In SAME_STEP no sub-environment waits for a reset, and an environment may ignore a mask: all are visited.
        if mask is None or self._mode is AutoresetMode.SAME_STEP:
            return None
        if self._kept is None and not np.all(mask):
            raise EpisodeEndedError(
                f"reset_mask is {mask}, but no sub-environment has started: reset all of them first"
            )
        return np.asarray(mask, dtype=np.bool_)

    def step(self, actions: Any) -> tuple[Batch, FloatArray, Any, Any, Info]:
        """Step every sub-environment: (observations, rewards float64 [B], terminated [B], truncated [B], info with terms).

        Raises:
            EpisodeEndedError: before the first reset, or a sub-environment has terminated and was not reset (DISABLED).
        """
        before, live = self._check_begun(), np.flatnonzero(~self._over)
        observation, reward, terminated, truncated, info = self.env.step(actions)
        self._kept = None  # after a failure below no episode can continue
        own = np.array(reward, dtype=np.float64)
        over, cut = np.array(terminated, dtype=np.bool_), np.array(truncated, dtype=np.bool_)
        resets = (over | cut) & (self._mode is AutoresetMode.SAME_STEP)
        visited = self._mechanism.visit(observation, ~over | resets)
        arrived = self._see_ends(visited, over, resets, info) if resets.any() else visited
        given = EnvStep(before, copy_batch(self.single_action_space, actions), arrived, own, over, cut)
        rewards, terms = self._apply(given, live)
        info = self._logged(info, dict.fromkeys(OWN, own) | terms, live, resets)
        self._kept = visited
        self._over = {
            AutoresetMode.SAME_STEP: np.zeros_like(over),
            AutoresetMode.NEXT_STEP: over | cut,
            AutoresetMode.DISABLED: over,
        }[self._mode]
        return observation, rewards, terminated, truncated, info

    def _check_begun(self) -> Batch:
        """Return the stored last observations. Raises EpisodeEndedError where a sub-environment cannot continue."""
        if self._kept is None:
            raise EpisodeEndedError("the sub-environments were never started: call reset() before step()")
        if self._mode is AutoresetMode.DISABLED and self._over.any():
            raise EpisodeEndedError(
                f"sub-environments {np.flatnonzero(self._over).tolist()} have terminated: reset them by "
                'reset(options={"reset_mask": ...}) before step()'
            )
        return self._kept

    def _see_ends(self, visited: Batch, over: BoolArray, resets: BoolArray, info: Info) -> Batch:
        """Return ``visited`` with the final observations of the sub-environments where ``resets`` [B] is True."""
        rows, space = np.flatnonzero(resets), self.single_observation_space
        finals = info.get("final_obs", np.full(self.num_envs, None))
        last = [finals[row] for row in rows]
        if any(one is None for one in last):
            raise ValueError(
                f"sub-environments {rows.tolist()} of {self.env} ended and its info has no final_obs of each: "
                "give them, as the autoreset_mode SAME_STEP requires"
            )
        return put_rows(space, visited, rows, self._mechanism.visit(stack(space, last), ~over[rows]))

    def _apply(self, step: EnvStep, live: IntArray) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Return the rewards and the terms, each [B]; sub-environments that are not ``live`` keep their own reward."""
        rewards = step.reward.copy()  # [B]
        if not live.size:
            return rewards, {}
        if live.size < len(rewards):
            seen, acted = self.single_observation_space, self.single_action_space
            spaces = seen, acted, seen, *[seen] * 3  # rows of an array do not depend on the space
            step = EnvStep(*(take_rows(space, part, live) for space, part in zip(spaces, step, strict=True)))
        rewards[live], terms = self._mechanism.apply(step)
        columns = {key: np.zeros(len(rewards)) for key in terms}
        for key, term in terms.items():
            columns[key][live] = term
        return rewards, columns

    def _logged(
        self, info: Info, columns: Mapping[str, FloatArray], live: IntArray, resets: BoolArray
    ) -> Info:
        """Return ``info`` with ``columns`` [B] of the ``live`` sub-environments; where ``resets`` [B], in final_info."""
        info, real = dict(info), np.zeros(self.num_envs, dtype=np.bool_)
        real[live] = True
        final = dict(info.get("final_info", {}))
        for key, column in columns.items():
            _log(info, key, column, real & ~resets)
            _log(final, key, column, resets)
        if resets.any():
            info["final_info"], info["_final_info"] = final, resets
        return info


class AddRewards(_RewardWrapper):
    """Named reward functions added to an environment's own reward, as float64.

    The reward is, by definition, keep * the environment's own + the weighted scores, added in the order of the
    reward functions. Unless they form a potential-based term the optimal policy changes, and agents exploit every error
    of a reward function. Info has ``reward/NAME`` and ``reward/NAME/weighted`` of each reward function, and
    ``reward/env`` and ``gold``: the environment's own reward, unless it (or a wrapper of this file below) logs them itself.

    Args:
        env: any ``gym.Env``.
        sources: pairs of a reward function and its weight; ``StepFunction`` makes one of a Python function.
        keep: the weight of the environment's own reward.

    Raises:
        SourceContractError: an object that is not a reward function, or names that clash; from ``step``, a result that is
            not finite float64 [B] in the stated range. Then the episode cannot continue.
        ValueError: a weight that is not a finite number. EpisodeEndedError: ``step`` before ``reset`` or after
            termination.
    """

    def __init__(
        self, env: gym.Env[Any, Any], sources: Sequence[tuple[StepSource, float]], keep: float = 1.0
    ) -> None:
        sources = tuple(sources)
        check_weighted(sources, keep)
        super().__init__(env, sources=sources, keep=keep)
        self._mechanism = Scoring(self.observation_space, self.action_space, sources, keep)


class MonitorRewards(_RewardWrapper):
    """Named reward functions that are only logged; the environment's own reward is unchanged (as float64).

    Info has ``reward/NAME`` of each reward function, ``reward/env`` and ``gold``; arguments and errors as for
    ``AddRewards``.
    """

    def __init__(self, env: gym.Env[Any, Any], sources: Sequence[StepSource]) -> None:
        sources = tuple(sources)
        check_step_sources(sources)
        super().__init__(env, sources=sources)
        watched = tuple((source, None) for source in sources)
        self._mechanism = Scoring(self.observation_space, self.action_space, watched)


class PotentialShaping(_RewardWrapper):
    """An environment's own reward + discount * Phi(next observation) - Phi(observation), as float64.

    Phi of a terminal observation is 0 and is not computed; at a truncation Phi stays, because the learner bootstraps
    there. Then V' = V - Phi and every optimal policy stays optimal, *if* ``discount`` is the agent's, the potential does
    not change during training, and the reward is not clipped or rescaled afterwards. Each potential is computed once.
    Info has ``reward/shaping``, ``reward/env`` and ``gold``.

    Args:
        env: any ``gym.Env``.
        potential: of observations; ``ObservationFunction`` makes one of a Python function.
        discount: the agent's, above 0 and at most 1.

    Raises:
        SourceContractError: an object that is not a potential; from ``step`` and ``reset``, a result that is not finite
            float64 [B]. ValueError: a discount out of range. EpisodeEndedError: as for ``AddRewards``.

    Source: Ng, Harada and Russell 1999, "Policy invariance under reward transformations".
    """

    def __init__(self, env: gym.Env[Any, Any], potential: ObservationPotential, discount: float) -> None:
        super().__init__(env, potential=potential, discount=discount)
        self._mechanism = Shaping(
            self.observation_space, check_potential(potential), check_discount(discount)
        )


class AddRewardsVector(_VectorRewardWrapper):
    """``AddRewards`` for a vector environment; arguments, infos and errors are those of the scalar wrapper."""

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        sources: Sequence[tuple[StepSource, float]],
        keep: float = 1.0,
    ) -> None:
        sources = tuple(sources)
        check_weighted(sources, keep)
        super().__init__(env)
        self._mechanism = Scoring(self.single_observation_space, self.single_action_space, sources, keep)


class MonitorRewardsVector(_VectorRewardWrapper):
    """``MonitorRewards`` for a vector environment; arguments, infos and errors are those of the scalar wrapper."""

    def __init__(self, env: VectorEnv[Any, Any, Any], sources: Sequence[StepSource]) -> None:
        sources = tuple(sources)
        check_step_sources(sources)
        super().__init__(env)
        watched = tuple((source, None) for source in sources)
        self._mechanism = Scoring(self.single_observation_space, self.single_action_space, watched)


class PotentialShapingVector(_VectorRewardWrapper):
    """``PotentialShaping`` for a vector environment; arguments, infos and errors are those of the scalar wrapper."""

    def __init__(
        self, env: VectorEnv[Any, Any, Any], potential: ObservationPotential, discount: float
    ) -> None:
        super().__init__(env)
        self._mechanism = Shaping(
            self.single_observation_space, check_potential(potential), check_discount(discount)
        )
