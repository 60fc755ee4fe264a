"""What every finite environment is made of: one pure, batched transition, and the checks at its door.

Shape letters used throughout: B batch (lanes), T time, S states, A actions, K outcomes of the noise, V vocabulary.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class Transition(NamedTuple):
    """One step of B lanes."""

    next_state: IntArray  # [B]
    terminated: BoolArray  # [B]
    rewards: Mapping[str, FloatArray]  # named channels, each [B]; "gold" is the true reward


class TransitionModel(Protocol):
    """A finite environment as data and one pure function: no generator inside, the noise is an argument."""

    @property
    def n_states(self) -> int:
        """Return S."""

    @property
    def n_actions(self) -> int:
        """Return A."""

    @property
    def n_outcomes(self) -> int:
        """Return K, 1 where nothing is random."""

    @property
    def start_distribution(self) -> FloatArray:
        """Return the probability of each starting state, [S]."""

    def transition(self, state: IntArray, action: IntArray, outcome: IntArray | int) -> Transition:
        """Return the step of B lanes from ``state`` [B] under ``action`` [B] with noise ``outcome`` [B] in 0..K-1."""

    def outcome_probability(self, state: IntArray, action: IntArray) -> FloatArray:
        """Return the probability of each outcome, [B, K]; rows sum to 1."""


class InvalidActionError(ValueError, gym.error.InvalidAction):
    """An action that the environment does not take. The environment's state is as it was."""


class EpisodeEndedError(ValueError, gym.error.ResetNeeded):
    """A step before the first reset or after termination. The environment's state is as it was."""


def check_action(action: object, n_actions: int) -> int:
    """Return ``action`` as an int: accepts int, numpy integers and 0-d integer arrays (SB3's ``predict``).

    Raises:
        InvalidActionError: a bool, a float, NaN, any other shape, or out of range.
    """
    if isinstance(action, np.ndarray) and action.shape == ():
        action = action[()]
    if isinstance(action, (bool, np.bool_)) or not isinstance(action, (int, np.integer)):
        shown = (
            f"array of shape {action.shape}"
            if isinstance(action, np.ndarray)
            else f"{type(action).__name__} {action!r}"
        )
        raise InvalidActionError(f"action is {shown}: give an integer from 0 to {n_actions - 1}")
    if not 0 <= action < n_actions:
        raise InvalidActionError(
            f"action {int(action)} is out of range: give an integer from 0 to {n_actions - 1}"
        )
    return int(action)


def check_actions(actions: object, num_envs: int, n_actions: int) -> IntArray:
    """Return ``actions`` as int64 [num_envs], each in 0..n_actions-1. Raises InvalidActionError, naming the lane."""
    try:
        array = np.asarray(actions)
    except ValueError:  # a ragged list
        array = np.empty(num_envs, dtype=object)
    if array.shape != (num_envs,) or array.dtype.kind not in "iu":
        raise InvalidActionError(
            f"actions have shape {array.shape} and dtype {array.dtype}: give {num_envs} integers from 0 to {n_actions - 1}"
        )
    checked: IntArray = array.astype(np.int64, copy=False)
    # Read without sign, a negative action is a huge one: a single pass finds both ends of the range.
    if checked.view(np.uint64).max() >= n_actions:
        lane = int(np.flatnonzero((array < 0) | (array >= n_actions))[0])
        raise InvalidActionError(
            f"action {int(array[lane])} of lane {lane} is out of range: give integers from 0 to {n_actions - 1}"
        )
    return checked


def sample_outcomes(probability: FloatArray, draw: FloatArray) -> IntArray:
    """Return the outcome of each lane by inversion: ``probability`` [B, K], ``draw`` [B] in [0, 1)."""
    cumulative = np.cumsum(probability, axis=1)
    # A sum that ends just below 1 must not let a draw fall past the last outcome.
    outcome: IntArray = np.minimum((draw[:, None] >= cumulative).sum(axis=1), probability.shape[1] - 1)
    return outcome


def check_num_envs(num_envs: object) -> int:
    """Return the number of lanes. Raises ValueError unless it is an integer of 1 or more."""
    if isinstance(num_envs, bool) or not isinstance(num_envs, (int, np.integer)) or num_envs < 1:
        raise ValueError(f"num_envs is {num_envs!r}: give an integer of 1 or more")
    return int(num_envs)


def check_time_limit(max_episode_steps: object) -> int | None:
    """Return the limit, None for None or -1 (``gym.make``'s word for none). Raises ValueError for anything else below 1."""
    if max_episode_steps is None or max_episode_steps == -1:
        return None
    if (
        isinstance(max_episode_steps, bool)
        or not isinstance(max_episode_steps, (int, np.integer))
        or max_episode_steps < 1
    ):
        raise ValueError(
            f"max_episode_steps is {max_episode_steps!r}: give an integer of 1 or more, or None for no limit"
        )
    return int(max_episode_steps)


def check_render_mode(render_mode: str | None) -> str | None:
    """Return ``render_mode``. Raises ValueError unless it is None or "ansi"."""
    if render_mode not in (None, "ansi"):
        raise ValueError(f"render_mode is {render_mode!r}: give 'ansi' or None")
    return render_mode
