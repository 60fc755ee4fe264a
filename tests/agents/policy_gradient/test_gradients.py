"""The expected gradient of each estimator, against the exact one: each line of the KL table is one test here."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from random_tasks import random_task

from tokenwalk.agents.backprop.configs import LMConfig
from tokenwalk.agents.backprop.lm import TokenLM, fresh_lm, reference_lm
from tokenwalk.agents.exact_tokens.token_evaluation import evaluate_tokens
from tokenwalk.agents.policy_gradient.config import Algorithm, Placement, PolicyGradientConfig
from tokenwalk.agents.policy_gradient.gradients import (
    Comparison,
    compare,
    every_completion,
    exact_gradient,
    expected_gradient,
    flat_gradient,
    in_double,
    sampled_gradient,
)
from tokenwalk.agents.policy_gradient.trainer import PolicyGradient
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import TokenModel, compose

SMALL = LMConfig(n_layers=1, n_heads=2, width=16)


def on(task: Task, lm: TokenLM, algorithm: Algorithm = "reinforce", **fields: Any) -> PolicyGradient:
    config = PolicyGradientConfig(**fields)
    return PolicyGradient(lm, TokenModel(task, compose(task, "gold")), algorithm, config, seed=0)


@pytest.fixture(scope="module")
def halfway() -> TokenLM:
    """Return a model that was trained for a while, so that its KL is neither 0 nor the optimum's."""
    task = find_task("Flattery")
    lm = reference_lm(task, SMALL, seed=0)
    on(task, lm, "rloo", learning_rate=3e-3).learn(30_000, lambda steps, figures: None)
    return in_double(lm)


def kl_part(lm: TokenLM, placement: Placement, **fields: Any) -> Comparison:
    """Return the gradient of the KL alone, as the placement has it, beside the exact one."""
    task = find_task("Flattery")
    free = on(task, lm, kl_coef=0.0, **fields)
    charged = on(task, lm, kl_coef=1.0, kl=placement, **fields)
    everything = every_completion(charged)
    found = expected_gradient(charged, *everything) - expected_gradient(free, *everything)
    return compare(found, exact_gradient(charged, *everything) - exact_gradient(free, *everything))


