"""Any policy over tokens, in three ways to the same figures: the product, the prefix tree, sampling."""

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_tasks import one_token_task, random_task

from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact.evaluation import DominanceError, evaluate
from tokenwalk.agents.exact_tokens.completions import (
    TreeTooLargeError,
    enumerate_completions,
    log_prob_of,
    sample_completions,
)
from tokenwalk.agents.exact_tokens.exact_tables import exact_tables, optimal_value, train_weights
from tokenwalk.agents.exact_tokens.token_evaluation import evaluate_tokens
from tokenwalk.agents.exact_tokens.token_policy import (
    AutomatonPolicy,
    exact_policy,
    reference_on_tokens,
    table_policy,
)
from tokenwalk.envs.rewards.source import Source, TokenBatch
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import RewardTerm, TokenModel, compose

Floats = NDArray[np.float64]
seeds = st.integers(0, 2**32 - 1)
BOTH: list[RewardTerm] = [("gold", 0.5), ("proxy", 2.0)]


@dataclass(frozen=True)
class Opaque:
    """A source that is a function, here of a machine that the code cannot see."""

    inner: Source

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def low(self) -> float:
        return self.inner.low

    @property
    def high(self) -> float:
        return self.inner.high

    @property
    def timing(self) -> Literal["token", "end"]:
        return self.inner.timing

    def score(self, batch: TokenBatch) -> Floats:
        return self.inner.score(batch)


@dataclass(frozen=True)
class Unfolded:
    """A policy that hides its automaton."""

    inner: AutomatonPolicy

    def log_probs(self, batch: TokenBatch) -> Floats:
        return self.inner.log_probs(batch)


def opaque(task: Task, *names: str) -> Task:
    """Return ``task`` with those of its sources as functions."""
    return replace(task, **{name: Opaque(task.sources[name]) for name in names})


def model_of(task: Task, train: RewardTerm | list[RewardTerm] = "gold") -> TokenModel:
    return TokenModel(task, compose(task, train))


def random_policy(model: TokenModel, seed: int) -> AutomatonPolicy:
    """Return a policy over the tables of ``model`` that is different at each step."""
    mdp = model.tabular_mdp()
    weight = np.random.default_rng(seed).gamma(1.0, size=(model.task.horizon, *mdp.available.shape)) + 0.01
    table = np.where(mdp.available, weight, 0.0)
    return table_policy(model, table / table.sum(axis=2, keepdims=True))


@given(seeds)
@settings(max_examples=25)
def test_the_product_the_tree_and_the_tables_agree_on_any_policy(seed: int) -> None:
    task = random_task(seed)
    model = model_of(task, BOTH)
    policy = random_policy(model, seed)
    product = evaluate_tokens(model, policy, kl_coef=0.5)
    tree = evaluate_tokens(model, Unfolded(policy), kl_coef=0.5)
    tables = evaluate(model.tabular_mdp(), policy.table)
    assert (product.method, tree.method) == ("product", "tree")
    assert product.exact
    assert tree.exact
    assert (product.proxy, product.gold) == pytest.approx(
        (tables.returns["proxy"], tables.returns["gold"]), abs=1e-12
    )
    for name in ("return_", "gold", "proxy", "kl", "entropy", "length", "regularized_return", "regret"):
        assert getattr(product, name) == pytest.approx(getattr(tree, name), abs=1e-10), name
    assert tree.return_ == pytest.approx(0.5 * tree.gold + 2.0 * tree.returns["proxy"], abs=1e-12)


@given(seeds)
@settings(max_examples=25)
def test_the_figures_are_those_of_completions_weighted_by_hand(seed: int) -> None:
    task = random_task(seed)
    model = model_of(task)
    policy = random_policy(model, seed)
    every = enumerate_completions(task)
    log_prob = log_prob_of(task, policy, every)
    weight = task.prompt_weights[every.prompt] * np.exp(log_prob)
    gold = every.scores(task, task.sources.values())["gold"]
    found = evaluate_tokens(model, Unfolded(policy))
    assert weight.sum() == pytest.approx(1.0, abs=1e-12)
    assert found.gold == pytest.approx(weight @ gold, abs=1e-12)
    assert found.kl == pytest.approx(weight @ (log_prob - every.log_reference), abs=1e-12)
    assert found.entropy == pytest.approx(-weight @ log_prob, abs=1e-12)
    assert found.length == pytest.approx(weight @ every.length, abs=1e-12)


