"""Advantages: how much better a completion, or a token, was than expected. Pure functions of rewards.

What differs from the papers:

1. RLOO's paper has one advantage for each completion. Here each token has its own: its reward-to-go minus the mean
   reward-to-go of the other completions of the group that are still generating at that position. Where none is, the
   baseline is the mean return of the other completions.
2. GRPO divides by the population standard deviation of the group plus 1e-4.
3. In a group whose rewards are all equal (a dead group) GRPO's and Dr. GRPO's advantages are exactly 0. RLOO's are exactly
   0 where they differ from 0 by rounding alone.
4. GAE has no discount, and the value after the last token is 0, because the horizon ends the task.

Shape letters: N groups, G completions of each, B = N * G, H tokens.
"""

import torch


def rloo_advantage(returns: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
    """Return A_it = G_it - mean of G_jt over the others of the group that still generate at t, [N, G, H].

    Unbiased: no completion is in its own baseline, and which others are in it does not depend on it.

    Args:
        returns: G_it, the reward-to-go of token t, [N, G, H].
        generated: bool [N, G, H], where a token is.

    Source: Kool, van Hoof and Welling 2019, "Buy 4 REINFORCE samples, get a baseline for free!"; Ahmadian et al. 2024
    (RLOO), there for whole completions.
    """
    size = returns.shape[1]
    kept = returns * generated  # [N, G, H]
    others = generated.sum(dim=1, keepdim=True) - generated.to(returns.dtype)  # [N, G, H]
    mean = (kept.sum(dim=1, keepdim=True) - kept) / others.clamp(min=1)  # [N, G, H]
    whole = returns[:, :, :1]  # [N, G, 1]
    apart = (whole.sum(dim=1, keepdim=True) - whole) / (size - 1)  # [N, G, 1]
    advantages = (returns - torch.where(others > 0, mean, apart)) * generated  # [N, G, H]
    rounding = (
        torch.finfo(returns.dtype).eps * size * returns.abs().amax(dim=(1, 2), keepdim=True)
    )  # [N, 1, 1]
    return torch.where(advantages.abs() < rounding, 0.0, advantages)  # infinite values stay infinite


def grpo_advantage(rewards: torch.Tensor, epsilon: float = 1e-4) -> torch.Tensor:
    """Return A_i = (r_i - mean) / (std + epsilon) within each group, [N, G]; exactly 0 in a dead group.

    Not parallel to the true gradient in general: for rewards of 0 and 1 with success probability p it is scaled by a factor
    that depends on p from groups of 4 on, and ascends 2 arcsin sqrt(p) in the limit of large groups and epsilon -> 0.
    Source: Shao et al. 2024, "DeepSeekMath" (GRPO).
    """
    centered = dr_grpo_advantage(rewards)  # [N, G]
    return centered / (centered.square().mean(dim=1, keepdim=True).sqrt() + epsilon)


def dr_grpo_advantage(rewards: torch.Tensor) -> torch.Tensor:
    """Return A_i = r_i - mean of its group, [N, G, ...]; exactly 0 in a dead group.

    Its expected gradient is (G - 1) / G times the true one. Source: Liu et al. 2025, "Understanding R1-Zero-Like
    Training" (Dr. GRPO).
    """
    centered = rewards - rewards.mean(dim=1, keepdim=True)
    return torch.where(dead_groups(rewards)[:, None], 0.0, centered)


def dead_groups(rewards: torch.Tensor) -> torch.Tensor:
    """Return which groups have equal rewards, and so no gradient, bool [N, ...] for ``rewards`` [N, G, ...]."""
    return rewards.amax(dim=1) - rewards.amin(dim=1) <= 1e-9 * rewards.abs().amax(dim=1)


def reward_to_go(rewards: torch.Tensor) -> torch.Tensor:
    """Return the sum of the rewards from each token on, [B, H]."""
    return rewards.flip(1).cumsum(dim=1).flip(1)


def gae(rewards: torch.Tensor, values: torch.Tensor, generated: torch.Tensor, decay: float) -> torch.Tensor:
    """Return A_t = sum over k of decay^k delta_(t+k), delta_t = r_t + V_(t+1) - V_t, undiscounted, [B, H].

    Args:
        rewards: [B, H].
        values: the value before each token, [B, H].
        generated: bool [B, H], where a token is; V is 0 after the last one.
        decay: lambda; 1 gives the whole return minus the value, 0 a single step.

    Source: Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation".
    """
    following = torch.zeros_like(values)  # [B, H]
    following[:, :-1] = values[:, 1:] * generated[:, 1:]
    delta = (rewards + following - values) * generated  # [B, H]
    advantages = torch.zeros_like(delta)
    later = torch.zeros(len(delta), dtype=delta.dtype, device=delta.device)  # [B]
    for time in reversed(range(delta.shape[1])):
        later = delta[:, time] + decay * later
        advantages[:, time] = later
    return advantages * generated
