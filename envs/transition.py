"""The transition of a finite environment: one pure, batched function.

Shape letters: B batch (sub-environments), T time, S states, A actions, K outcomes of the noise, V vocabulary.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray


class Transition(NamedTuple):
    """One step of B sub-environments."""

    next_state: IntArray  # [B]
    terminated: BoolArray  # [B]
    rewards: Mapping[str, FloatArray]  # named channels, each [B]; "gold" is the true reward


class TransitionModel(Protocol):
    """A finite environment as data and one pure function; the noise is an argument."""

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
        """Return the step from ``state`` [B] under ``action`` [B] with the noise ``outcome`` [B] in 0..K-1."""

    def outcome_probability(self, state: IntArray, action: IntArray) -> FloatArray:
        """Return the probability of each outcome, [B, K]; rows sum to 1."""


def sample_outcomes(probability: FloatArray, uniform: FloatArray) -> IntArray:
    """Return the outcome of each sub-environment by inversion, int64 [B].

    Args:
        probability: float64 [B, K], rows sum to 1.
        uniform: uniform samples in [0, 1), float64 [B].
    """
    cumulative = np.cumsum(probability, axis=1)  # [B, K]
    # A sum that ends just below 1 must not let a sample fall past the last outcome.
    outcome: IntArray = np.minimum((uniform[:, None] >= cumulative).sum(axis=1), probability.shape[1] - 1)
    return outcome
