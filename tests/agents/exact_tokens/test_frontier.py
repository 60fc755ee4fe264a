"""Gold against KL, best of n and any policy over tokens: dynamic programming against enumeration by hand."""

import itertools

import gymnasium as gym
import numpy as np
import pytest

import tokenwalk  # noqa: F401 - registers the ids
from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact_tokens.best_of_n import best_of_n, best_of_n_probability, return_distributions
from tokenwalk.agents.exact_tokens.completions import (
    TreeTooLargeError,
    enumerate_completions,
    sample_completions,
)
from tokenwalk.agents.exact_tokens.exact_tables import exact_tables
from tokenwalk.agents.exact_tokens.frontier import fit_best_of_n, fit_rl, trace_frontier
from tokenwalk.agents.exact_tokens.token_evaluation import evaluate_tokens
from tokenwalk.agents.exact_tokens.token_policy import exact_policy, reference_on_tokens
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.source import TokenBatch
from tokenwalk.envs.token_model import TokenModel

WORDS = ("because", "evidence", "therefore", "great", "wonderful", "<eos>")
REFERENCE = dict(zip(WORDS, (0.30, 0.22, 0.22, 0.06, 0.04, 0.16), strict=True))


def flattery(praise: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return log pi_ref, gold and the reward with ``praise`` per praise word of every completion, by enumeration here."""
    rows = []
    for size in range(6):
        for words in itertools.product(WORDS[:-1], repeat=size):
            whole = words if size == 5 else (*words, "<eos>")
            pairs = list(itertools.pairwise(words))
            argued = sum(p == ("because", "evidence") for p in pairs)
            argued += 0.5 * sum(p == ("evidence", "therefore") for p in pairs)
            flattered = sum(word in ("great", "wonderful") for word in words)
            rows.append(
                (
                    sum(np.log(REFERENCE[w]) for w in whole),
                    argued - 0.5 * flattered,
                    argued + praise * flattered,
                )
            )
    log_reference, gold, proxy = np.array(rows).T
    return log_reference, gold, proxy


def model_of(env: str, **arguments: object) -> TokenModel:
    return gym.make(f"tokenwalk/{env}-v0", **arguments).unwrapped.model  # type: ignore[attr-defined, no-any-return]


class Jitter:
    """A policy with its own mind at every prefix: the reference, disturbed by the tokens so far."""

    def __init__(self, model: TokenModel, seed: int) -> None:
        self.model, self.noise = (
            model,
            np.random.default_rng(seed).normal(size=(6, model.task.vocabulary.size)),
        )

    def log_probs(self, batch: TokenBatch) -> FloatArray:
        seen = np.where(batch.completion < 6, batch.completion, 0).sum(axis=1) % 6
        logits = reference_on_tokens(self.model.task).log_probs(batch) + self.noise[seen]
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def test_the_tree_holds_every_completion_once_with_its_reference_probability() -> None:
    completions = enumerate_completions(model_of("Flattery").task)
    log_reference, _, _ = flattery(0.7)
    assert len(completions) == len(log_reference) == 3906
    assert np.sort(completions.log_reference) == pytest.approx(np.sort(log_reference), abs=1e-12)
    assert np.exp(completions.log_reference).sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("kl_coef", [2.0, 0.35, 0.1])
def test_the_regularized_optimum_of_the_machines_is_the_closed_form_over_completions(kl_coef: float) -> None:
    log_reference, gold, proxy = flattery(0.7)
    weight = np.exp(log_reference + proxy / kl_coef - (proxy / kl_coef).max())
    exact = weight / weight.sum()
    model = model_of("Flattery", reward="proxy")
    solution = solve(model.tabular_mdp(), {"proxy": 1.0}, discount=1.0, kl_coef=kl_coef)
    found = evaluate_tokens(model, exact_policy(model, solution), kl_coef=kl_coef)
    assert found.method == "product"
    assert found.gold == pytest.approx(exact @ gold, abs=1e-12)
    assert found.return_ == pytest.approx(exact @ proxy, abs=1e-12)
    assert found.kl == pytest.approx(exact @ (np.log(exact) - log_reference), abs=1e-11)
    assert found.regret == pytest.approx(0.0, abs=1e-11)
    split_per_token = np.exp(log_reference) @ gold  # a twin that forgets the reward altogether
    assert abs(found.gold - split_per_token) > 1e-3


@pytest.mark.parametrize("seed", [0, 1])
def test_any_policys_regret_on_the_tree_is_the_divergence_from_the_optimum(seed: int) -> None:
    kl_coef, model = 0.3, model_of("Flattery")
    policy = Jitter(model, seed)
    found = evaluate_tokens(model, policy, kl_coef=kl_coef)
    completions = enumerate_completions(model.task, policy)
    log_reference, gold, _ = flattery(0.7)
    log_z = np.logaddexp.reduce(log_reference + gold / kl_coef)
    scores = completions.scores(model.task, model.composition.sources)["gold"]
    log_best = completions.log_reference + scores / kl_coef - log_z
    divergence = float(np.exp(completions.log_prob) @ (completions.log_prob - log_best))
    assert found.method == "tree"
    assert found.regret == pytest.approx(kl_coef * divergence, abs=1e-10)
    assert found.regret > 0.01


def test_sampling_agrees_with_the_exact_figures_within_four_standard_errors() -> None:
    model = model_of("Flattery")
    policy = Jitter(model, 2)
    exact = evaluate_tokens(model, policy)
    sampled = sample_completions(model.task, policy, 4000, np.random.default_rng(0))
    gold = sampled.scores(model.task, model.composition.sources)["gold"]
    assert abs(gold.mean() - exact.gold) < 4 * gold.std() / len(gold) ** 0.5
    estimate = evaluate_tokens(model, policy, limit=10)
    assert not estimate.exact
    low, high = estimate.intervals["reward/gold"]
    assert low < exact.gold < high


def test_a_tree_too_large_says_its_size() -> None:
    with pytest.raises(TreeTooLargeError, match="prefixes"):
        enumerate_completions(model_of("Keyword").task)


@pytest.mark.parametrize("n", [1, 2, 16, 300])
def test_best_of_n_is_the_distribution_over_completions_with_ties_at_random(n: int) -> None:
    log_reference, gold, proxy = flattery(0.7)
    probability = np.exp(log_reference)
    level = np.round(proxy, 9)
    below = np.array([probability[level < one].sum() for one in level])
    tied = np.array([probability[level == one].sum() for one in level])
    chosen = probability / tied * ((below + tied) ** n - below**n)
    found = best_of_n(return_distributions(model_of("Flattery", reward="proxy")), n)
    assert best_of_n_probability(probability, proxy, n) == pytest.approx(chosen, abs=1e-12)
    assert found.kl == pytest.approx(chosen @ np.log(chosen / probability), abs=1e-10)
    assert found.returns["gold"] == pytest.approx(chosen @ gold, abs=1e-10)
    assert found.kl <= found.bound + 1e-12
    if n > 1:
        assert found.bound - found.kl > 1e-3  # ties: a twin that takes the bound for the value is caught


def test_the_frontier_of_flattery_climbs_to_its_peak_and_falls_through_zero() -> None:
    path = trace_frontier(exact_tables(model_of("Flattery", reward="proxy")))
    log_reference, gold, proxy = flattery(0.7)

    def gold_at(kl_coef: float) -> float:
        weight = np.exp(log_reference + (proxy - proxy.max()) / kl_coef)
        return float(weight @ gold / weight.sum())

    scan = np.exp(np.linspace(np.log(0.3), np.log(0.4), 2001))
    peak = scan[np.argmax([gold_at(one) for one in scan])]
    assert path.peak.kl_coef == pytest.approx(peak, rel=1e-3)
    assert path.peak.gold == pytest.approx(gold_at(peak), abs=1e-8)  # the scan is coarser
    assert len(path.kl_coef) >= 30
    assert (np.diff(path.kl) >= 0).all()
    assert path.gold == pytest.approx([gold_at(one) for one in path.kl_coef], abs=1e-9)
    assert (path.best_gold >= path.gold - 1e-9).all()
    assert path.proxy[-1] >= 0.99 * 3.5
    assert path.gold[-1] < -2


def test_the_best_gold_at_a_kl_is_not_beaten_by_other_policies_of_that_kl() -> None:
    path = trace_frontier(exact_tables(model_of("Flattery", reward="proxy")))
    model = model_of("Flattery")
    for seed in range(5):
        found = evaluate_tokens(model, Jitter(model, seed))
        assert found.gold <= np.interp(found.kl, path.kl, path.best_gold) + 1e-2


def test_the_fits_return_the_coefficients_that_made_the_data() -> None:
    kl = np.linspace(0.1, 9, 40)
    d = np.sqrt(kl)
    rl, best = fit_rl(kl, d * (1.5 - 0.7 * np.log(d))), fit_best_of_n(kl, d * (1.5 - 0.3 * d))
    assert (rl.alpha, rl.beta, rl.residual) == (
        pytest.approx(1.5),
        pytest.approx(0.7),
        pytest.approx(0, abs=1e-12),
    )
    assert rl.peak_kl == pytest.approx(np.exp(2 * (1.5 / 0.7 - 1)))
    assert (best.alpha, best.beta, best.peak_kl) == (
        pytest.approx(1.5),
        pytest.approx(0.3),
        pytest.approx(6.25),
    )
    with pytest.raises(ValueError, match="points are left to fit"):
        fit_rl(kl[:2], kl[:2])


def test_a_fit_leaves_out_points_below_a_tenth_of_the_largest_root_of_the_kl() -> None:
    kl = np.array(
        [0.0, 0.0099, 0.0101, 0.05, 1.0]
    )  # d is 0.0995 and 0.1005 of the largest at the two in question
    d = np.sqrt(kl)
    with np.errstate(divide="ignore", invalid="ignore"):
        rl = np.where(d > 0.1, d * (1.5 - 0.7 * np.log(d)), 7.0)
    found, best = fit_rl(kl, rl), fit_best_of_n(kl, np.where(d > 0.1, d * (1.5 - 0.3 * d), 7.0))
    assert (found.alpha, found.beta) == (pytest.approx(1.5), pytest.approx(0.7))
    assert (best.alpha, best.beta) == (pytest.approx(1.5), pytest.approx(0.3))
    assert (found.residual, best.residual) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))
