"""Custom algorithms: subclasses of PolicyGradient, with exact gradients."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tokenwalk.agents.backprop.configs import LMConfig
from tokenwalk.agents.backprop.lm import TokenLM, fresh_lm
from tokenwalk.agents.policy_gradient.config import PolicyGradientConfig
from tokenwalk.agents.policy_gradient.gradients import (
    compare,
    every_completion,
    exact_gradient,
    flat_gradient,
    in_double,
    sampled_gradient,
)
from tokenwalk.agents.policy_gradient.trainer import PolicyGradient
from tokenwalk.envs.tasks import find_task
from tokenwalk.envs.token_model import TokenModel, compose

TASK = replace(find_task("Flattery"), horizon=2)  # 31 completions, so 961 pairs
MODEL = TokenModel(TASK, compose(TASK, "gold"))
PAIRS = PolicyGradientConfig(group_size=2, kl_coef=0.3)


class HalfRLOO(PolicyGradient):
    """RLOO with half of its advantages."""

    algorithm = "rloo"

    def advantages(self, *args: Any, **named: Any) -> torch.Tensor:
        return 0.5 * super().advantages(*args, **named)


class HalfPPO(PolicyGradient):
    """PPO with half of its advantages."""

    algorithm = "ppo-lm"

    def advantages(self, *args: Any, **named: Any) -> torch.Tensor:
        return 0.5 * super().advantages(*args, **named)


def random_lm() -> TokenLM:
    return in_double(fresh_lm(TASK, LMConfig(n_layers=1, n_heads=2, width=16), seed=1))


def expected_over_pairs(learner: PolicyGradient) -> torch.Tensor:
    """Return the exact expectation of an update's ascent direction with one group of 2, over all pairs, [P]."""
    rollout, weight = every_completion(learner)
    first, second = (torch.as_tensor(rows).flatten() for rows in np.indices((len(weight),) * 2))
    rows = torch.stack([first, second], dim=1).flatten()  # [2 * 31^2], one pair after the other
    tokens, log_probs = rollout.tokens[rows], rollout.log_probs[rows]
    pairs = learner.judge(rollout.prompt[rows].numpy(), tokens, log_probs)
    losses = learner.losses(pairs, learner.advantages(pairs, learner.rewards(pairs)))
    return flat_gradient(learner.lm, -(weight[first] * weight[second] * losses.view(-1, 2).mean(dim=1)).sum())


def test_the_expected_gradient_of_half_the_advantages_is_exactly_half_of_the_true_one() -> None:
    lm = random_lm()
    rloo, half = PolicyGradient(lm, MODEL, "rloo", PAIRS, seed=0), HalfRLOO(lm, MODEL, config=PAIRS, seed=0)
    exact = exact_gradient(rloo, *every_completion(rloo))
    assert compare(expected_over_pairs(rloo), exact).relative_error < 1e-9
    assert compare(expected_over_pairs(half), 0.5 * exact).relative_error < 1e-9


def test_a_sampled_gradient_of_half_the_advantages_is_half_of_rloos() -> None:
    lm = random_lm()
    rloo, half = PolicyGradient(lm, MODEL, "rloo", PAIRS, seed=3), HalfRLOO(lm, MODEL, None, PAIRS, seed=3)
    assert torch.equal(sampled_gradient(half, 3)[0], 0.5 * sampled_gradient(rloo, 3)[0])


def test_the_class_attribute_is_the_default_and_the_argument_overrides_it() -> None:
    assert HalfRLOO(random_lm(), MODEL, seed=0).algorithm == "rloo"
    assert HalfRLOO(random_lm(), MODEL, seed=0).config == PolicyGradientConfig()
    assert HalfRLOO(random_lm(), MODEL, "reinforce", seed=0).algorithm == "reinforce"
    with pytest.raises(ValueError, match="algorithm is None: give one of reinforce, rloo, grpo, ppo-lm"):
        PolicyGradient(random_lm(), MODEL, seed=0)
    with pytest.raises(ValueError, match="algorithm is 'dpo': give one of reinforce"):
        PolicyGradient(random_lm(), MODEL, "dpo", seed=0)  # type: ignore[arg-type]


def test_custom_advantages_leave_the_critics_targets_unchanged() -> None:
    ppo, half = PolicyGradient(random_lm(), MODEL, "ppo-lm", seed=0), HalfPPO(random_lm(), MODEL, seed=0)
    rollout = ppo.generate()
    rewards = ppo.rewards(rollout)
    targets, same = ppo.targets(rollout, rewards), half.targets(rollout, rewards)
    assert targets is not None
    assert same is not None
    assert torch.equal(targets, same)


def test_a_custom_algorithm_learns() -> None:
    learner = HalfRLOO(random_lm(), MODEL, config=replace(PAIRS, kl_coef=0.0, learning_rate=3e-3), seed=0)
    rewards: list[float] = []
    learner.learn(4_000, lambda steps, figures: rewards.append(figures["rollout/ep_rew_mean"]))
    assert np.mean(rewards[-10:]) > np.mean(rewards[:10]) + 0.1
