"""Losses against autograd, and against the estimators' own definitions."""

import numpy as np
import pytest
import torch

from tokenwalk.agents.policy_gradient.config import PLACEMENTS, Placement
from tokenwalk.agents.policy_gradient.losses import kl_in_reward, kl_loss, policy_loss, token_weights

WRITTEN = torch.tensor([[True, True, True], [True, False, False]])
LOGS = torch.tensor([[-1.0, -0.5, -2.0], [-0.3, 0.0, 0.0]], dtype=torch.float64)
ADVANTAGES = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 9.0, 9.0]], dtype=torch.float64)


def test_at_the_sampling_policy_its_gradient_is_the_policy_gradient() -> None:
    logs = LOGS.clone().requires_grad_()
    weights = token_weights(WRITTEN, "sum").double()
    (gradient,) = torch.autograd.grad(policy_loss(logs, LOGS, ADVANTAGES, weights, 0.2).sum(), logs)
    assert torch.allclose(gradient, -ADVANTAGES * WRITTEN)


@pytest.mark.parametrize(
    ("advantage", "ratio", "slope"), [(1.0, 1.3, 0.0), (1.0, 0.5, 0.5), (-1.0, 0.7, 0.0), (-1.0, 1.5, -1.5)]
)
def test_a_ratio_that_has_gone_too_far_in_the_wanted_direction_is_not_pushed_on(
    advantage: float, ratio: float, slope: float
) -> None:
    logs = torch.tensor([[np.log(ratio)]], requires_grad=True)
    loss = policy_loss(logs, torch.zeros(1, 1), torch.tensor([[advantage]]), torch.ones(1, 1), 0.2)
    (gradient,) = torch.autograd.grad(-loss.sum(), logs)
    assert float(gradient) == pytest.approx(slope, rel=1e-5)


def test_a_token_counts_one_or_by_its_own_completion_or_by_the_horizon() -> None:
    assert token_weights(WRITTEN, "sum").tolist() == [[1, 1, 1], [1, 0, 0]]
    assert token_weights(WRITTEN, "length")[0].tolist() == pytest.approx([1 / 3] * 3)
    assert token_weights(WRITTEN, "length")[1].tolist() == [1, 0, 0]
    assert token_weights(WRITTEN, "constant")[1].tolist() == pytest.approx([1 / 3, 0, 0])


def test_k1_and_k3_have_the_same_mean_and_k3_is_never_negative() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6))
    ratio = torch.tensor(np.log(p / q))[None]
    k1, k3 = kl_in_reward(ratio, "k1-in-reward"), kl_in_reward(ratio, "k3-in-reward")
    kl = float((p * np.log(p / q)).sum())
    assert float((k1[0] * torch.tensor(p)).sum()) == pytest.approx(kl)
    assert float((k3[0] * torch.tensor(p)).sum()) == pytest.approx(kl)
    assert (k3 >= 0).all()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_kl_is_added_in_one_place_and_is_0_where_the_two_agree(placement: Placement) -> None:
    ratio = torch.tensor([[0.5, -0.2, 0.1], [0.4, 0.0, 0.0]])
    full = torch.tensor([[0.3, 0.2, 0.1], [0.2, 0.0, 0.0]])
    in_reward, in_loss = (
        bool(kl_in_reward(ratio, placement).any()),
        bool(kl_loss(ratio, full, placement).any()),
    )
    assert in_reward != in_loss
    zeros = torch.zeros(2, 3)
    assert not kl_in_reward(zeros, placement).any()
    assert not kl_loss(zeros, zeros, placement).any()


def test_each_loss_is_what_its_name_says() -> None:
    ratio = torch.tensor([[0.5, -0.2, 0.1]], dtype=torch.float64)
    k3 = np.exp(-ratio.numpy()) - 1 + ratio.numpy()
    assert float(kl_loss(ratio, None, "k2-loss")) == pytest.approx(0.4**2 / 2)
    assert float(kl_loss(ratio, None, "k1-loss")) == pytest.approx(0.4)
    assert float(kl_loss(ratio, None, "k2-token-loss")) == pytest.approx((0.25 + 0.04 + 0.01) / 2)
    assert float(kl_loss(ratio, None, "k3-token-loss")) == pytest.approx(k3.sum())
    assert float(kl_loss(ratio, ratio, "full-loss")) == pytest.approx(0.4)