@pytest.mark.parametrize("seed", [0, 1, 2, 3])  # prompts, and for three of them a mask
def test_the_exact_gradient_is_that_of_the_exactly_evaluated_objective(seed: int) -> None:
    task = random_task(seed)
    lm = in_double(fresh_lm(task, SMALL, seed=1))
    learner = on(task, lm, kl_coef=0.3)
    rollout, weight = every_completion(learner)
    assert float(weight.sum()) == pytest.approx(1.0, abs=1e-9)
    exact = exact_gradient(learner, rollout, weight)
    direction = torch.tensor(np.random.default_rng(2).normal(size=len(exact)))

    def moved(step: float) -> float:
        """Return J after a step along ``direction``, by the evaluation of any policy."""
        parameters = list(lm.network.parameters())
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(start + step * direction, parameters)
        found = evaluate_tokens(learner.model, lm, kl_coef=0.3)
        assert found.method == "tree"
        return found.regularized_return

    start = torch.nn.utils.parameters_to_vector(lm.network.parameters()).detach().clone()
    slope = (moved(1e-4) - moved(-1e-4)) / 2e-4
    moved(0.0)
    assert float(exact @ direction) == pytest.approx(slope, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("placement", ["k1-in-reward", "k2-loss"])
def test_two_placements_give_the_exact_gradient_of_the_kl(halfway: TokenLM, placement: Placement) -> None:
    found = kl_part(halfway, placement)
    assert found.relative_error < 1e-10
    assert found.scale == pytest.approx(1.0)


def test_k1_as_a_loss_is_no_penalty_at_all(halfway: TokenLM) -> None:
    found = kl_part(halfway, "k1-loss")
    assert found.relative_error == pytest.approx(1.0)
    assert found.scale == pytest.approx(0.0, abs=1e-10)


def test_a_kl_of_single_tokens_ignores_later_states(halfway: TokenLM) -> None:
    tokens, vocabulary = kl_part(halfway, "k2-token-loss"), kl_part(halfway, "full-loss")
    assert tokens.relative_error == pytest.approx(vocabulary.relative_error)  # one is a sample of the other
    assert 0.05 < tokens.relative_error < 0.6
    assert tokens.cosine < 1 - 1e-4


def test_k3_is_worse_as_a_loss_and_worst_in_the_reward(halfway: TokenLM) -> None:
    loss, reward = kl_part(halfway, "k3-token-loss"), kl_part(halfway, "k3-in-reward")
    assert kl_part(halfway, "k2-token-loss").relative_error < loss.relative_error < reward.relative_error
    assert reward.relative_error > 0.8


@pytest.mark.parametrize("placement", ["k1-in-reward", "k2-loss"])
def test_a_kl_to_the_frozen_start_is_as_exact(halfway: TokenLM, placement: Placement) -> None:
    task = find_task("Flattery")
    start = in_double(halfway)
    learner = on(task, start, kl_coef=1.0, kl=placement, kl_to="model")
    with torch.no_grad():
        for parameter in start.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    everything = every_completion(learner)
    found = compare(expected_gradient(learner, *everything), exact_gradient(learner, *everything))
    assert found.relative_error < 1e-10
    twin = on(task, start, kl_coef=1.0)  # to the task's reference
    to_reference = exact_gradient(twin, *every_completion(twin))
    assert compare(to_reference, exact_gradient(learner, *everything)).relative_error > 0.1


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("placement", ["k1-in-reward", "k2-loss", "full-loss"])
def test_under_a_mask_the_same_two_are_exact(seed: int, placement: Placement) -> None:
    task = random_task(seed)
    learner = on(task, in_double(fresh_lm(task, SMALL, seed=1)), kl_coef=0.5, kl=placement)
    everything = every_completion(learner)
    found = compare(expected_gradient(learner, *everything), exact_gradient(learner, *everything))
    assert np.isfinite(found.relative_error)
    if placement != "full-loss":
        assert found.relative_error < 1e-9


UNBIASED: list[tuple[Algorithm, Mapping[str, Any]]] = [
    ("reinforce", {}),
    ("rloo", {}),
    ("rloo", {"kl": "k2-loss"}),
    ("rloo", {"group_size": 2, "groups": 128}),
]


@pytest.mark.parametrize(("algorithm", "fields"), UNBIASED)
def test_unbiased_estimators_are_so_within_what_sampling_explains(
    halfway: TokenLM, algorithm: Algorithm, fields: Mapping[str, Any]
) -> None:
    found = sampled(halfway, algorithm, 100, fields)
    assert found.relative_error < 3 * found.sampling_error  # few directions carry most of the variance
    assert found.sampling_error < 0.05


def test_dr_grpo_is_only_shorter_and_grpo_has_another_direction(halfway: TokenLM) -> None:
    small = {"group_size": 4, "groups": 64}
    doctor = sampled(halfway, "grpo", 100, {**small, "normalization": "constant"})
    assert doctor.cosine > 1 - 3e-3
    horizon = find_task("Flattery").horizon
    assert doctor.scale * horizon == pytest.approx(3 / 4, rel=0.05)  # (G - 1) / G, by 1 / H for each token
    paper = sampled(halfway, "grpo", 100, small)
    assert paper.cosine < 0.97
    assert paper.bias > 5 * paper.sampling_error


def test_an_untrained_critic_that_bootstraps_is_biased(halfway: TokenLM) -> None:
    found = sampled(halfway, "ppo-lm", 100, {})
    assert 2 * found.sampling_error < found.relative_error < 0.3


def sampled(lm: TokenLM, algorithm: Algorithm, updates: int, fields: Mapping[str, Any]) -> Comparison:
    task = find_task("Flattery")
    learner = on(task, lm, algorithm, **fields)
    exact = exact_gradient(learner, *every_completion(learner))
    mean, error = sampled_gradient(learner, updates)
    return compare(mean, exact, error)


def test_the_error_of_a_sampled_mean_is_what_repeating_it_shows(halfway: TokenLM) -> None:
    learner = on(find_task("Flattery"), halfway, "rloo")
    few = [sampled_gradient(learner, 10) for _ in range(20)]
    means = torch.stack([mean for mean, _ in few])
    deviation = float((means - means.mean(dim=0)).square().sum(dim=1).mean() * 20 / 19) ** 0.5
    assert np.mean([error for _, error in few]) == pytest.approx(deviation, rel=0.2)


def test_a_comparison_knows_a_gradient_that_is_too_short_from_one_that_is_turned() -> None:
    exact = torch.tensor([3.0, 4.0])
    short, turned = compare(0.5 * exact, exact), compare(torch.tensor([-4.0, 3.0]), exact)
    assert (short.relative_error, short.cosine, short.scale) == pytest.approx((0.5, 1.0, 0.5))
    assert (turned.cosine, turned.scale) == pytest.approx((0.0, 0.0))
    assert compare(exact * 0, exact).cosine == 0.0
    assert Comparison(0.5, 0.3, 1.0, 1.0).bias == pytest.approx(0.4)
    assert Comparison(0.2, 0.3, 1.0, 1.0).bias == 0.0


def test_a_gradient_has_a_number_for_every_parameter(halfway: TokenLM) -> None:
    loss = torch.stack([one.sum() for one in halfway.network.parameters()]).sum()
    found = flat_gradient(halfway, loss)
    assert len(found) == halfway.network.describe()["total"]
    assert (found == 1).all()
