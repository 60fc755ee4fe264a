"""Losses of each completion. Pure functions of log-probabilities.

What differs from the papers:

1. REINFORCE and RLOO use PPO's clipped ratio too. With one epoch the ratio is 1, and its gradient is theirs exactly.
2. The policy gradient is a sum over the tokens of a completion for REINFORCE, RLOO and PPO: PPO's paper takes a mean over
   tokens.
3. GRPO with "length" divides by the completion's own length, as its paper does. With "constant" (Dr. GRPO) it divides by
   the horizon H.
4. GRPO's paper adds k3 of each token to the loss. Here the default is k1 in the reward; see ``kl_loss`` for the others.

Shape letters: B completions, H tokens, V vocabulary. ``log_probs`` are those of the generated tokens under the policy that
is trained, and 0 after the end. An update takes the mean over its completions; ``gradients`` weights all completions of a
task by their probabilities instead, which gives the expectation.
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
        log_probs: [B, H].
        old: [B, H], of the policy that generated the completions, without gradients.
        advantages: [B, H] or [B, 1].
        weights: [B, H], what ``token_weights`` returned.
        clip: largest distance of the ratio from 1.

    Source: Williams 1992 (REINFORCE); Schulman et al. 2017 (the clipped ratio).
    """
    ratio = (log_probs - old).exp()  # [B, H]
    worse = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)  # [B, H]
    return -(worse * weights).sum(dim=1)


def token_weights(generated: torch.Tensor, normalization: str) -> torch.Tensor:
    """Return the weight of each token, [B, H]: 1 ("sum"), 1 / own length ("length"), 1 / H ("constant"); 0 after the end.

    ``generated`` is bool [B, H], where a token is.
    """
    weights = generated.to(torch.get_default_dtype())  # [B, H]
    if normalization == "length":
        # This rotates the gradient: tokens of a long completion count less, whatever its reward.
        return weights / weights.sum(dim=1, keepdim=True).clamp(min=1)
    return weights / generated.shape[1] if normalization == "constant" else weights


def kl_in_reward(log_ratio: torch.Tensor, placement: Placement) -> torch.Tensor:
    """Return the penalty on each token's reward for kl_coef 1, [B, H]: k1 = lr, or k3 = exp(-lr) - 1 + lr.

    ``log_ratio`` is lr = log pi / pi_ref, [B, H], without gradients. The sum of k1 over a completion is an unbiased sample
    of its KL, and so is the gradient. k3 has the same mean and, in the reward, a biased gradient.
    """
    if placement == "k1-in-reward":
        return log_ratio
    if placement == "k3-in-reward":
        return torch.expm1(-log_ratio) + log_ratio
    return torch.zeros_like(log_ratio)


def kl_loss(log_ratio: torch.Tensor, full: torch.Tensor | None, placement: Placement) -> torch.Tensor:
    """Return the KL term of the loss for kl_coef 1, [B]; 0 where the KL is in the reward.

    Args:
        log_ratio: log pi / pi_ref of the generated tokens, [B, H], with gradients through pi.
        full: of "full-loss": KL(pi(.|s) || pi_ref(.|s)) before each generated token, [B, H].
        placement: where the KL is; ``OPTIMIZES`` says what each placement optimizes.
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
