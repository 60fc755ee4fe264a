"""The training loop: rollouts, updates, metrics and errors."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from random_tasks import random_task

from tokenwalk.agents.backprop.configs import LMConfig
from tokenwalk.agents.backprop.descent import NonFiniteLossError
from tokenwalk.agents.backprop.lm import TokenLM, fresh_lm, reference_lm
from tokenwalk.agents.exact_tokens.completions import Completions, log_prob_of
from tokenwalk.agents.exact_tokens.exact_tables import optimal_value
from tokenwalk.agents.exact_tokens.token_evaluation import evaluate_tokens
from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens
from tokenwalk.agents.policy_gradient.advantages import reward_to_go
from tokenwalk.agents.policy_gradient.config import ALGORITHMS, Algorithm, PolicyGradientConfig
from tokenwalk.agents.policy_gradient.trainer import PolicyGradient
from tokenwalk.envs.reference import ReferencePolicy
from tokenwalk.envs.rewards.function import FunctionSource
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import TokenModel, compose

FLATTERY = find_task("Flattery")
MODEL = TokenModel(FLATTERY, compose(FLATTERY, "gold"))
SMALL = LMConfig(n_layers=1, n_heads=2, width=16)


def learner(
    algorithm: Algorithm = "rloo",
    model: TokenModel = MODEL,
    lm: TokenLM | None = None,
    seed: int = 0,
    **fields: Any,
) -> PolicyGradient:
    config = PolicyGradientConfig(**{"learning_rate": 3e-3, **fields})
    lm = reference_lm(model.task, SMALL, seed=0) if lm is None else lm
    return PolicyGradient(lm, model, algorithm, config, seed=seed)


def share(found: PolicyGradient) -> float:
    """Return how far the model is from the reference policy to the exact regularized optimum."""
    kl_coef = found.config.kl_coef
    optimum = optimal_value(found.model, kl_coef=kl_coef)
    assert optimum is not None
    low = evaluate_tokens(
        found.model, reference_on_tokens(found.model.task), kl_coef=kl_coef, optimum=optimum
    )
    reached = evaluate_tokens(found.model, found.lm, kl_coef=kl_coef, optimum=optimum)
    assert reached.exact
    return (reached.regularized_return - low.regularized_return) / (optimum - low.regularized_return)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_climbs_most_of_the_way_within_seconds(algorithm: Algorithm) -> None:
    found = learner(algorithm, epochs=2 if algorithm == "ppo-lm" else 1)
    assert share(found) == pytest.approx(0.0, abs=1e-4)
    found.learn(120_000, lambda steps, figures: None)
    assert share(found) > (0.95 if algorithm == "ppo-lm" else 0.86)


def test_the_broken_twin_that_hardly_moves_its_parameters_does_not_learn() -> None:
    found = learner(learning_rate=1e-9)
    found.learn(30_000, lambda steps, figures: None)
    assert share(found) < 0.05


def test_a_rollout_has_a_group_for_each_prompt_and_exact_log_probabilities() -> None:
    task = find_task("Arithmetic")
    model = TokenModel(task, compose(task, "gold"))
    found = learner(model=model, groups=6, group_size=4)
    rollout = found.generate()
    prompts = rollout.prompt.view(6, 4)
    assert (prompts == prompts[:, :1]).all()
    generated = Completions(
        rollout.prompt.numpy(),
        rollout.tokens.numpy(),
        rollout.generated.sum(dim=1).numpy(),
        np.zeros(24),
        np.zeros(24),
    )
    assert rollout.log_probs.sum(dim=1).numpy() == pytest.approx(
        log_prob_of(task, found.lm, generated), abs=1e-4
    )
    reference = log_prob_of(task, reference_on_tokens(task), generated)
    assert rollout.reference.sum(dim=1).numpy() == pytest.approx(reference, abs=1e-4)
    assert not rollout.log_probs[~rollout.generated].any()
    assert (rollout.ids[:, found.lm.first :] == rollout.tokens).all()


def test_the_logged_kl_is_0_at_the_beginning() -> None:
    seen: list[float] = []
    found = learner(groups=4, group_size=4)
    found.learn(600, lambda steps, figures: seen.append(figures["train/kl"]))
    assert seen[0] == pytest.approx(0.0, abs=1e-5)
    other = learner(groups=4, group_size=4, kl_to="model")
    other.learn(20, lambda steps, figures: seen.append(figures["train/kl"]))
    assert seen[-1] == pytest.approx(0.0, abs=1e-5)


def test_the_same_seed_gives_the_same_model_and_torchs_own_generator_is_left_alone() -> None:
    def weights(seed: int) -> torch.Tensor:
        found = learner("ppo-lm", seed=seed, groups=4, group_size=4)
        found.learn(500, lambda steps, figures: None)
        return torch.nn.utils.parameters_to_vector(found.lm.network.parameters()).detach()

    state = torch.random.get_rng_state()
    first = weights(0)
    assert (torch.random.get_rng_state() == state).all()
    torch.manual_seed(99)
    assert (first == weights(0)).all()
    assert not (first == weights(1)).all()


def test_equal_rewards_change_no_parameter() -> None:
    source = FunctionSource("same", lambda text: 0.1, FLATTERY.vocabulary, 0.0, 1.0)
    model = TokenModel(FLATTERY, compose(FLATTERY, [(source, 1.0)]))
    for algorithm, fields in (("rloo", {}), ("grpo", {}), ("grpo", {"normalization": "constant"})):
        found = learner(algorithm, model, kl_coef=0.0, **fields)  # type: ignore[arg-type]
        rollout = found.generate()
        same = replace(rollout, scored=replace(rollout.scored, reward=at_the_end(rollout.generated)))
        before = [one.detach().clone() for one in found.lm.network.parameters()]
        figures = found.update(same)
        assert figures["train/dead_groups"] == 1.0
        assert figures["train/gradient_norm"] == 0.0
        assert all((one == old).all() for one, old in zip(found.lm.network.parameters(), before, strict=True))


def at_the_end(generated: torch.Tensor) -> torch.Tensor:
    """Return 0.1 for the last token of each completion, as the source gives it."""
    last = generated.sum(dim=1) - 1
    return torch.zeros(generated.shape).scatter(1, last[:, None], 0.1)


def test_shaping_is_a_constant_for_methods_that_compare_whole_completions() -> None:
    plain, shaped = learner("grpo"), learner("grpo")
    rollout = plain.generate()
    potential = torch.rand(rollout.tokens.shape) * rollout.generated
    following = torch.zeros_like(potential)
    following[:, :-1] = potential[:, 1:]
    potential[:, 0] = following.new_tensor(0.7)  # of the beginning, the same for all
    moved = replace(
        rollout,
        scored=replace(
            rollout.scored, reward=rollout.scored.reward + (following - potential) * rollout.generated
        ),
    )
    one = plain.advantages(rollout, plain.rewards(rollout))
    other = shaped.advantages(moved, shaped.rewards(moved))
    assert torch.allclose(one, other, atol=1e-4)


def test_a_group_of_one_is_refused_before_anything_is_generated() -> None:
    with pytest.raises(ValueError, match="group_size is 1"):
        learner("rloo", group_size=1)
    learner("reinforce", groups=8, group_size=1).generate()


def test_a_reference_that_never_generates_a_token_makes_the_kl_infinite_and_is_refused() -> None:
    task = FLATTERY
    probability = task.reference.probability.copy()
    probability[0, 0], probability[0, 1] = 0.0, probability[0, :2].sum()
    never = replace(
        task, reference=ReferencePolicy(task.reference.next_context, probability, task.reference.start)
    )
    model = TokenModel(never, compose(never, "gold"))
    lm = fresh_lm(never, SMALL, seed=0)
    with pytest.raises(ValueError, match="never generates token 0 in context 0, so the KL is infinite"):
        learner(model=model, lm=lm)
    learner(model=model, lm=lm, kl_coef=0.0)
    learner(model=model, lm=lm, kl_to="model")


def test_a_loss_that_is_not_finite_stops_it_by_update_and_batch_with_the_last_good_parameters() -> None:
    found = learner(groups=4, group_size=4, evaluate_every=1)
    found.learn(50, lambda steps, figures: None)
    good = [one.detach().clone() for one in found.lm.network.parameters()]
    rollout = found.generate()
    reward = rollout.scored.reward.clone()
    reward[0, 0] = math.inf
    with pytest.raises(
        NonFiniteLossError, match=rf"at update {found.updates + 1}, of 16 completions, the first \['"
    ):
        found.update(replace(rollout, scored=replace(rollout.scored, reward=reward)))
    assert all((one == old).all() for one, old in zip(found.lm.network.parameters(), good, strict=True))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_masks_and_prompts_are_kept_to_while_learning(seed: int) -> None:
    task: Task = random_task(seed)
    model = TokenModel(task, compose(task, "gold"))
    found = learner(model=model, lm=fresh_lm(task, SMALL, seed=0), kl_coef=0.0, groups=8, group_size=8)
    before = evaluate_tokens(model, found.lm).gold
    found.learn(6_000, lambda steps, figures: None)
    after = evaluate_tokens(model, found.lm)
    optimum = optimal_value(model)
    assert optimum is not None
    assert after.gold - before >= 0.5 * (optimum - before) - 1e-9


def test_evaluations_are_asked_for_now_and_then_and_at_the_end_and_their_time_is_logged() -> None:
    asked: list[int] = []
    logged: list[dict[str, float]] = []
    found = learner(groups=4, group_size=4, evaluate_every=3)

    def evaluate() -> dict[str, float]:
        asked.append(found.updates)
        return {"eval/gold": 1.0}

    found.learn(500, lambda steps, figures: logged.append(dict(figures)), evaluate)
    assert asked[:2] == [3, 6]
    assert asked[-1] == found.updates
    with_evaluation = [figures for figures in logged if "eval/gold" in figures]
    assert len(with_evaluation) == len(asked)
    assert all(figures["time/evaluation_seconds"] >= 0 for figures in with_evaluation)
    assert logged[-1]["train/learning_rate"] < logged[0]["train/learning_rate"]


def test_prompts_are_sampled_by_their_weights_and_by_the_seed() -> None:
    task = find_task("Arithmetic")
    weights = np.zeros(len(task.prompts))
    weights[[3, 50]] = 0.75, 0.25
    model = TokenModel(task := replace(task, prompt_weights=weights), compose(task, "gold"))
    prompts = [
        learner("reinforce", model, seed=seed, groups=2_000, group_size=1).generate().prompt
        for seed in (0, 0, 1)
    ]
    assert set(prompts[0].tolist()) == {3, 50}
    share = float((prompts[0] == 3).double().mean())
    assert abs(share - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 2_000)  # four standard errors of a binomial share
    assert torch.equal(prompts[0], prompts[1])
    assert not torch.equal(prompts[0], prompts[2])


def test_the_logged_kl_is_log_pi_minus_log_reference_and_estimates_the_exact_kl() -> None:
    found = learner("reinforce", lm=fresh_lm(FLATTERY, SMALL, seed=0), groups=4_000, group_size=1)
    exact = evaluate_tokens(found.model, found.lm).kl
    assert exact > 0.05  # a uniform policy against [0.30, 0.22, 0.22, 0.06, 0.04, 0.16]
    rollout = found.generate()
    log_ratio = (rollout.log_probs - rollout.reference).sum(dim=1)
    logged = found.update(rollout)["train/kl"]
    assert logged == pytest.approx(float(log_ratio.mean()))
    assert logged == pytest.approx(exact, abs=4 * float(log_ratio.std()) / 4_000**0.5)


def test_reinforces_baseline_is_a_running_mean_of_earlier_updates_only() -> None:
    found = learner("reinforce", groups=8, group_size=1, kl_coef=0.0)
    baseline = torch.zeros(FLATTERY.horizon)
    for _ in range(3):
        rollout = found.generate()
        rewards = found.rewards(rollout)
        returns = reward_to_go(rewards)
        advantages = found.advantages(rollout, rewards)
        assert torch.allclose(advantages, returns - baseline, atol=1e-6)  # without this update's returns
        for time in range(FLATTERY.horizon):
            here = returns[rollout.generated[:, time], time]
            mean = here.mean() if len(here) else torch.zeros(())
            baseline[time] = 0.9 * baseline[time] + 0.1 * mean
    assert baseline.any()


def test_ppos_target_is_the_advantage_plus_the_value_and_pulls_the_critic_to_the_return() -> None:
    found = learner("ppo-lm", groups=16, group_size=4, kl_coef=0.0, learning_rate=3e-2)
    for _ in range(5):
        found.update(found.generate())
    rollout = found.generate()
    rewards = found.rewards(rollout)
    assert rollout.values is not None
    assert rollout.values.abs().max() > 0.01  # so that the advantage alone differs from the target
    targets = found.targets(rollout, rewards)
    advantages = found.advantages(rollout, rewards)
    assert targets is not None
    assert torch.allclose(targets, advantages + rollout.values)
    last = rollout.generated.sum(dim=1) - 1
    rows = torch.arange(len(last))
    # At the last token delta = r - V, so the target A + V is the reward itself.
    assert torch.allclose(targets[rows, last], rewards[rows, last], atol=1e-6)
    assert found.targets(replace(rollout, values=None), rewards) is None


def test_rloos_advantage_of_a_token_is_from_its_own_reward_to_go() -> None:
    found = learner("rloo", groups=1, group_size=2, kl_coef=0.0)
    rollout = found.generate()
    horizon = FLATTERY.horizon
    generated = torch.zeros(2, horizon, dtype=torch.bool)
    generated[0, :3], generated[1, :2] = True, True
    rewards = torch.zeros(2, horizon)
    rewards[0, :3], rewards[1, :2] = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([8.0, 16.0])
    advantages = found.advantages(replace(rollout, generated=generated), rewards)
    # Rewards-to-go: [7, 6, 4] and [24, 16]. At the third token the first is alone: the other's return 24 is the baseline.
    assert advantages[0, :3].tolist() == [7 - 24, 6 - 16, 4 - 24]
    assert advantages[1, :2].tolist() == [24 - 7, 16 - 6]
    assert not advantages[~generated].any()
