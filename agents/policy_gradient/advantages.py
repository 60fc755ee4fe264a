"""Advantages: how much better a completion, or a token, was than could be expected. Pure functions of rewards.

Shape letters: N groups, G completions of each, B = N * G, H tokens.
"""

import torch


def rloo_advantage(returns: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
    """Return A_it = G_it - mean of G_jt over the others of the group that still write at t, [N, G, H].

    Where no other writes, the mean of their whole returns stands in. Unbiased: no completion is in its own baseline, and
    what it is compared with does not depend on it. Exactly 0 where those compared are to be paid the same.

    Args:
        returns: G_it, the rewards from token t on. written: bool, where a token is.

    Source: Kool, van Hoof and Welling 2019, "Buy 4 REINFORCE samples, get a baseline for free!"; Ahmadian et al. 2024
    (RLOO), there of whole completions.
    """
    size = returns.shape[1]
    kept = returns * written
    others = written.sum(dim=1, keepdim=True) - written.to(returns.dtype)
    mean = (kept.sum(dim=1, keepdim=True) - kept) / others.clamp(min=1)
    whole = returns[:, :, :1]
    apart = (whole.sum(dim=1, keepdim=True) - whole) / (size - 1)
    advantages = (returns - torch.where(others > 0, mean, apart)) * written
    rounding = torch.finfo(returns.dtype).eps * size * returns.abs().amax(dim=(1, 2), keepdim=True)
    return torch.where(advantages.abs() < rounding, 0.0, advantages)  # what is infinite stays so


def grpo_advantage(rewards: torch.Tensor, epsilon: float = 1e-4) -> torch.Tensor:
    """Return A_i = (r_i - mean) / (std + epsilon) of its group, [N, G]; exactly 0 in a group that is all paid the same.

    Not parallel to the true gradient: for rewards of 0 and 1 it ascends 2 arcsin sqrt(p). Source: Shao et al. 2024,
    "DeepSeekMath" (GRPO).
    """
    centred = dr_grpo_advantage(rewards)
    return centred / (centred.square().mean(dim=1, keepdim=True).sqrt() + epsilon)


def dr_grpo_advantage(rewards: torch.Tensor) -> torch.Tensor:
    """Return A_i = r_i - mean of its group, [N, G, ...]: the right direction, (G - 1) / G of its length.

    Exactly 0 in a group that is all paid the same. Source: Liu et al. 2025, "Understanding R1-Zero-Like Training" (Dr.
    GRPO).
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return torch.where(dead_groups(rewards)[:, None], 0.0, centred)


def dead_groups(rewards: torch.Tensor) -> torch.Tensor:
    """Return which groups are all paid the same, so that they teach nothing, bool [N, ...]."""
    return rewards.amax(dim=1) - rewards.amin(dim=1) <= 1e-9 * rewards.abs().amax(dim=1)


def reward_to_go(rewards: torch.Tensor) -> torch.Tensor:
    """Return the sum of rewards from each token on, [B, H]."""
    return rewards.flip(1).cumsum(dim=1).flip(1)


def gae(rewards: torch.Tensor, values: torch.Tensor, written: torch.Tensor, decay: float) -> torch.Tensor:
    """Return A_t = sum over k of decay^k delta_(t+k), delta_t = r_t + V_(t+1) - V_t, undiscounted, [B, H].

    Args:
        rewards: [B, H]. values: [B, H], of what stands before each token.
        written: bool [B, H], where a token is; after the last one V is 0, because the horizon ends the task.
        decay: 1 is the whole return less the value, 0 a single step.

    Source: Schulman et al. 2016, "High-dimensional continuous control using gae advantage estimation".
    """
    following = torch.zeros_like(values)
    following[:, :-1] = values[:, 1:] * written[:, 1:]
    delta = (rewards + following - values) * written
    advantages = torch.zeros_like(delta)
    later = torch.zeros(len(delta), dtype=delta.dtype, device=delta.device)
    for time in reversed(range(delta.shape[1])):
        later = delta[:, time] + decay * later
        advantages[:, time] = later
    return advantages * written