def test_a_kl_that_goes_on_after_eos_is_another() -> None:
    task = find_task("Flattery")
    model = model_of(task, "proxy")
    policy = exact_policy(model, solve(model.tabular_mdp(), {"proxy": 1.0}, discount=1.0, kl_coef=0.8))
    found = evaluate_tokens(model, Unfolded(policy))
    every = enumerate_completions(task, policy)
    rest = (task.horizon - every.length) * np.log(2.0)  # a twin that counts 5 tokens, whatever stands there
    twin = every.weights(task) @ (every.log_prob - every.log_reference + rest)
    assert found.kl == pytest.approx(every.weights(task) @ (every.log_prob - every.log_reference), abs=1e-12)
    assert abs(found.kl - twin) > 0.1


@given(seeds, st.sampled_from([0.3, 2.0]))
@settings(max_examples=25)
def test_regret_is_kl_coef_times_the_divergence_from_the_optimum(seed: int, kl_coef: float) -> None:
    task = random_task(seed)
    model = model_of(task)
    policy = random_policy(model, seed)
    best = exact_policy(model, solve(model.tabular_mdp(), {"gold": 1.0}, discount=1.0, kl_coef=kl_coef))
    every = enumerate_completions(task, policy)
    divergence = every.weights(task) @ (every.log_prob - log_prob_of(task, best, every))
    found = evaluate_tokens(model, Unfolded(policy), kl_coef=kl_coef)
    assert found.regret == pytest.approx(kl_coef * divergence, abs=1e-10)
    assert evaluate_tokens(model, Unfolded(best), kl_coef=kl_coef).regret == pytest.approx(0.0, abs=1e-10)


@given(seeds, st.sampled_from([0.0, 0.7]))
@settings(max_examples=25)
def test_tables_of_whole_completions_have_the_optimum_of_the_machines(seed: int, kl_coef: float) -> None:
    task = random_task(seed)
    machines = exact_tables(model_of(task, BOTH))
    functions = exact_tables(model_of(opaque(task, "gold"), BOTH))
    assert (machines.method, functions.method) == ("product", "tree")
    weights = train_weights(machines.model.composition)
    found = []
    for tables in (machines, functions):
        solution = solve(tables.mdp, weights, discount=1.0, kl_coef=kl_coef)
        figures = evaluate(tables.mdp, solution.policy)
        tops = [tables.top(solution, 3, prompt) for prompt in (0, 1)]
        texts = [one.texts(task) for one in tops]
        logs = [one.log_prob for one in tops]
        found.append((solution.start_value(tables.mdp), figures, texts, np.concatenate(logs)))
    (value, figures, texts, logs), (value_2, figures_2, texts_2, logs_2) = found
    assert value == pytest.approx(value_2, abs=1e-11)
    assert dict(figures.returns) == pytest.approx(dict(figures_2.returns), abs=1e-10)
    assert figures.kl == pytest.approx(figures_2.kl, abs=1e-10)
    assert logs == pytest.approx(logs_2, abs=1e-10)
    assert texts == texts_2


def test_the_optimum_averages_prompts_outside_the_logarithm() -> None:
    kl_coef, widest = 0.5, 0.0
    for seed in range(10):
        task = random_task(seed)
        every = enumerate_completions(task)
        tilted = every.log_reference + every.scores(task, task.sources.values())["gold"] / kl_coef
        log_z = np.array([np.logaddexp.reduce(tilted[every.prompt == prompt]) for prompt in (0, 1)])
        value = kl_coef * float(task.prompt_weights @ log_z)
        assert optimal_value(model_of(task), kl_coef=kl_coef) == pytest.approx(value, abs=1e-11)
        inside = kl_coef * float(np.log(task.prompt_weights @ np.exp(log_z)))  # a twin
        widest = max(widest, inside - value)
    assert widest > 0.1


