"""A reward, a reward log or a potential on anybody's Gymnasium environment, of one lane or of many.

``AddRewards``, ``MonitorRewards`` and ``PotentialShaping`` wrap a ``gym.Env``. ``AddRewardsVector``,
``MonitorRewardsVector`` and ``PotentialShapingVector`` wrap a vector environment in any of Gymnasium's autoreset modes
and do in each lane, infos included, what their twin does in the lane's own environment.

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
        f"{key!r} is in the environment's info already: rename the source, or make one potential of two"
    )


class _PaidEnv(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """An environment whose rewards pass through a mechanism."""

    _mechanism: Mechanism

    def __init__(self, env: gym.Env[Any, Any], **arguments: Any) -> None:
        # Not copied: an argument may hold a network.
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, **arguments)
        gym.Wrapper.__init__(self, env)
        self._kept: Batch | None = None  # None: reset is needed

    def _visit(self, observation: Any, asked: bool) -> Batch:
        return self._mechanism.visit(stack(self.observation_space, [observation]), np.array([asked]))

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        """Start an episode of the environment, whose observation and info come back as they are."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._kept = None  # should the visit fail, nothing of the last episode is left
        self._kept = self._visit(observation, True)
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Info]:
        """Step the environment: (its observation, the reward, its terminated, its truncated, its info and the terms)."""
        before = self._kept
        if before is None:
            raise EpisodeEndedError("the episode has ended or was never started: call reset() before step()")
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._kept = None  # whatever fails from here on, the episode cannot go on
        own = float(reward)
        after = self._visit(observation, not terminated)
        ends = np.array([terminated], dtype=np.bool_), np.array([truncated], dtype=np.bool_)
        given = EnvStep(before, stack(self.action_space, [action]), after, np.array([own]), *ends)
        paid, terms = self._mechanism.pay(given)
        logged = dict.fromkeys(OWN, own) | info
        for key, term in terms.items():
            if key in logged:
                _refuse_clash(key)
            logged[key] = float(term[0])
        self._kept = None if terminated else after
        return observation, float(paid[0]), terminated, truncated, logged


def _autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """Return how ``env`` resets lanes that end. Raises ValueError where it does not say."""
    mode = env.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        raise ValueError(
            f"{env} has the autoreset_mode {mode!r} in its metadata: set it to what it does, an AutoresetMode, "
            "because what a lane's step led to cannot be told without it"
        )
    return mode


