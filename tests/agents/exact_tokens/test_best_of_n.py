"""Best of n: the law of levels, found by machines, against every completion, every draw and many draws."""

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
    TooManyLevelsError,
    best_of_n,
    best_of_n_probability,
    policy_laws,
    return_laws,
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


def by_every_draw(probability: Floats, paid: Floats, n: int) -> Floats:
    """Return the law of the best of ``n`` from all the ways to draw them."""
    law = np.zeros(len(paid))
    for drawn in itertools.product(range(len(paid)), repeat=n):
        best = [one for one in drawn if paid[one] == paid[list(drawn)].max()]
        for one in best:
            law[one] += np.prod(probability[list(drawn)]) / len(best)
    return law


@given(seeds, st.integers(1, 4))
@settings(max_examples=40)
def test_the_law_is_that_of_all_the_ways_to_draw(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.ones(5)) * (rng.random(5) < 0.8) + 1e-3
    probability /= probability.sum()
    paid = rng.integers(-1, 2, 5).astype(np.float64)
    law = best_of_n_probability(probability, paid, n)
    assert law == pytest.approx(by_every_draw(probability, paid, n), abs=1e-12)
    assert law.sum() == pytest.approx(1.0, abs=1e-12)


def test_a_law_that_gives_ties_to_the_first_is_another() -> None:
    probability, paid = np.array([0.25, 0.25, 0.5]), np.array([1.0, 1.0, 0.0])
    exact = by_every_draw(probability, paid, 2)
    order = np.argsort(paid, kind="stable")
    upto = np.cumsum(probability[order])
    twin = np.empty(3)
    twin[order] = upto**2 - (upto - probability[order]) ** 2  # as if equal pay were ordered
    assert best_of_n_probability(probability, paid, 2) == pytest.approx(exact, abs=1e-12)
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
        law = best_of_n_probability(probability, scores["proxy"][rows], n)
        drawn = law > 0
        kl += weight * float(law[drawn] @ np.log(law[drawn] / probability[drawn]))
        gold += weight * float(law @ scores["gold"][rows])
        proxy += weight * float(law @ scores["proxy"][rows])
    found = best_of_n(return_laws(TokenModel(task, compose(task, "proxy"))), n)
    assert (found.n, found.kl) == (n, pytest.approx(kl, abs=1e-10))
    assert found.returns["gold"] == pytest.approx(gold, abs=1e-10)
    assert found.paid == pytest.approx(found.returns["proxy"], abs=1e-10)
    assert found.paid == pytest.approx(proxy, abs=1e-10)
    assert found.kl <= found.bound + 1e-12


@pytest.mark.parametrize(("name", "paid"), [("LengthBias", "proxy"), ("Lexicon", "gold")])
def test_it_is_what_many_draws_earn_where_no_tree_could_be_grown(name: str, paid: str) -> None:
    task, n, groups = find_task(name), 4, 1_500
    model = TokenModel(task, compose(task, paid))
    drawn = sample_completions(task, reference_on_tokens(task), n * groups, np.random.default_rng(0))
    scores = drawn.scores(task, model.composition.sources)
    # The draws are independent: the first of the largest is one of them at random.
    best = scores[paid].reshape(groups, n).round(9).argmax(axis=1)
    chosen = {name: score.reshape(groups, n)[np.arange(groups), best] for name, score in scores.items()}
    found = best_of_n(return_laws(model), n)
    for name, score in chosen.items():
        assert abs(score.mean() - found.returns[name]) < 4 * score.std() / groups**0.5, name


@pytest.mark.parametrize("name", ["Keyword", "Flattery", "Delayed", "Brackets"])
def test_the_best_of_one_is_the_reference_policy(name: str) -> None:
    task = find_task(name)
    model = TokenModel(task, compose(task, "gold"))
    reference = evaluate(model.tabular_mdp(), reference_policy(model.tabular_mdp()))
    found = best_of_n(return_laws(model), 1)
    assert (found.kl, found.bound) == (pytest.approx(0.0, abs=1e-15), 0.0)
    assert dict(found.returns) == pytest.approx(dict(reference.returns), abs=1e-12)


def test_the_bound_is_reached_without_ties_and_not_with_them() -> None:
    n, size = 8, 100_000
    even = np.full(size, 1 / size)
    bound = np.log(n) - (n - 1) / n
    law = best_of_n_probability(even, np.arange(size, dtype=np.float64), n)
    tied = best_of_n_probability(even, np.arange(size) % 2 * 1.0, n)
    assert law @ np.log(law / even) == pytest.approx(bound, abs=1e-4)
    # Half of the completions are best: the KL cannot exceed log 2, whatever n; the bound taken for it is 1.2.
    assert tied @ np.log(tied / even) == pytest.approx(np.log(2), abs=0.05)
    assert bound > 1.2


