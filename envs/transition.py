"""What every finite environment is made of: one pure, batched transition.

Shape letters used throughout: B batch (lanes), T time, S states, A actions, K outcomes of the noise, V vocabulary.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray


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


def sample_outcomes(probability: FloatArray, draw: FloatArray) -> IntArray:
    """Return the outcome of each lane by inversion: ``probability`` [B, K], ``draw`` [B] in [0, 1)."""
    cumulative = np.cumsum(probability, axis=1)
    # A sum that ends just below 1 must not let a draw fall past the last outcome.
    outcome: IntArray = np.minimum((draw[:, None] >= cumulative).sum(axis=1), probability.shape[1] - 1)
    return outcome
