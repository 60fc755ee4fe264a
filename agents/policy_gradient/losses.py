"""Losses: what is differentiated, of each completion. Pure functions of log-probabilities.

Shape letters: B completions, H tokens, V vocabulary. ``log_probs`` are of the tokens that were written, under the policy
that learns, 0 where nothing is written; their gradients are what matters. An update takes the mean over its completions;
weighted by their probabilities, all completions of a task give the expectation instead (``gradients``).
"""

import torch

from tokenwalk.agents.policy_gradient.config import Placement


def policy_loss(
    log_probs: torch.Tensor,
    old: torch.Tensor,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    clip: float,
) -> torch.Tensor:
    """Return -sum over tokens of weight * min(ratio A, clipped ratio A), [B].

    ratio = pi / pi_old of each token. At pi = pi_old its gradient is that of -A log pi: the policy gradient itself.

    Args:
        log_probs: [B, H]. old: [B, H], of the policy that wrote, without gradients.
        advantages: [B, H] or [B, 1].
        weights: [B, H], 1 for each written token, or what it is divided by; 0 where nothing is written.
        clip: how far the ratio may go from 1.

    Source: Williams 1992 (REINFORCE); Schulman et al. 2017 (the clipped ratio).
    """
    ratio = (log_probs - old).exp()
    worse = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -(worse * weights).sum(dim=1)


def token_weights(written: torch.Tensor, normalization: str) -> torch.Tensor:
    """Return what each token counts, [B, H]: 1 ("sum"), 1 / own length ("length"), 1 / H ("constant")."""
    weights = written.to(torch.get_default_dtype())
    if normalization == "length":
        # It rotates the gradient: a long completion's tokens count less, whatever it is paid.
        return weights / weights.sum(dim=1, keepdim=True).clamp(min=1)
    return weights / written.shape[1] if normalization == "constant" else weights


def kl_in_reward(log_ratio: torch.Tensor, placement: Placement) -> torch.Tensor:
    """Return what is taken off each token's reward for one unit of kl_coef, [B, H]: k1 = lr, or k3 = exp(-lr) - 1 + lr.

    ``log_ratio`` is log pi / pi_ref without gradients. k1's sum over a completion is an unbiased sample of its KL, and so
    is the gradient that follows; k3 has the right mean and, in the reward, a wrong gradient.
    """
    if placement == "k1-in-reward":
        return log_ratio
    if placement == "k3-in-reward":
        return torch.expm1(-log_ratio) + log_ratio
    return torch.zeros_like(log_ratio)


def kl_loss(log_ratio: torch.Tensor, full: torch.Tensor | None, placement: Placement) -> torch.Tensor:
    """Return what is added to the loss for one unit of kl_coef, [B]; 0 where the KL is charged in the reward.

    Args:
        log_ratio: log pi / pi_ref of the written tokens, [B, H], with gradients through pi.
        full: of "full-loss": KL(pi(.|s) || pi_ref(.|s)) before each written token, [B, H].
        placement: where the KL is charged; ``PLACEMENTS`` says what each really optimises.
    """
    if placement == "k2-loss":
        return 0.5 * log_ratio.sum(dim=1).square()
    if placement == "k1-loss":
        return log_ratio.sum(dim=1)
    if placement == "k2-token-loss":
        return 0.5 * log_ratio.square().sum(dim=1)
    if placement == "k3-token-loss":
        return (torch.expm1(-log_ratio) + log_ratio).sum(dim=1)
    if placement == "full-loss":
        assert full is not None
        return full.sum(dim=1)
    return log_ratio.new_zeros(len(log_ratio))
