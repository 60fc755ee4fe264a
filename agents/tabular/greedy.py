"""From action values to policies: greedy with ties split evenly, epsilon-greedy, and the regularized one."""

import numpy as np

from tokenwalk.envs.arrays import BoolArray, FloatArray


def greedy_policy(values: FloatArray, available: BoolArray) -> FloatArray:
    """Return the policy that shares its mass evenly among the best available actions.

    Args:
        values: [..., A]. available: [..., A] (shapes that broadcast).

    Returns:
        float64 [..., A]; rows sum to 1. Ties are exact: equal to the last bit.
    """
    among = np.where(available, values, -np.inf)
    best = among == among.max(axis=-1, keepdims=True)
    policy: FloatArray = best / best.sum(axis=-1, keepdims=True)
    return policy


def epsilon_greedy_policy(values: FloatArray, available: BoolArray, epsilon: float) -> FloatArray:
    """Return (1 - epsilon) * greedy + epsilon * uniform, over the available actions."""
    uniform = available / available.sum(axis=-1, keepdims=True)
    mixed: FloatArray = (1 - epsilon) * greedy_policy(values, available) + epsilon * uniform
    return mixed


def soft_policy(values: FloatArray, log_reference: FloatArray, kl_coef: float) -> FloatArray:
    """Return reference * exp(values / kl_coef), normalised: the best trade of value against KL.

    Args:
        values: [..., A]. log_reference: [..., A], natural log, -inf where an action is never taken.
    """
    logits = log_reference + values / kl_coef
    weight = np.exp(logits - logits.max(axis=-1, keepdims=True))
    policy: FloatArray = weight / weight.sum(axis=-1, keepdims=True)
    return policy
