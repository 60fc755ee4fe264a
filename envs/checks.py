"""Checks of arguments: each returns the converted value, or raises an error with the value, the range and the fix."""

import math
from collections.abc import Sequence
from typing import TypeVar

import gymnasium as gym
import numpy as np

from tokenwalk.envs.arrays import IntArray

Choice = TypeVar("Choice")


class InvalidActionError(ValueError, gym.error.InvalidAction):
    """An action outside the action space. The environment's state is unchanged."""


class UnsupportedSpaceError(ValueError):
    """Observations or actions of a space that an agent cannot take."""


class EpisodeEndedError(ValueError, gym.error.ResetNeeded):
    """A step before the first reset or after termination. The environment's state is unchanged."""


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
    """Return ``actions`` as int64 [num_envs], each in 0..n_actions-1. Raises InvalidActionError otherwise."""
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
        env_index = int(np.flatnonzero((array < 0) | (array >= n_actions))[0])
        raise InvalidActionError(
            f"action {int(array[env_index])} of sub-environment {env_index} is out of range: "
            f"give integers from 0 to {n_actions - 1}"
        )
    return checked


def check_num_envs(num_envs: object) -> int:
    """Return the number of sub-environments. Raises ValueError unless it is an integer of 1 or more."""
    return check_count("num_envs", num_envs)


def check_time_limit(max_episode_steps: object) -> int | None:
    """Return the limit, or None for no limit: None, or -1 as in ``gym.make``.

    Raises:
        ValueError: neither None, -1 nor an integer of 1 or more.
    """
    if max_episode_steps is None or max_episode_steps == -1:
        return None
    return check_count("max_episode_steps", max_episode_steps, none_means="no limit")


def check_render_mode(render_mode: str | None) -> str | None:
    """Return ``render_mode``. Raises ValueError unless it is None or "ansi"."""
    if render_mode not in (None, "ansi"):
        raise ValueError(f"render_mode is {render_mode!r}: give 'ansi' or None")
    return render_mode


def check_seed(seed: object) -> int:
    """Return ``seed`` as an int. Raises ValueError unless it is an integer of 0 or more."""
    return check_count("seed", seed, low=0, none_means="a random one")


def check_number(
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = False,
) -> float:
    """Return ``value`` as a float: accepts int, float and numpy's numbers, but no bool.

    Args:
        name: of the setting, for the error message.
        value: what was given.
        low: smallest number allowed; ``low_open`` forbids ``low`` itself.
        high: largest number allowed; ``high_open`` forbids ``high`` itself.

    Raises:
        ValueError: ``value`` is not a finite number in that range.
    """
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        in_range = (
            low <= value <= high and not (low_open and value == low) and not (high_open and value == high)
        )
        if in_range and -math.inf < value < math.inf:
            return float(value)
    bounds = [] if low == -math.inf else [f"above {low:g}" if low_open else f"of {low:g} or more"]
    bounds += [] if high == math.inf else [f"below {high:g}" if high_open else f"at most {high:g}"]
    raise ValueError(f"{name} is {value!r}: give a finite number {' and '.join(bounds)}".rstrip())


def check_count(name: str, value: object, low: int = 1, none_means: str = "") -> int:
    """Return ``value`` as an int: accepts int and numpy's integers, but no bool.

    Args:
        name: of the setting, for the error message.
        value: what was given.
        low: smallest integer allowed.
        none_means: what None means to the caller, for the error message; "" where None is not allowed.

    Raises:
        ValueError: ``value`` is not an integer of ``low`` or more.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        or_none = f", or None for {none_means}" if none_means else ""
        raise ValueError(f"{name} is {value!r}: give an integer of {low} or more{or_none}")
    return int(value)


def check_choice(name: str, value: object, choices: Sequence[Choice]) -> Choice:
    """Return the one of ``choices`` that equals ``value``.

    Raises:
        ValueError: none of them does.
    """
    for choice in choices:
        same_kind = isinstance(value, type(choice)) and isinstance(value, bool) == isinstance(choice, bool)
        if same_kind and value == choice:
            return choice
    shown = [str(choice) for choice in choices]
    wanted = " or ".join(shown) if len(shown) <= 2 else f"one of {', '.join(shown)}"
    raise ValueError(f"{name} is {value!r}: give {wanted}")