def test_a_source_with_no_weight_does_not_hide_the_optimum() -> None:
    task = opaque(find_task("Keyword"), "gold")
    machine = find_task("Keyword").gold
    named = task.machine_source("machine", machine)  # type: ignore[arg-type]
    assert optimal_value(model_of(task, [(named, 2.0)])) == pytest.approx(10.0)
    assert optimal_value(model_of(task)) is None
    with pytest.raises(TreeTooLargeError, match="'gold' is no machine"):
        exact_tables(model_of(task))


def test_a_completion_that_the_reference_gives_probability_0_makes_the_kl_infinite() -> None:
    model = model_of(one_token_task([0.5, 0.5, 0.0]))
    stop = AutomatonPolicy(
        np.zeros((1, 3), np.int64),
        np.zeros(1, np.int64),
        np.array([[[0.0, 0.0, 1.0]]]),
        model.task.prompt_ids,
    )
    for policy in (stop, Unfolded(stop)):
        found = evaluate_tokens(model, policy, kl_coef=1.0)
        assert (found.gold, found.kl, found.regret) == (2.0, np.inf, np.inf)
        assert evaluate_tokens(model, policy).regret == pytest.approx(0.0)


def test_a_completion_of_vanishing_probability_does_not_spoil_an_infinite_kl() -> None:
    task = replace(one_token_task([0.5, 0.0, 0.5]), horizon=2)
    log_prob = np.log([1.0, 1e-200, 1e-300])  # two of the second: a probability of 0 times an infinite KL

    class Reckless:
        def log_probs(self, batch: TokenBatch) -> Floats:
            return np.broadcast_to(log_prob, (len(batch.length), 3))

    found = evaluate_tokens(model_of(task), Reckless())
    assert (found.method, found.kl) == ("tree", np.inf)
    assert found.gold == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("policy", ["folded", "unfolded"])
def test_a_policy_above_the_optimum_is_an_alarm(policy: str) -> None:
    model = model_of(find_task("Flattery"))
    reference = reference_on_tokens(model.task)
    shown = reference if policy == "folded" else Unfolded(reference)
    gold = evaluate_tokens(model, shown).gold
    assert evaluate_tokens(model, shown, optimum=gold).regret == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(DominanceError, match="above the optimum"):
        evaluate_tokens(model, shown, optimum=gold - 1e-6)


@pytest.mark.parametrize("name", ["Flattery", "LengthBias", "Arithmetic", "Delayed"])
def test_monte_carlo_is_within_four_standard_errors_of_the_exact_figures(name: str) -> None:
    model = model_of(find_task(name), "proxy" if "proxy" in find_task(name).sources else "gold")
    weights = train_weights(model.composition)
    policy = exact_policy(model, solve(model.tabular_mdp(), weights, discount=1.0, kl_coef=0.2))
    exact = evaluate_tokens(model, policy, kl_coef=0.3)
    estimate = evaluate_tokens(model, Unfolded(policy), kl_coef=0.3, limit=10, rng=np.random.default_rng(1))
    assert (exact.method, estimate.method) == ("product", "monte carlo")
    assert not estimate.exact
    assert not exact.intervals
    figures = {
        "return": "return_",
        "reward/gold": "gold",
        "kl": "kl",
        "entropy": "entropy",
        "length": "length",
    }
    figures |= {"regularized_return": "regularized_return", "regret": "regret"}
    for key, attribute in figures.items():
        low, high = estimate.intervals[key]
        error = (high - low) / 2 / 1.96
        assert abs(getattr(estimate, attribute) - getattr(exact, attribute)) <= 4 * error + 1e-9, key
        assert low <= getattr(estimate, attribute) <= high


