"""Advantages by their definitions, one completion at a time."""

import numpy as np
import pytest
import torch

from tokenwalk.agents.policy_gradient.advantages import (
    dead_groups,
    dr_grpo_advantage,
    gae,
    grpo_advantage,
    reward_to_go,
    rloo_advantage,
)

REWARDS = torch.tensor(np.random.default_rng(0).normal(size=(5, 4)))


def test_rloo_subtracts_the_mean_of_the_others_that_still_generate() -> None:
    rng = np.random.default_rng(2)
    length = rng.integers(1, 5, size=(5, 4))
    length[0] = [4, 2, 2, 1]  # at times 2 and 3 the first generates alone
    generated = torch.tensor(np.arange(4) < length[:, :, None])
    returns = torch.tensor(rng.normal(size=(5, 4, 4))) * generated
    found = rloo_advantage(returns, generated)
    for group, one, time in np.ndindex(5, 4, 4):
        others = [other for other in range(4) if other != one]
        others_now = [float(returns[group, other, time]) for other in others if generated[group, other, time]]
        baseline = np.mean(others_now or [float(returns[group, other, 0]) for other in others])
        expected = float(returns[group, one, time]) - baseline if generated[group, one, time] else 0.0
        assert float(found[group, one, time]) == pytest.approx(expected)


def whole(rewards: torch.Tensor) -> torch.Tensor:
    """Return RLOO's advantages of completions of one token."""
    return rloo_advantage(rewards[:, :, None], torch.ones(*rewards.shape, 1, dtype=torch.bool))[:, :, 0]


def test_dr_grpo_is_rloo_times_one_minus_one_over_the_group_size() -> None:
    assert torch.allclose(dr_grpo_advantage(REWARDS), whole(REWARDS) * 3 / 4)


def test_equal_rewards_at_the_end_of_texts_of_all_lengths_give_no_rloo_advantage() -> None:
    generated = torch.tensor(np.arange(4) < np.array([4, 2, 2, 1, 3])[:, None])[None]
    for value in (0.1, 1 / 3, -7.7):
        assert not rloo_advantage(value * generated, generated).any()
    returns = 0.1 * generated
    returns[0, 1] *= 2
    assert rloo_advantage(returns, generated)[0, 1, :2].all()


def test_standardized_groups_have_standard_deviation_1() -> None:
    found = grpo_advantage(REWARDS, epsilon=0.0)
    assert torch.allclose(found.square().mean(dim=1), torch.ones(5, dtype=torch.float64))
    assert torch.allclose(found.mean(dim=1), torch.zeros(5, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("of", [whole, grpo_advantage, dr_grpo_advantage])
@pytest.mark.parametrize("value", [0.1, 1 / 3, -7.7, 0.0])
def test_a_group_with_equal_rewards_has_advantages_of_exactly_0(of: object, value: float) -> None:
    assert callable(of)
    for dtype in (torch.float32, torch.float64):
        rewards = torch.full((2, 7), value, dtype=dtype)  # whose mean is not always the value: rounding
        rewards[1, 3] += 1
        found = of(rewards)
        assert not found[0].any()
        assert found[1].any()
        assert torch.isfinite(found).all()


def test_dead_groups_are_counted_for_each_time_apart() -> None:
    rewards = torch.zeros(2, 3, 2)
    rewards[0, 1, 0] = 1
    assert dead_groups(rewards).tolist() == [[False, True], [True, True]]


def test_rewards_to_go_are_sums_from_each_token_on() -> None:
    assert reward_to_go(torch.tensor([[1.0, 2.0, 4.0]])).tolist() == [[7.0, 6.0, 4.0]]


@pytest.mark.parametrize("decay", [0.0, 0.95, 1.0])
def test_generalized_advantages_are_their_defining_sum(decay: float) -> None:
    rng = np.random.default_rng(1)
    length, horizon = [4, 2, 1], 4
    generated = torch.tensor([[time < n for time in range(horizon)] for n in length])
    rewards = torch.tensor(rng.normal(size=(3, 4))) * generated
    values = torch.tensor(rng.normal(size=(3, 4)))
    found = gae(rewards, values, generated, decay)
    for row, n in enumerate(length):
        after = [*values[row, 1:n].tolist(), 0.0]  # the value after the end of the task is 0
        delta = [float(rewards[row, t]) + after[t] - float(values[row, t]) for t in range(n)]
        for time in range(n):
            want = sum(decay**k * delta[time + k] for k in range(n - time))
            assert float(found[row, time]) == pytest.approx(want)
        assert not found[row, n:].any()


def test_without_decay_they_are_the_return_minus_the_value() -> None:
    rewards, values = torch.rand(2, 5), torch.rand(2, 5)
    generated = torch.ones(2, 5, dtype=torch.bool)
    assert torch.allclose(gae(rewards, values, generated, 1.0), reward_to_go(rewards) - values, atol=1e-6)