def test_the_digits_of_a_rare_level_survive() -> None:
    probability = np.array([1 - 1e-18, 1e-18])
    law = best_of_n_probability(probability, np.array([0.0, 1.0]), 1000)
    assert law[1] == pytest.approx(1e-15, rel=1e-9, abs=0)
    assert 1 - (1 - 1e-18) ** 1000 == 0.0  # a twin: the difference of two powers
    rare = np.array([1.0, 1e-16])
    law = best_of_n_probability(rare, np.array([0.0, 1.0]), 10**15)
    assert law == pytest.approx([np.exp(-0.1), -np.expm1(-0.1)], rel=1e-6)


def test_sums_of_the_same_terms_in_another_order_are_ties() -> None:
    paid = np.array([0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1])
    assert paid[0] != paid[1]
    assert best_of_n_probability(np.array([0.5, 0.5]), paid, 50) == pytest.approx([0.5, 0.5])


def test_no_best_of_n_beats_the_regularized_optimum() -> None:
    task = find_task("Flattery")
    laws = return_laws(TokenModel(task, compose(task, "proxy")))
    model = TokenModel(task, compose(task, "gold"))
    for kl_coef in (2.0, 0.5, 0.2, 0.05):
        best = optimal_value(model, kl_coef=kl_coef)
        assert best is not None
        for n in (1, 2, 8, 64, 512, 4096):
            found = best_of_n(laws, n)
            assert found.returns["gold"] - kl_coef * found.kl <= best + 1e-12


def test_what_the_reference_policy_never_writes_is_never_the_best() -> None:
    task = one_token_task([0.5, 0.5, 0.0])  # <eos> would be paid most
    found = best_of_n(return_laws(TokenModel(task, compose(task, "gold"))), 100)
    assert found.paid == pytest.approx(1.0)
    assert best_of_n_probability(np.array([0.5, 0.5, 0.0]), np.array([0.0, 1.0, 2.0]), 100)[2] == 0.0


def test_a_pay_of_too_many_levels_is_refused_with_their_number() -> None:
    task = find_task("Keyword")
    noise = np.random.default_rng(0).normal(size=(1, task.vocabulary.size))
    machine = RewardMachine(
        np.zeros(noise.shape, np.int64), noise, np.zeros(noise.shape), np.zeros(1, np.int64)
    )
    noisy = replace(task, gold=machine)
    with pytest.raises(TooManyLevelsError, match="round the rewards") as caught:
        return_laws(TokenModel(noisy, compose(noisy, "gold")), limit=1_000)
    assert 1_000 < caught.value.levels <= caught.value.rows


@pytest.mark.parametrize("n", [0, -3, 2.0, True])
def test_a_number_of_draws_that_is_none_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match="an integer of 1 or more"):
        best_of_n_probability(np.ones(1), np.ones(1), n)


def test_probabilities_that_are_none_are_refused() -> None:
    for probability in (np.array([0.5, 0.4]), np.array([1.5, -0.5]), np.array([np.nan, 1.0]), np.ones(1)):
        with pytest.raises(ValueError, match="probabilities that sum to 1"):
            best_of_n_probability(probability, np.zeros(2), 3)


@given(seeds, st.sampled_from([1, 3, 50]))
@settings(max_examples=15)
def test_the_best_of_any_policy_is_that_of_its_listed_completions(seed: int, n: int) -> None:
    task = random_task(seed)
    model = TokenModel(task, compose(task, "proxy"))
    own = best_of_n(policy_laws(model, reference_on_tokens(task)), n)
    known = best_of_n(return_laws(model), n)
    assert (own.kl, own.paid) == pytest.approx((known.kl, known.paid), abs=1e-9)
    assert own.returns["gold"] == pytest.approx(known.returns["gold"], abs=1e-9)
    other = exact_policy(model, solve(model.tabular_mdp(), {"proxy": 1.0}, discount=1.0, kl_coef=0.8))
    laws = policy_laws(model, other)
    assert best_of_n(laws, 1).paid == pytest.approx(evaluate_tokens(model, other).paid)
    assert sum(law.weight for law in laws) == pytest.approx(1.0)