def test_the_interval_of_an_estimate_is_the_mean_and_1_96_standard_errors_with_n_minus_1() -> None:
    model = model_of(find_task("Flattery"), "proxy")
    policy, n = Unfolded(reference_on_tokens(model.task)), 6
    estimate = evaluate_tokens(model, policy, limit=1, samples=n, rng=np.random.default_rng(3))
    sampled = sample_completions(model.task, policy, n, np.random.default_rng(3))
    scores = sampled.scores(model.task, model.composition.sources)
    for key, values in {
        "return": scores["proxy"],
        "reward/gold": scores["gold"],
        "length": sampled.length,
    }.items():
        mean = sum(values) / n
        deviation = (sum((value - mean) ** 2 for value in values) / (n - 1)) ** 0.5
        half = NormalDist().inv_cdf(0.975) * deviation / n**0.5
        assert half > 0.1
        assert estimate.intervals[key] == pytest.approx((mean - half, mean + half), abs=1e-12)


def test_the_interval_covers_what_was_never_sampled() -> None:
    """On Password 10,000 samples of the reference policy all have gold 0; the exact value is 2e-7."""
    model = model_of(find_task("Password"))
    reference = reference_on_tokens(model.task)
    exact = evaluate_tokens(model, reference)
    estimate = evaluate_tokens(model, Unfolded(reference))
    low, high = estimate.intervals["reward/gold"]
    assert estimate.gold == 0 < exact.gold
    assert low <= exact.gold <= high
    assert high == pytest.approx(-np.log(0.05) / 10_000)


def test_an_estimate_alarms_only_with_its_whole_interval() -> None:
    model = model_of(find_task("Keyword"))
    shown = Unfolded(reference_on_tokens(model.task))
    estimate = evaluate_tokens(model, shown)
    low, high = estimate.intervals["return"]
    error = (high - low) / 2 / 1.96
    assert evaluate_tokens(model, shown, optimum=estimate.return_ - 3 * error).regret == pytest.approx(
        -3 * error
    )
    with pytest.raises(DominanceError, match="monte carlo"):
        evaluate_tokens(model, shown, optimum=estimate.return_ - 5 * error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"kl_coef": -1.0}, "kl_coef is -1"), ({"samples": 1, "limit": 5}, "needs 2 or more")],
)
def test_bad_numbers_are_refused(arguments: dict[str, float], message: str) -> None:
    model = model_of(find_task("Flattery"))
    with pytest.raises(ValueError, match=message):
        evaluate_tokens(model, Unfolded(reference_on_tokens(model.task)), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_kl_may_be_to_any_policy_and_its_optimum_is_the_free_energy(seed: int) -> None:
    task = random_task(seed)
    model = TokenModel(task, compose(task, "gold"))
    own = optimal_value(model, kl_coef=0.4)
    assert optimal_value(model, kl_coef=0.4, reference=reference_on_tokens(task)) == pytest.approx(own)
    other = exact_policy(model, solve(model.tabular_mdp(), {"gold": 1.0}, discount=1.0, kl_coef=0.7))
    every = enumerate_completions(task)
    logs = log_prob_of(task, other, every)
    gold = every.scores(task, [model.composition.gold])["gold"]
    value = 0.0
    for prompt in np.unique(every.prompt):
        rows = every.prompt == prompt
        value += task.prompt_weights[prompt] * 0.4 * np.log(np.exp(gold[rows] / 0.4 + logs[rows]).sum())
    found = optimal_value(model, kl_coef=0.4, reference=other)
    assert found == pytest.approx(value)
    assert found != pytest.approx(own)
    reached = evaluate_tokens(model, other, kl_coef=0.4, reference=other)
    assert reached.kl == pytest.approx(0.0, abs=1e-12)
    assert reached.optimum == pytest.approx(value)
    assert optimal_value(model, kl_coef=0.4, reference=other, limit=1) is None
    sampled = evaluate_tokens(
        model, other, kl_coef=0.4, reference=reference_on_tokens(task), limit=1, samples=4_000
    )
    low, high = sampled.intervals["kl"]
    exact = evaluate_tokens(model, other).kl
    assert low - (high - low) < exact < high + (high - low)
