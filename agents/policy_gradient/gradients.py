"""What an estimator climbs: its expected gradient beside the exact one of J = E[reward] - kl_coef KL.

The exact gradient is autograd's of J itself, written out over all completions. What is charged completion by completion
has its expectation over the same completions; what compares the completions of a group is sampled, many times over.
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
    """A gradient beside the exact one.

    Attributes:
        relative_error: the length of their difference by that of the exact one.
        sampling_error: what of that is to be expected of an unbiased sample as large; 0 of an expectation.
        cosine: of the angle between them; 1 is the same direction.
        scale: the part of it that points along the exact one, by the length of that one.
    """

    relative_error: float
    sampling_error: float
    cosine: float
    scale: float

    @property
    def bias(self) -> float:
        """Return the relative error that sampling does not explain."""
        return float(max(0.0, self.relative_error**2 - self.sampling_error**2) ** 0.5)


def in_double(lm: TokenLM) -> TokenLM:
    """Return a copy of a model in float64."""
    return replace(lm, network=copy.deepcopy(lm.network).double())


def every_completion(learner: PolicyGradient) -> tuple[Rollout, torch.Tensor]:
    """Return all completions that the learner's model may write as one rollout, and the probability of each, [B].

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
    """Return the gradient of J by the network's parameters, [P]; the rest is what ``every_completion`` returned."""
    lm, coefficient = learner.lm, learner.kl_coef
    mask = lm.mask(rollout.prompt.cpu().numpy())
    logs = lm.network.log_probs(rollout.ids, lm.first, mask).sum(dim=1)
    probability = weight * (logs - logs.detach()).exp()  # the same number, with its gradient
    paid = rollout.scored.reward.sum(dim=1) - coefficient * (logs - rollout.reference.sum(dim=1))
    return flat_gradient(lm, (probability * paid).sum())


def expected_gradient(learner: PolicyGradient, rollout: Rollout, weight: torch.Tensor) -> torch.Tensor:
    """Return the expectation of REINFORCE's ascent direction with the KL where the learner's config charges it, [P].

    Without a baseline, of which an expectation knows nothing.
    """
    advantages = reward_to_go(learner.rewards(rollout))
    return flat_gradient(learner.lm, -(weight * learner.losses(rollout, advantages)).sum())


def sampled_gradient(learner: PolicyGradient, updates: int) -> tuple[torch.Tensor, float]:
    """Return the mean ascent direction of ``updates`` updates that are written and not applied, [P], and its error.

    The error is the square root of the expected squared distance of that mean from its own expectation.
    """
    total, squares = torch.zeros(()), 0.0
    for _ in range(updates):
        rollout = learner.write()
        advantages, targets = learner.advantages(rollout, learner.rewards(rollout))
        found = flat_gradient(learner.lm, -learner.losses(rollout, advantages, targets).mean())
        total, squares = total + found, squares + float(found.square().sum())
    mean = total / updates
    variance = (squares / updates - float(mean.square().sum())) * updates / (updates - 1)
    return mean, (variance / updates) ** 0.5


def compare(found: torch.Tensor, exact: torch.Tensor, error: float = 0.0) -> Comparison:
    """Return ``found`` [P] beside ``exact`` [P]; ``error`` is what ``sampled_gradient`` says of it."""
    length = float(exact.norm())
    along = float(found @ exact) / length
    return Comparison(
        relative_error=float((found - exact).norm()) / length,
        sampling_error=error / length,
        cosine=along / float(found.norm()) if found.any() else 0.0,
        scale=along / length,
    )


def flat_gradient(lm: TokenLM, value: torch.Tensor) -> torch.Tensor:
    """Return the gradient of ``value`` by all of the network's parameters, one after another, [P]."""
    parts = torch.autograd.grad(value, list(lm.network.parameters()))
    return torch.cat([part.flatten() for part in parts])
