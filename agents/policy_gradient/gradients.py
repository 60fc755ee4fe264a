"""The expected gradient of an estimator, compared with the exact gradient of J = E[reward] - kl_coef KL.

The exact gradient is autograd's of J itself, as a sum over all completions. An estimator that treats completions one by one
has its expectation over the same sum. One that compares the completions of a group is sampled many times.

Shape letters: B completions, P parameters.
"""

import copy
from dataclasses import dataclass, replace

import torch

from tokenwalk.agents.backprop.lm import TokenLM
from tokenwalk.agents.exact_tokens.completions import enumerate_completions
from tokenwalk.agents.policy_gradient.advantages import reward_to_go
from tokenwalk.agents.policy_gradient.trainer import PolicyGradient, Rollout


@dataclass(frozen=True, eq=False)
class Comparison:
    """A gradient compared with the exact one.

    Attributes:
        relative_error: norm of their difference, divided by the norm of the exact one.
        sampling_error: the relative error expected of an unbiased estimate from as many samples; 0 for an expectation.
        cosine: of the angle between them; 1 is the same direction.
        scale: its projection on the exact one, divided by the norm of the exact one.
    """

    relative_error: float
    sampling_error: float
    cosine: float
    scale: float

    @property
    def bias(self) -> float:
        """Return the part of the relative error that is not sampling error."""
        return float(max(0.0, self.relative_error**2 - self.sampling_error**2) ** 0.5)


def in_double(lm: TokenLM) -> TokenLM:
    """Return a copy of a model in float64."""
    return replace(lm, network=copy.deepcopy(lm.network).double())


def every_completion(learner: PolicyGradient) -> tuple[Rollout, torch.Tensor]:
    """Return all completions that the learner's model can generate as one rollout, and the probability of each, [B].

    Raises:
        TreeTooLargeError: there are too many.
    """
    lm, task = learner.lm, learner.model.task
    found = enumerate_completions(task, lm)
    tokens = torch.as_tensor(found.tokens.astype("int64"), device=lm.device)
    ids = torch.cat([lm.beginning(task.prompt_ids[found.prompt]), tokens], dim=1)
    with torch.no_grad():
        log_probs = lm.network.log_probs(ids, lm.first, lm.mask(found.prompt))
    weight = torch.as_tensor(task.prompt_weights[found.prompt], device=lm.device) * log_probs.sum(dim=1).exp()
    return learner.judge(found.prompt, tokens, log_probs), weight


def exact_gradient(learner: PolicyGradient, rollout: Rollout, weight: torch.Tensor) -> torch.Tensor:
    """Return the gradient of J by the network's parameters, [P]; ``every_completion`` gives the other arguments."""
    lm, coefficient = learner.lm, learner.kl_coef
    mask = lm.mask(rollout.prompt.cpu().numpy())
    logs = lm.network.log_probs(rollout.ids, lm.first, mask).sum(dim=1)  # [B]
    probability = weight * (logs - logs.detach()).exp()  # [B], the same number, with its gradient
    value = rollout.scored.reward.sum(dim=1) - coefficient * (logs - rollout.reference.sum(dim=1))  # [B]
    return flat_gradient(lm, (probability * value).sum())


def expected_gradient(learner: PolicyGradient, rollout: Rollout, weight: torch.Tensor) -> torch.Tensor:
    """Return the expectation of REINFORCE's ascent direction with the KL where the learner's config puts it, [P].

    Without a baseline, because it does not change the expectation.
    """
    advantages = reward_to_go(learner.rewards(rollout))
    return flat_gradient(learner.lm, -(weight * learner.losses(rollout, advantages)).sum())


def sampled_gradient(learner: PolicyGradient, updates: int) -> tuple[torch.Tensor, float]:
    """Return the mean ascent direction of ``updates`` updates, none of which is applied, [P], and its error.

    The error is the square root of the expected squared distance of that mean from its own expectation.
    """
    total, squares = torch.zeros(()), 0.0
    for _ in range(updates):
        rollout = learner.generate()
        rewards = learner.rewards(rollout)
        losses = learner.losses(
            rollout, learner.advantages(rollout, rewards), learner.targets(rollout, rewards)
        )
        found = flat_gradient(learner.lm, -losses.mean())
        total, squares = total + found, squares + float(found.square().sum())
    mean = total / updates
    variance = (squares / updates - float(mean.square().sum())) * updates / (updates - 1)
    return mean, (variance / updates) ** 0.5


def compare(found: torch.Tensor, exact: torch.Tensor, error: float = 0.0) -> Comparison:
    """Return ``found`` [P] compared with ``exact`` [P]; ``error`` is what ``sampled_gradient`` returned beside it."""
    length = float(exact.norm())
    along = float(found @ exact) / length
    return Comparison(
        relative_error=float((found - exact).norm()) / length,
        sampling_error=error / length,
        cosine=along / float(found.norm()) if found.any() else 0.0,
        scale=along / length,
    )


def flat_gradient(lm: TokenLM, value: torch.Tensor) -> torch.Tensor:
    """Return the gradient of ``value`` by all of the network's parameters, concatenated, [P]."""
    parts = torch.autograd.grad(value, list(lm.network.parameters()))
    return torch.cat([part.flatten() for part in parts])
