"""Policies as tables: shapes, checks, the logarithm of the reference policy, KL and entropy."""

import numpy as np

from tokenwalk.envs.arrays import FloatArray, IntArray
from tokenwalk.envs.tabular import TabularMDP

SUM_TOLERANCE = 1e-5  # a float32 softmax over 1,000 actions sums to 1 within this


def log_reference(mdp: TabularMDP) -> FloatArray:
    """Return the log-probabilities of the reference policy, -inf where an action is not available, [S, A]."""
    return np.where(mdp.available, mdp.log_reference, -np.inf)


def kl_and_entropy(policy: FloatArray, log_weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return KL(policy(.|s) || w(.|s)) and the entropy of ``policy`` [S, A] in nats, each [S].

    The KL is infinite where the policy plays an action without weight.
    """
    played = policy > 0
    log_policy = np.log(np.where(played, policy, 1.0))
    log_ratio = log_policy - np.where(played, log_weight, 0.0)
    return (policy * log_ratio).sum(axis=1), -(policy * log_policy).sum(axis=1)


def one_hot(action: IntArray, n_actions: int) -> FloatArray:
    """Return the policy [..., A] that plays ``action`` [...]."""
    policy: FloatArray = np.eye(n_actions)[action]
    return policy


def policy_slices(mdp: TabularMDP, policy: FloatArray) -> FloatArray:
    """Return ``policy`` as [T or 1, S, A]. Raises ValueError where its shape does not fit ``mdp``."""
    policy = np.asarray(policy, dtype=np.float64)
    slices: FloatArray = policy[None] if policy.ndim == 2 else policy
    times = {1} if mdp.horizon is None else {1, mdp.horizon}
    if slices.ndim != 3 or slices.shape[1:] != mdp.available.shape or len(slices) not in times:
        raise ValueError(
            f"the policy has shape {policy.shape}: give [S, A] = {list(mdp.available.shape)}, or "
            f"T = {' or '.join(map(str, sorted(times)))} of them"
        )
    return slices


def checked_slice(mdp: TabularMDP, policy: FloatArray) -> FloatArray:
    """Return ``policy`` [S, A] with rows that sum to 1 up to float64 rounding.

    Raises:
        ValueError: an entry that is negative or not a number, a row that does not sum to 1 within 1e-5, or an
            action that is not available.
    """
    total = policy.sum(axis=1)
    sound = (policy >= 0).all(axis=1) & (np.abs(total - 1) <= SUM_TOLERANCE)
    if not sound.all():
        state = int(sound.argmin())
        raise ValueError(f"the policy of state {state} is {policy[state]}: give probabilities that sum to 1")
    if (stray := (policy > 0) & ~mdp.available).any():
        state, action = np.argwhere(stray)[0]
        raise ValueError(f"the policy plays action {action} in state {state}, which is not available there")
    normalized: FloatArray = policy / total[:, None]
    return normalized
