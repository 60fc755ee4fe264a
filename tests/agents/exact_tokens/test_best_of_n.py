"""Best of n: the distribution over levels of machines, against every completion, every tuple and many samples."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_tasks import one_token_task, random_task

from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact.evaluation import evaluate, reference_policy
from tokenwalk.agents.exact_tokens.best_of_n import (
    ReturnDistribution,
    TooManyLevelsError,
    best_of_n,
    best_of_n_probability,
    policy_distributions,
    return_distributions,
)
from tokenwalk.agents.exact_tokens.completions import enumerate_completions, sample_completions
from tokenwalk.agents.exact_tokens.exact_tables import optimal_value
from tokenwalk.agents.exact_tokens.token_evaluation import evaluate_tokens
from tokenwalk.agents.exact_tokens.token_policy import exact_policy, reference_on_tokens
from tokenwalk.envs.rewards.machine import RewardMachine
from tokenwalk.envs.tasks import find_task
from tokenwalk.envs.token_model import TokenModel, compose

Floats = NDArray[np.float64]
seeds = st.integers(0, 2**32 - 1)


def by_every_tuple(probability: Floats, return_: Floats, n: int) -> Floats:
    """Return the distribution of the best of ``n`` from every tuple of n completions."""
    chosen = np.zeros(len(return_))
    for some in itertools.product(range(len(return_)), repeat=n):
        best = [one for one in some if return_[one] == return_[list(some)].max()]
        for one in best:
            chosen[one] += np.prod(probability[list(some)]) / len(best)
    return chosen


@given(seeds, st.integers(1, 4))
@settings(max_examples=40)
def test_the_distribution_is_that_of_every_tuple(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.ones(5)) * (rng.random(5) < 0.8) + 1e-3
    probability /= probability.sum()
    return_ = rng.integers(-1, 2, 5).astype(np.float64)
    chosen = best_of_n_probability(probability, return_, n)
    assert chosen == pytest.approx(by_every_tuple(probability, return_, n), abs=1e-12)
    assert chosen.sum() == pytest.approx(1.0, abs=1e-12)


def test_a_distribution_that_gives_ties_to_the_first_differs() -> None:
    probability, return_ = np.array([0.25, 0.25, 0.5]), np.array([1.0, 1.0, 0.0])
    exact = by_every_tuple(probability, return_, 2)
    order = np.argsort(return_, kind="stable")
    upto = np.cumsum(probability[order])
    twin = np.empty(3)
    twin[order] = upto**2 - (upto - probability[order]) ** 2  # as if equal returns were ordered
    assert best_of_n_probability(probability, return_, 2) == pytest.approx(exact, abs=1e-12)
    assert np.abs(twin - exact).max() > 0.05


@given(seeds, st.sampled_from([1, 2, 7, 1000]))
@settings(max_examples=30)
def test_the_levels_of_the_machines_give_the_figures_of_all_completions(seed: int, n: int) -> None:
    task = random_task(seed)
    every = enumerate_completions(task)
    scores = every.scores(task, task.sources.values())
    kl, gold, proxy = 0.0, 0.0, 0.0
    for prompt in (0, 1):
        rows = every.prompt == prompt
        weight, probability = task.prompt_weights[prompt], np.exp(every.log_reference[rows])
        chosen = best_of_n_probability(probability, scores["proxy"][rows], n)
        positive = chosen > 0
        kl += weight * float(chosen[positive] @ np.log(chosen[positive] / probability[positive]))
        gold += weight * float(chosen @ scores["gold"][rows])
        proxy += weight * float(chosen @ scores["proxy"][rows])
    found = best_of_n(return_distributions(TokenModel(task, compose(task, "proxy"))), n)
    assert (found.n, found.kl) == (n, pytest.approx(kl, abs=1e-10))
    assert found.returns["gold"] == pytest.approx(gold, abs=1e-10)
    assert found.return_ == pytest.approx(found.returns["proxy"], abs=1e-10)
    assert found.return_ == pytest.approx(proxy, abs=1e-10)
    assert found.kl <= found.bound + 1e-12


@pytest.mark.parametrize(("name", "reward"), [("LengthBias", "proxy"), ("Lexicon", "gold")])
def test_it_agrees_with_many_samples_where_no_tree_could_be_grown(name: str, reward: str) -> None:
    task, n, groups = find_task(name), 4, 1_500
    model = TokenModel(task, compose(task, reward))
    sampled = sample_completions(task, reference_on_tokens(task), n * groups, np.random.default_rng(0))
    scores = sampled.scores(task, model.composition.sources)
    # The samples are independent: the first of the largest is one of them at random.
    best = scores[reward].reshape(groups, n).round(9).argmax(axis=1)
    chosen = {name: score.reshape(groups, n)[np.arange(groups), best] for name, score in scores.items()}
    found = best_of_n(return_distributions(model), n)
    for name, score in chosen.items():
        assert abs(score.mean() - found.returns[name]) < 4 * score.std() / groups**0.5, name


@pytest.mark.parametrize("name", ["Keyword", "Flattery", "Delayed", "Brackets"])
def test_the_best_of_one_is_the_reference_policy(name: str) -> None:
    task = find_task(name)
    model = TokenModel(task, compose(task, "gold"))
    reference = evaluate(model.tabular_mdp(), reference_policy(model.tabular_mdp()))
    found = best_of_n(return_distributions(model), 1)
    assert (found.kl, found.bound) == (pytest.approx(0.0, abs=1e-15), 0.0)
    assert dict(found.returns) == pytest.approx(dict(reference.returns), abs=1e-12)


def test_the_bound_is_reached_without_ties_and_not_with_them() -> None:
    n, size = 8, 100_000
    even = np.full(size, 1 / size)
    bound = np.log(n) - (n - 1) / n
    chosen = best_of_n_probability(even, np.arange(size, dtype=np.float64), n)
    tied = best_of_n_probability(even, np.arange(size) % 2 * 1.0, n)
    assert chosen @ np.log(chosen / even) == pytest.approx(bound, abs=1e-4)
    # Half of the completions are best: the KL cannot exceed log 2, whatever n; the bound taken for it is 1.2.
    assert tied @ np.log(tied / even) == pytest.approx(np.log(2), abs=0.05)
    assert bound > 1.2


def test_the_digits_of_a_rare_level_survive() -> None:
    probability = np.array([1 - 1e-18, 1e-18])
    chosen = best_of_n_probability(probability, np.array([0.0, 1.0]), 1000)
    assert chosen[1] == pytest.approx(1e-15, rel=1e-9, abs=0)
    assert 1 - (1 - 1e-18) ** 1000 == 0.0  # a twin: the difference of two powers
    rare = np.array([1.0, 1e-16])
    chosen = best_of_n_probability(rare, np.array([0.0, 1.0]), 10**15)
    assert chosen == pytest.approx([np.exp(-0.1), -np.expm1(-0.1)], rel=1e-6)


def test_sums_of_the_same_terms_in_another_order_are_ties() -> None:
    return_ = np.array([0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1])
    assert return_[0] != return_[1]
    assert best_of_n_probability(np.array([0.5, 0.5]), return_, 50) == pytest.approx([0.5, 0.5])


def test_no_best_of_n_beats_the_regularized_optimum() -> None:
    task = find_task("Flattery")
    distributions = return_distributions(TokenModel(task, compose(task, "proxy")))
    model = TokenModel(task, compose(task, "gold"))
    for kl_coef in (2.0, 0.5, 0.2, 0.05):
        best = optimal_value(model, kl_coef=kl_coef)
        assert best is not None
        for n in (1, 2, 8, 64, 512, 4096):
            found = best_of_n(distributions, n)
            assert found.returns["gold"] - kl_coef * found.kl <= best + 1e-12


def test_a_completion_of_probability_0_is_never_the_best() -> None:
    task = one_token_task([0.5, 0.5, 0.0])  # <eos> would have the largest reward
    found = best_of_n(return_distributions(TokenModel(task, compose(task, "gold"))), 100)
    assert found.return_ == pytest.approx(1.0)
    assert best_of_n_probability(np.array([0.5, 0.5, 0.0]), np.array([0.0, 1.0, 2.0]), 100)[2] == 0.0


def test_a_return_of_too_many_levels_is_refused_with_their_number() -> None:
    task = find_task("Keyword")
    noise = np.random.default_rng(0).normal(size=(1, task.vocabulary.size))
    machine = RewardMachine(
        np.zeros(noise.shape, np.int64), noise, np.zeros(noise.shape), np.zeros(1, np.int64)
    )
    noisy = replace(task, gold=machine)
    with pytest.raises(TooManyLevelsError, match="round the rewards") as caught:
        return_distributions(TokenModel(noisy, compose(noisy, "gold")), limit=1_000)
    assert 1_000 < caught.value.levels <= caught.value.rows


@pytest.mark.parametrize("n", [0, -3, 2.0, True])
def test_an_invalid_number_of_samples_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match="an integer of 1 or more"):
        best_of_n_probability(np.ones(1), np.ones(1), n)


def test_invalid_probabilities_are_refused() -> None:
    for probability in (np.array([0.5, 0.4]), np.array([1.5, -0.5]), np.array([np.nan, 1.0]), np.ones(1)):
        with pytest.raises(ValueError, match="probabilities that sum to 1"):
            best_of_n_probability(probability, np.zeros(2), 3)


@given(seeds, st.sampled_from([1, 3, 50]))
@settings(max_examples=15)
def test_the_best_of_any_policy_is_that_of_its_listed_completions(seed: int, n: int) -> None:
    task = random_task(seed)
    model = TokenModel(task, compose(task, "proxy"))
    own = best_of_n(policy_distributions(model, reference_on_tokens(task)), n)
    known = best_of_n(return_distributions(model), n)
    assert (own.kl, own.return_) == pytest.approx((known.kl, known.return_), abs=1e-9)
    assert own.returns["gold"] == pytest.approx(known.returns["gold"], abs=1e-9)
    other = exact_policy(model, solve(model.tabular_mdp(), {"proxy": 1.0}, discount=1.0, kl_coef=0.8))
    distributions = policy_distributions(model, other)
    assert best_of_n(distributions, 1).return_ == pytest.approx(evaluate_tokens(model, other).return_)
    assert sum(one.weight for one in distributions) == pytest.approx(1.0)


@pytest.mark.parametrize(("n", "bound"), [(1, 0.0), (2, np.log(2) - 0.5), (8, np.log(8) - 7 / 8)])
def test_the_kl_of_many_even_levels_reaches_the_bound(n: int, bound: float) -> None:
    # Of continuous returns the best of n has the density n F^(n-1): its KL is log n - (n - 1) / n.
    levels = 100_000
    even, return_ = np.full(levels, 1 / levels), np.arange(levels, dtype=np.float64)
    found = best_of_n([ReturnDistribution(1.0, even, return_, {"gold": return_})], n)
    assert found.bound == pytest.approx(bound, abs=1e-15)
    assert found.kl == pytest.approx(bound, abs=1e-3)
    assert found.return_ / levels == pytest.approx(n / (n + 1), abs=1e-4)
