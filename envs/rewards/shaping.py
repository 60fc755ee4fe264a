"""Potential-based shaping (Ng, Harada, Russell 1999): the function that forms every shaping term."""

import numpy as np

from tokenwalk.envs.arrays import BoolArray, FloatArray


def shaping_reward(
    discount: float, terminated: BoolArray, value_now: FloatArray, value_next: FloatArray
) -> FloatArray:
    """Return F = discount * (1 - terminated) * value_next - value_now, float64 [B], in reward units.

    With the agent's discount it changes every value by -Phi and no optimal policy: the terms of an episode sum to
    discount^T Phi(s_T) - Phi(s_0), where Phi(s_T) is 0 at a termination. A truncation keeps Phi(s_T), because the learner
    bootstraps from there.

    Args:
        discount: the agent's. terminated: bool [B].
        value_now: Phi before each step, float64 [B].
        value_next: Phi after each step, float64 [B]; the value of a terminated row is not read and may be NaN.

    Source: Ng, Harada and Russell 1999, "Policy invariance under reward transformations".
    """
    return discount * np.where(terminated, 0.0, value_next) - value_now


def check_discount(discount: float) -> float:
    """Return the agent's ``discount``. Raises ValueError unless it is a number above 0 and at most 1."""
    if isinstance(discount, bool) or not isinstance(discount, (int, float)) or not 0 < discount <= 1:
        raise ValueError(f"discount is {discount!r}: give the agent's own, above 0 and at most 1")
    return float(discount)