def _log(info: Info, key: str, column: FloatArray, mask: BoolArray) -> None:
    """Write ``column`` [B] into ``info`` where ``mask`` [B] says so, by Gymnasium's convention of masks.

    What stands there already is kept if it is the environment's own reward, and else refused.
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


class _PaidVectorEnv(VectorWrapper):
    """A vector environment whose rewards pass through a mechanism, lane by lane.

    A step of a lane is real unless it merely resets the lane (NEXT_STEP, in the step after an end), which is neither
    scored nor shaped nor logged. Where a lane is reset in the step that ends it (SAME_STEP), the step led to
    ``info["final_obs"]``, and what it logs is in ``info["final_info"]``. Gymnasium's vector environments tell no
    wrapper in their spec, so this one is in none.
    """

    _mechanism: Mechanism

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self._mode = _autoreset_mode(env)
        self._kept: Batch | None = None  # None: every lane needs a reset
        self._over = np.zeros(self.num_envs, dtype=np.bool_)  # lanes whose next step cannot be a real one

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Info | None = None
    ) -> tuple[Batch, Info]:
        """Start an episode in every lane, or in those of ``options["reset_mask"]``, bool [B].

        Raises:
            EpisodeEndedError: a mask, where every lane needs a reset.
        """
        every_env = np.ones(self.num_envs, dtype=np.bool_)
        mask = self._reset_mask(options)
        observation, info = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        kept, self._kept = self._kept, None  # should the visit fail, nothing of the last episodes is left
        visited = self._mechanism.visit(observation, every_env if mask is None else mask)
        if mask is not None and kept is not None:
            rows, space = np.flatnonzero(mask), self.single_observation_space
            visited = put_rows(space, kept, rows, take_rows(space, visited, rows))
        self._kept = visited
        self._over = self._over & ~(every_env if mask is None else mask)
        return observation, info

    def _reset_mask(self, options: Info | None) -> BoolArray | None:
        """Return the mask in ``options``, from where the environment will take it; None for all lanes."""
        mask = (options or {}).get("reset_mask")
        # In SAME_STEP no lane waits for a reset, and an environment may take no notice of a mask: all are visited.
        if mask is None or self._mode is AutoresetMode.SAME_STEP:
            return None
        if self._kept is None and not np.all(mask):
            raise EpisodeEndedError(f"only {mask} would be reset, but no lane has begun: reset all of them")
        return np.asarray(mask, dtype=np.bool_)

    def step(self, actions: Any) -> tuple[Batch, FloatArray, Any, Any, Info]:
        """Step every lane: (observations, rewards float64 [B], terminated [B], truncated [B], info and the terms).

        Raises:
            EpisodeEndedError: before the first reset, or a lane has terminated and nobody resets it (DISABLED).
        """
        before, live = self._check_begun(), np.flatnonzero(~self._over)
        observation, reward, terminated, truncated, info = self.env.step(actions)
        self._kept = None  # whatever fails from here on, no episode can go on
        own = np.array(reward, dtype=np.float64)
        over, cut = np.array(terminated, dtype=np.bool_), np.array(truncated, dtype=np.bool_)
        resets = (over | cut) & (self._mode is AutoresetMode.SAME_STEP)
        visited = self._mechanism.visit(observation, ~over | resets)
        arrived = self._see_ends(visited, over, resets, info) if resets.any() else visited
        given = EnvStep(before, copy_batch(self.single_action_space, actions), arrived, own, over, cut)
        paid, terms = self._pay(given, live)
        info = self._logged(info, dict.fromkeys(OWN, own) | terms, live, resets)
        self._kept = visited
        self._over = {
            AutoresetMode.SAME_STEP: np.zeros_like(over),
            AutoresetMode.NEXT_STEP: over | cut,
            AutoresetMode.DISABLED: over,
        }[self._mode]
        return observation, paid, terminated, truncated, info

    def _check_begun(self) -> Batch:
        """Return what was kept of the last observations. Raises EpisodeEndedError where a lane cannot go on."""
        if self._kept is None:
            raise EpisodeEndedError("the lanes were never started: call reset() before step()")
        if self._mode is AutoresetMode.DISABLED and self._over.any():
            raise EpisodeEndedError(
                f"lanes {np.flatnonzero(self._over).tolist()} have terminated: reset them by "
                'reset(options={"reset_mask": ...}) before step()'
            )
        return self._kept

    def _see_ends(self, visited: Batch, over: BoolArray, resets: BoolArray, info: Info) -> Batch:
        """Return ``visited`` with the last observations in the place of those of the lanes that ``resets`` [B] names."""
        rows, space = np.flatnonzero(resets), self.single_observation_space
        finals = info.get("final_obs", np.full(self.num_envs, None))
        last = [finals[row] for row in rows]
        if any(one is None for one in last):
            raise ValueError(
                f"lanes {rows.tolist()} of {self.env} ended and its info has no final_obs of each: "
                "its autoreset_mode SAME_STEP promises that"
            )
        return put_rows(space, visited, rows, self._mechanism.visit(stack(space, last), ~over[rows]))

    def _pay(self, step: EnvStep, live: IntArray) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Return the rewards and the terms, each [B]; lanes that are not ``live`` keep their own reward."""
        paid = step.reward.copy()
        if not live.size:
            return paid, {}
        if live.size < len(paid):
            seen, acted = self.single_observation_space, self.single_action_space
            spaces = seen, acted, seen, *[seen] * 3  # an array is taken by its rows whatever the space
            step = EnvStep(*(take_rows(space, part, live) for space, part in zip(spaces, step, strict=True)))
        paid[live], terms = self._mechanism.pay(step)
        columns = {key: np.zeros(len(paid)) for key in terms}
        for key, term in terms.items():
            columns[key][live] = term
        return paid, columns

    def _logged(
        self, info: Info, columns: Mapping[str, FloatArray], live: IntArray, resets: BoolArray
    ) -> Info:
        """Return ``info`` with ``columns`` [B] of the ``live`` lanes, of those which ``resets`` names in final_info."""
        info, real = dict(info), np.zeros(self.num_envs, dtype=np.bool_)
        real[live] = True
        final = dict(info.get("final_info", {}))
        for key, column in columns.items():
            _log(info, key, column, real & ~resets)
            _log(final, key, column, resets)
        if resets.any():
            info["final_info"], info["_final_info"] = final, resets
        return info


