"""From action values to policies: greedy with ties split evenly, epsilon-greedy, and the regularized one."""

import numpy as np

from tokenwalk.envs.arrays import BoolArray, FloatArray


def greedy_policy(values: FloatArray, available: BoolArray) -> FloatArray:
    """Return the policy that splits its probability evenly among the best available actions.

    Args:
        values: [..., A]. available: [..., A] (shapes that broadcast).

    Returns:
        float64 [..., A], the last axis sums to 1. Only values that are equal to the last bit are tied.
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
    """Return reference * exp(values / kl_coef), normalized: it maximizes value - kl_coef * KL.

    Args:
        values: [..., A]. log_reference: [..., A], natural log, -inf where an action is never taken.
    """
    logits = log_reference + values / kl_coef
    weight = np.exp(logits - logits.max(axis=-1, keepdims=True))
    policy: FloatArray = weight / weight.sum(axis=-1, keepdims=True)
    return policy
