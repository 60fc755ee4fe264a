"""Potential-based shaping (Ng, Harada, Russell 1999): the one place where a shaping term is formed."""

import numpy as np

from tokenwalk.envs.arrays import BoolArray, FloatArray


def shaping_reward(
    discount: float, terminated: BoolArray, value_now: FloatArray, value_next: FloatArray
) -> FloatArray:
    """Return F = discount * (1 - terminated) * value_next - value_now, float64 [B], in reward units.

    Added to the reward, with the agent's own discount, it changes every value by -Phi and no optimal policy: the
    terms of an episode telescope to discount^T Phi(s_T) - Phi(s_0), and Phi(s_T) is 0 where the episode terminated. A
    truncation is no termination: it keeps Phi(s_T), from where the learner bootstraps.

    Args:
        discount: the agent's. terminated: bool [B].
        value_now: Phi of where each step began, float64 [B].
        value_next: Phi of where it led, float64 [B]; that of a terminated row is never read and may be NaN.

    Source: Ng, Harada and Russell 1999, "Policy invariance under reward transformations".
    """
    return discount * np.where(terminated, 0.0, value_next) - value_now


def check_discount(discount: float) -> float:
    """Return ``discount``, the agent's own. Raises ValueError unless it is a number above 0 and at most 1."""
    if isinstance(discount, bool) or not isinstance(discount, (int, float)) or not 0 < discount <= 1:
        raise ValueError(f"discount is {discount!r}: give the agent's own, above 0 and at most 1")
    return float(discount)