class AddRewards(_PaidEnv):
    """Named sources paid on top of an environment's own reward, as float64.

    The reward is, by definition, keep * the environment's own + the weighted scores, added in the order of the
    sources. Unless they form a potential-based term this moves the optimum, and whatever a source can be brought to
    pay will be found. Info has ``reward/NAME`` and ``reward/NAME/weighted`` of each source, and ``reward/env`` and
    ``gold``: the environment's own reward, unless it (or a wrapper of this file below) logs them itself.

    Args:
        env: any ``gym.Env``.
        sources: each with its weight; a function becomes one by ``StepFunction``.
        keep: the weight of the environment's own reward.

    Raises:
        SourceContractError: what is no source, or names that clash; from ``step`` a source that returned anything but
            finite float64 [B] in its range, with its name and what it was given. Then the episode cannot go on.
        ValueError: a weight that is no finite number. EpisodeEndedError: ``step`` before ``reset`` or after
            termination.
    """

    def __init__(
        self, env: gym.Env[Any, Any], sources: Sequence[tuple[StepSource, float]], keep: float = 1.0
    ) -> None:
        sources = tuple(sources)
        check_weighted(sources, keep)
        super().__init__(env, sources=sources, keep=keep)
        self._mechanism = Scoring(self.observation_space, self.action_space, sources, keep)


class MonitorRewards(_PaidEnv):
    """Named sources logged beside an environment's own reward, which is paid as it is (as float64).

    Info has ``reward/NAME`` of each source, ``reward/env`` and ``gold``; arguments and errors as for ``AddRewards``.
    """

    def __init__(self, env: gym.Env[Any, Any], sources: Sequence[StepSource]) -> None:
        sources = tuple(sources)
        check_step_sources(sources)
        super().__init__(env, sources=sources)
        watched = tuple((source, None) for source in sources)
        self._mechanism = Scoring(self.observation_space, self.action_space, watched)


class PotentialShaping(_PaidEnv):
    """An environment's own reward + discount * Phi(next observation) - Phi(observation), as float64.

    Phi of a terminal observation is 0 and is never asked for; at a truncation Phi stays, because the learner bootstraps
    there. Then V' = V - Phi and every optimal policy stays optimal, *if* ``discount`` is the agent's, the potential
    does not change while it is learned from, and nothing clips or rescales the reward afterwards. Each observation's
    potential is asked for once, when it is visited. Info has ``reward/shaping``, ``reward/env`` and ``gold``.

    Args:
        env: any ``gym.Env``.
        potential: of observations; a function becomes one by ``ObservationFunction``.
        discount: the agent's, above 0 and at most 1.

    Raises:
        SourceContractError: what is no potential; from ``step`` and ``reset`` one that returned anything but finite
            float64 [B]. ValueError: a discount out of range. EpisodeEndedError: as for ``AddRewards``.

    Source: Ng, Harada and Russell 1999, "Policy invariance under reward transformations".
    """

    def __init__(self, env: gym.Env[Any, Any], potential: ObservationPotential, discount: float) -> None:
        super().__init__(env, potential=potential, discount=discount)
        self._mechanism = Shaping(
            self.observation_space, check_potential(potential), check_discount(discount)
        )


class AddRewardsVector(_PaidVectorEnv):
    """``AddRewards`` for a vector environment; arguments, infos and errors are those of its twin."""

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


class MonitorRewardsVector(_PaidVectorEnv):
    """``MonitorRewards`` for a vector environment; arguments, infos and errors are those of its twin."""

    def __init__(self, env: VectorEnv[Any, Any, Any], sources: Sequence[StepSource]) -> None:
        sources = tuple(sources)
        check_step_sources(sources)
        super().__init__(env)
        watched = tuple((source, None) for source in sources)
        self._mechanism = Scoring(self.single_observation_space, self.single_action_space, watched)


class PotentialShapingVector(_PaidVectorEnv):
    """``PotentialShaping`` for a vector environment; arguments, infos and errors are those of its twin."""

    def __init__(
        self, env: VectorEnv[Any, Any, Any], potential: ObservationPotential, discount: float
    ) -> None:
        super().__init__(env)
        self._mechanism = Shaping(
            self.single_observation_space, check_potential(potential), check_discount(discount)
        )
