"""A native Gymnasium vector environment as a Stable-Baselines3 ``VecEnv``: one call per step for all sub-environments."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices

from tokenwalk.agents.runs.progress import EPISODE_WINDOW
from tokenwalk.envs.arrays import BoolArray

ARRAY_SPACES = (gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary, gym.spaces.Box)
_MASKS = "action_masks"  # the name that sb3-contrib asks for
_FINAL = ("final_obs", "final_info")
_TERMS = "reward/"  # prefix of the entries of info that hold a reward term


class UnsupportedVectorEnvError(ValueError):
    """A vector environment, or a request to it, that SB3's interface cannot express."""


class NativeVecEnv(VecEnv):
    """B sub-environments stepped at once, with the same results as SB3's ``DummyVecEnv`` over Monitors.

    A sub-environment that ends is reset in the same step: its last observation is ``info["terminal_observation"]``,
    ``info["TimeLimit.truncated"]`` is ``truncated and not terminated``, and ``info["episode"]`` holds the
    return r (undiscounted, 6 digits), the length l (steps) and the time t (seconds since this adapter was
    made). After ``seed(s)`` the next reset gives sub-environment i the seed s + i; later resets continue
    its own stream. Observations keep their dtype, rewards are float32 [B].

    Args:
        vector_env: B sub-environments whose ``metadata["autoreset_mode"]`` is SAME_STEP or DISABLED and whose
            observations are arrays (Discrete, MultiDiscrete, MultiBinary, Box).

    Raises:
        UnsupportedVectorEnvError: another autoreset mode (NEXT_STEP loses a step), or other observations.

    Source: Stable-Baselines3's VecEnv contract; Gymnasium's AutoresetMode.
    """

    def __init__(self, vector_env: VectorEnv[Any, Any, Any]) -> None:
        self._resets_itself = _check_autoreset(vector_env) is AutoresetMode.SAME_STEP
        if not isinstance(vector_env.single_observation_space, ARRAY_SPACES):
            raise UnsupportedVectorEnvError(
                f"{vector_env} observes {vector_env.single_observation_space}, which is no array: "
                "give Discrete, MultiDiscrete, MultiBinary or Box, or step single environments"
            )
        self.vector_env = vector_env
        super().__init__(
            vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space
        )
        self._made = time.perf_counter()
        self._actions: npt.NDArray[Any] = np.empty(0)
        self._now = 0  # steps since the last reset of all
        self._begun = np.zeros(self.num_envs, dtype=np.int64)  # `_now` when each episode began
        self._returns = np.zeros(self.num_envs)
        self._mask: BoolArray | None = None  # [B, A] of the last infos, None where they have none
        self._sums: dict[str, npt.NDArray[np.float64]] = {}  # each term so far in each current episode, [B]
        self._terms: deque[dict[str, float]] = deque(maxlen=EPISODE_WINDOW)

    def reset(self) -> npt.NDArray[Any]:
        """Start an episode in every sub-environment and return the observations [B, ...]; seeds and options apply once.

        Raises:
            UnsupportedVectorEnvError: options that differ between sub-environments.
        """
        options = self._options[0]
        if any(other != options for other in self._options):
            raise UnsupportedVectorEnvError(
                "the sub-environments have different options: set one dictionary for all"
            )
        # seed() gave sub-environment i the seed s + i, which is what Gymnasium means by the one integer s.
        observations, info = self.vector_env.reset(seed=self._seeds[0], options=dict(options) or None)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = env_infos(info, self.num_envs)
        self._mask = None
        self._note_masks(info)
        self._now = 0
        self._begun[:] = 0
        self._returns[:] = 0.0
        self._sums.clear()
        return np.array(observations)

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Store the actions [B, ...] for ``step_wait``."""
        self._actions = actions

    def step_wait(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32], BoolArray, list[dict[str, Any]]]:
        """Step all: (observations [B, ...], rewards float32 [B], ended bool [B], an info for each)."""
        observations, rewards, terminated, truncated, info = self.vector_env.step(self._actions)
        # A copy: the environment may write into its buffer while SB3 still holds the last observations.
        observations = np.array(observations)
        self._now += 1
        self._returns += rewards
        self._note_masks(info)
        ended: BoolArray = np.logical_or(terminated, truncated)
        self._add_terms(info, ended)
        if not ended.any():
            infos = env_infos(info, self.num_envs)
            for env_info in infos:
                env_info["TimeLimit.truncated"] = False
        else:
            observations, infos = self._end_episodes(observations, ended, info)
            cut = np.logical_and(truncated, np.logical_not(terminated)).tolist()
            for env_info, is_cut in zip(infos, cut, strict=True):
                env_info["TimeLimit.truncated"] = is_cut
        return observations, np.array(rewards, dtype=np.float32), ended, infos

    def _add_terms(self, info: dict[str, Any], ended: BoolArray) -> None:
        """Add each reward term of this step to its episode's sum; keep the sums of the episodes that ``ended``."""
        last = info.get("final_info", {})
        # Where every episode ends in this step, Gymnasium's SyncVectorEnv has the terms in final_info alone.
        for key in dict.fromkeys(key for key in (*info, *last) if key.startswith(_TERMS)):
            sums = self._sums.setdefault(key, np.zeros(self.num_envs))  # [B]
            sums += np.where(ended, last[key], info.get(key, 0.0)) if key in last else info[key]
        if not self._sums:
            return
        for env_index in np.flatnonzero(ended).tolist():
            self._terms.append({key: float(sums[env_index]) for key, sums in self._sums.items()})
        for sums in self._sums.values():
            sums[ended] = 0.0

    @property
    def terms(self) -> dict[str, float]:
        """Return the mean over the last 100 episodes of each term's sum, raw and weighted, by its key in ``info``."""
        keys = self._terms[0] if self._terms else {}
        return {key: float(np.mean([one[key] for one in self._terms])) for key in keys}

    def _end_episodes(
        self, observations: npt.NDArray[Any], ended: BoolArray, info: dict[str, Any]
    ) -> tuple[npt.NDArray[Any], list[dict[str, Any]]]:
        """Return the observations after the reset [B, ...] and the infos of the step before it."""
        if self._resets_itself:
            beside = {key: value for key, value in info.items() if key.removeprefix("_") not in _FINAL}
            infos = reset_infos = env_infos(beside, self.num_envs)  # where an episode ended: the reset's
            last_infos = env_infos(info.get("final_info", {}), self.num_envs)
            last_observations = info["final_obs"]
        else:
            infos = last_infos = env_infos(info, self.num_envs)
            last_observations = observations
            after, reset_info = self.vector_env.reset(options={"reset_mask": ended.copy()})
            observations = np.array(after)
            self._note_masks(reset_info)
            reset_infos = env_infos(reset_info, self.num_envs)
        seconds = round(time.perf_counter() - self._made, 6)
        for env_index in np.flatnonzero(ended).tolist():
            self.reset_infos[env_index], info_at_end = reset_infos[env_index], last_infos[env_index]
            infos[env_index] = info_at_end
            info_at_end["terminal_observation"] = last_observations[env_index]
            length = int(self._now - self._begun[env_index])
            return_ = round(float(self._returns[env_index]), 6)
            info_at_end["episode"] = {"r": return_, "l": length, "t": seconds}
        self._begun[ended] = self._now
        self._returns[ended] = 0.0
        return observations, infos

    def action_masks(self) -> BoolArray:
        """Return which actions are available in the observation just returned, bool [B, A].

        From the vector environment's ``action_masks()``, else from ``info["action_mask"]``, else all true.
        """
        if hasattr(self.vector_env.unwrapped, _MASKS):
            return np.array(self._own(_MASKS)(), dtype=np.bool_)
        if self._mask is not None:
            return self._mask.copy()
        return np.ones((self.num_envs, _mask_width(self.action_space)), dtype=np.bool_)

    def _note_masks(self, info: dict[str, Any]) -> None:
        """Keep the masks that came with the observations; where only some sub-environments have one, update those."""
        if "action_mask" in info:
            rows = np.array(info["action_mask"], dtype=np.bool_)
            present = np.asarray(info.get("_action_mask", np.ones(self.num_envs)), dtype=np.bool_)
            before = np.ones_like(rows) if self._mask is None else self._mask
            self._mask = np.where(present[:, None], rows, before)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return the attribute of each sub-environment; where all are one object, the object's attribute for each.

        Raises:
            AttributeError: there is no such attribute.
        """
        if attr_name == _MASKS:
            values: Sequence[Any] = [partial(self._mask_of, env_index) for env_index in range(self.num_envs)]
        elif hasattr(self.vector_env.unwrapped, "get_attr"):
            values = self.vector_env.unwrapped.get_attr(attr_name)
        else:
            values = [self._own(attr_name)] * self.num_envs
        return [values[env_index] for env_index in self._get_indices(indices)]

    def _mask_of(self, env_index: int) -> BoolArray:
        row: BoolArray = self.action_masks()[env_index]
        return row

    def _own(self, name: str) -> Any:
        """Return the vector environment's own attribute; its wrappers do not pass names on by themselves."""
        return getattr(self.vector_env if hasattr(self.vector_env, name) else self.vector_env.unwrapped, name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set the attribute of all sub-environments. Raises UnsupportedVectorEnvError for some of them only."""
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise UnsupportedVectorEnvError(f"{attr_name} of sub-environments {indices} only: set it for all")
        if hasattr(self.vector_env.unwrapped, "set_attr"):
            self.vector_env.unwrapped.set_attr(attr_name, [value] * self.num_envs)
        else:
            setattr(self.vector_env.unwrapped, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call the method once for all and return the result of each sub-environment in ``indices``.

        Raises:
            UnsupportedVectorEnvError: the method does not return one result per sub-environment.
            AttributeError: there is no such method.
        """
        if method_name == _MASKS:
            method: Callable[..., Any] = self.action_masks
        elif hasattr(self.vector_env.unwrapped, "call"):
            method = partial(self.vector_env.unwrapped.call, method_name)
        else:
            method = self._own(method_name)
        results = method(*method_args, **method_kwargs)
        if not isinstance(results, (tuple, list, np.ndarray)) or len(results) != self.num_envs:
            raise UnsupportedVectorEnvError(
                f"{method_name} of {self.vector_env} returned {type(results).__name__}, not one result for "
                f"each of {self.num_envs} sub-environments: call it on .vector_env"
            )
        return [results[env_index] for env_index in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return True for ``Monitor``, whose statistics the infos carry, and False for any other wrapper."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[npt.NDArray[Any] | None]:
        """Return each sub-environment's picture (``render_mode="rgb_array"``)."""
        return self.env_method("render")

    def close(self) -> None:
        """Close the vector environment."""
        self.vector_env.close()


def env_infos(info: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Return a vector environment's info as one new dictionary per sub-environment.

    An entry ``key`` belongs to the sub-environments where ``_key`` is true, or to all where there is no ``_key``.
    Dictionaries are split in the same way. A value that is not a sequence of B entries is given to all.
    """
    infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, value in info.items():
        if key.startswith("_") and key[1:] in info:
            continue
        if isinstance(value, dict):
            values: Any = env_infos(value, num_envs)
        elif isinstance(value, (np.ndarray, list, tuple)) and len(value) == num_envs:
            values = value
        else:
            values = [value] * num_envs
        present = info.get(f"_{key}")
        for env_index in range(num_envs) if present is None else np.flatnonzero(present).tolist():
            infos[env_index][key] = values[env_index]
    return infos


def _check_autoreset(vector_env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """Return the mode. Raises UnsupportedVectorEnvError unless it is SAME_STEP or DISABLED."""
    mode = vector_env.metadata.get("autoreset_mode")
    if mode is AutoresetMode.SAME_STEP or mode is AutoresetMode.DISABLED:
        return mode
    why = f"metadata['autoreset_mode'] = {mode!r}, so it is not known when its sub-environments are reset"
    if mode is AutoresetMode.NEXT_STEP:
        why = (
            "autoreset mode NEXT_STEP: each reset takes a step of its own, whose action has no effect, "
            "and SB3 would learn from it as from the first step of the new episode"
        )
    raise UnsupportedVectorEnvError(
        f"{vector_env} has {why}. Make it with AutoresetMode.SAME_STEP or AutoresetMode.DISABLED, or step "
        "single environments with SB3's DummyVecEnv"
    )


def _mask_width(space: gym.Space[Any]) -> int:
    """Return the length of one sub-environment's mask as sb3-contrib counts it. Raises UnsupportedVectorEnvError for Box."""
    if isinstance(space, gym.spaces.Discrete):
        return int(space.n)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, gym.spaces.MultiBinary):
        return 2 * int(np.prod(space.shape))
    raise UnsupportedVectorEnvError(
        f"actions {space} have no masks: Discrete, MultiDiscrete, MultiBinary have"
    )
