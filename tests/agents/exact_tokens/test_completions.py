"""Completions and policies over tokens, on random small tasks, against a recursion in this file."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_tasks import random_task

from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact_tokens.completions import (
    TreeTooLargeError,
    best_text,
    count_prefixes,
    enumerate_completions,
    log_prob_of,
    sample_completions,
    sample_tokens,
    top_completions,
)
from tokenwalk.agents.exact_tokens.token_policy import AutomatonPolicy, exact_policy, reference_on_tokens
from tokenwalk.envs.reference import ReferencePolicy
from tokenwalk.envs.rewards.machine import RewardMachine
from tokenwalk.envs.rewards.source import TokenBatch
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import TokenModel, compose
from tokenwalk.envs.vocabulary import Vocabulary

Floats = NDArray[np.float64]
seeds = st.integers(0, 2**32 - 1)


def by_recursion(task: Task) -> dict[tuple[int, tuple[int, ...]], float]:
    """Return the log-probability of every completion that the mask allows, by prompt and tokens; one call a prefix."""
    reference, found = task.reference, {}
    allowed = (
        np.ones_like(reference.probability, bool) if reference.available is None else reference.available
    )

    def grow(prompt: int, context: int, tokens: tuple[int, ...], log_prob: float) -> None:
        if len(tokens) == task.horizon or tokens[-1:] == (task.vocabulary.eos,):
            found[prompt, tokens] = log_prob
            return
        for token in np.flatnonzero(allowed[context]).tolist():
            longer = log_prob + float(np.log(reference.probability[context, token]))
            grow(prompt, int(reference.next_context[context, token]), (*tokens, token), longer)

    for prompt in range(len(task.prompts)):
        grow(prompt, int(np.broadcast_to(reference.start, len(task.prompts))[prompt]), (), 0.0)
    return found


def optimum(task: Task, kl_coef: float) -> AutomatonPolicy:
    model = TokenModel(task, compose(task, "gold"))
    return exact_policy(model, solve(model.tabular_mdp(), {"gold": 1.0}, discount=1.0, kl_coef=kl_coef))


def distribution(task: Task, policy: AutomatonPolicy) -> dict[tuple[int, tuple[int, ...]], float]:
    found = enumerate_completions(task, policy)
    keys = [tuple(t[:n].tolist()) for t, n in zip(found.tokens, found.length, strict=True)]
    return dict(zip(zip(found.prompt.tolist(), keys, strict=True), found.log_prob.tolist(), strict=True))


@given(seeds)
@settings(max_examples=30)
def test_every_completion_that_the_mask_allows_is_there_once_with_its_probability(seed: int) -> None:
    task = random_task(seed)
    by_hand = by_recursion(task)
    completions = enumerate_completions(task)
    keys = [
        (prompt, tuple(tokens[:length].tolist()))
        for prompt, tokens, length in zip(
            completions.prompt.tolist(), completions.tokens, completions.length, strict=True
        )
    ]
    assert keys == sorted(by_hand)
    assert completions.log_reference == pytest.approx([by_hand[key] for key in keys], abs=1e-12)
    assert completions.weights(task).sum() == pytest.approx(1.0, abs=1e-12)


@given(seeds)
@settings(max_examples=30)
def test_the_size_of_the_tree_is_counted_without_growing_it(seed: int) -> None:
    task = random_task(seed)
    prefixes = {(p, tokens[:size]) for p, tokens in by_recursion(task) for size in range(len(tokens) + 1)}
    assert count_prefixes(task) == len(prefixes)
    assert len(enumerate_completions(task, limit=len(prefixes))) == len(by_recursion(task))
    with pytest.raises(TreeTooLargeError, match="raise the limit") as caught:
        enumerate_completions(task, limit=len(prefixes) - 1)
    assert (caught.value.prefixes, caught.value.at_least) == (len(prefixes), False)


def test_a_prompt_that_is_never_given_is_no_part_of_the_tree() -> None:
    task = random_task(0)
    alone = replace(task, prompt_weights=np.array([1.0, 0.0]))
    every = enumerate_completions(alone)
    assert set(every.prompt.tolist()) == {0}
    assert count_prefixes(alone) < count_prefixes(task)
    assert len(enumerate_completions(alone, limit=int(count_prefixes(alone)))) == len(every)


@given(seeds, st.sampled_from([0.0, 0.5]))
@settings(max_examples=30)
def test_the_exact_policy_is_the_closed_form_over_completions(seed: int, kl_coef: float) -> None:
    task = random_task(seed)
    every = enumerate_completions(task)
    gold = every.scores(task, task.sources.values())["gold"]
    log_prob = log_prob_of(task, optimum(task, kl_coef), every)
    for prompt in (0, 1):
        rows = every.prompt == prompt
        if kl_coef > 0:
            weight = every.log_reference[rows] + gold[rows] / kl_coef
        else:  # ties per completion, by the reference
            weight = np.where(gold[rows] == gold[rows].max(), every.log_reference[rows], -np.inf)
        assert log_prob[rows] == pytest.approx(weight - np.logaddexp.reduce(weight), abs=1e-9)


@given(seeds)
@settings(max_examples=30)
def test_the_most_probable_completions_are_the_first_of_all_of_them_sorted(seed: int) -> None:
    task = random_task(seed)
    policy = optimum(task, 1.0)
    every = distribution(task, policy)
    for prompt in (0, 1):
        rank = sorted((-round(log, 12), tokens) for (p, tokens), log in every.items() if p == prompt)
        top = top_completions(task, policy, 4, prompt)
        keys = [tuple(t[:n].tolist()) for t, n in zip(top.tokens, top.length, strict=True)]
        assert keys == [tokens for _, tokens in rank[:4]]
        assert top.log_prob == pytest.approx([-value for value, _ in rank[:4]], abs=1e-11)


@given(seeds)
@settings(max_examples=30)
def test_the_best_text_of_a_hard_optimum_attains_it(seed: int) -> None:
    task = random_task(seed)
    policy = optimum(task, 0.0)
    every = enumerate_completions(task)
    gold = every.scores(task, task.sources.values())["gold"]
    for prompt in (0, 1):
        best = top_completions(task, policy, 1, prompt)
        assert best.scores(task, task.sources.values())["gold"][0] == gold[every.prompt == prompt].max()
        assert best_text(task, policy, prompt) == task.vocabulary.decode(best.tokens[0])


@pytest.mark.parametrize(("name", "text"), [("Keyword", "acabcabcabcabcab"), ("LengthBias", "cab")])
def test_the_best_text_is_found_where_no_tree_could_be_grown(name: str, text: str) -> None:
    assert best_text(find_task(name), optimum(find_task(name), 0.0)) == text


def test_the_most_probable_text_of_a_soft_optimum_is_found_among_very_many() -> None:
    task = find_task("Lexicon")
    top = top_completions(task, optimum(task, 0.3), 5)
    assert (np.diff(top.log_prob) <= 1e-12).all()
    sampled = sample_completions(task, optimum(task, 0.3), 2_000, np.random.default_rng(0))
    assert sampled.log_prob.max() <= top.log_prob[0] + 1e-9


@pytest.mark.parametrize("count_prompt", [(0, 0), (1, 2), (1, -1)])
def test_a_count_or_a_prompt_that_is_none_is_refused(count_prompt: tuple[int, int]) -> None:
    task = random_task(0)
    with pytest.raises(ValueError, match="a prompt from 0 to 1"):
        top_completions(task, optimum(task, 1.0), *count_prompt)


def test_samples_follow_the_exact_distribution_by_chi_square() -> None:
    task = random_task(3)
    policy, count = optimum(task, 1.0), 20_000
    sampled = sample_completions(task, policy, count, np.random.default_rng(0))
    exact = enumerate_completions(task, policy)
    keys = {(p, *t.tolist()): row for row, (p, t) in enumerate(zip(exact.prompt, exact.tokens, strict=True))}
    rows = [keys[p, *t.tolist()] for p, t in zip(sampled.prompt, sampled.tokens, strict=True)]
    seen, expected = np.bincount(rows, minlength=len(exact)), count * exact.weights(task)
    often = expected >= 5
    assert often.sum() >= 8

    def chi_square(expected: Floats) -> float:
        return float((((seen - expected) ** 2 / expected)[often]).sum())

    freedom = int(often.sum()) - 1
    limit = freedom + 4 * np.sqrt(2 * freedom)  # four standard deviations of chi-square
    assert chi_square(expected) < limit
    assert (
        chi_square(count * task.prompt_weights[exact.prompt] * np.exp(exact.log_reference)) > limit
    )  # a twin


def test_a_sample_knows_its_own_probability_under_both_policies() -> None:
    task = random_task(3)
    policy = optimum(task, 1.0)
    sampled = sample_completions(task, policy, 50, np.random.default_rng(1))
    assert sampled.log_prob == pytest.approx(log_prob_of(task, policy, sampled), abs=1e-12)
    assert sampled.log_reference == pytest.approx(
        log_prob_of(task, reference_on_tokens(task), sampled), abs=1e-12
    )
    again = sample_completions(task, policy, 50, np.random.default_rng(1))
    assert (sampled.tokens == again.tokens).all()


def test_a_sample_is_never_of_probability_0() -> None:
    probability = np.tile([0.0, 0.7, 0.0, 0.3, 0.0], (2_000, 1)) * np.linspace(0.9, 1.1, 2_000)[:, None]

    class Ends:
        """A generator that returns 0 and the largest number below 1."""

        def random(self, size: int) -> Floats:
            return np.where(np.arange(size) % 2, np.nextafter(1.0, 0.0), 0.0)

    for rng in (np.random.default_rng(0), Ends()):
        assert set(sample_tokens(probability, rng).tolist()) == {1, 3}  # type: ignore[arg-type]


def test_a_deterministic_policy_is_followed_down_one_path_at_any_size() -> None:
    class Ending:
        """Generates 40 letters, then ends."""

        def log_probs(self, batch: TokenBatch) -> Floats:
            token = np.where(batch.length < 40, 0, 26 + 1)
            return np.where(np.arange(28) == token[:, None], 0.0, -np.inf)

    found = enumerate_completions(find_task("Lexicon", 60), Ending())
    assert found.length.tolist() == [41]
    assert found.log_prob.tolist() == [0.0]
    assert found.texts(find_task("Lexicon", 60)) == ["a" * 40]


def test_a_tree_above_its_limit_reports_its_size() -> None:
    task = find_task("Keyword")
    with pytest.raises(TreeTooLargeError, match="at least") as caught:
        enumerate_completions(task, reference_on_tokens(task), limit=1_000)
    assert caught.value.at_least
    assert 1_000 < caught.value.prefixes < count_prefixes(task)


class Answering:
    """A policy that answers with what it is given."""

    def __init__(self, answer: Floats) -> None:
        self.answer = answer

    def log_probs(self, batch: TokenBatch) -> Floats:
        return np.broadcast_to(self.answer, (len(batch.length), len(self.answer)))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([0.0] * 6, "sum to 6"),
        ([np.nan] * 6, "sum to nan"),
        ([0.0, -np.inf], r"give \[B, V\]"),
    ],
)
def test_a_policy_that_is_none_is_refused(answer: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        enumerate_completions(find_task("Flattery"), Answering(np.array(answer)))


def test_a_policy_with_a_masked_token_is_refused() -> None:
    reference = ReferencePolicy(
        np.zeros((1, 3), np.int64),
        np.array([[0.5, 0.0, 0.5]]),
        np.zeros(1, np.int64),
        np.array([[True, False, True]]),
    )
    gold = RewardMachine(np.zeros((1, 3), np.int64), np.zeros((1, 3)), 0.0, 0)  # type: ignore[arg-type]
    task = Task("Masked", Vocabulary.of_characters("ab"), 2, gold, reference=reference)
    assert enumerate_completions(task).texts(task) == ["aa", "a", ""]
    with pytest.raises(ValueError, match=r"token 1 after the tokens .*masked"):
        enumerate_completions(task, Answering(np.log([0.25, 0.5, 0.25])))


def test_a_solution_of_other_tables_is_refused() -> None:
    flattery, keyword = find_task("Flattery"), find_task("Keyword")
    other = TokenModel(keyword, compose(keyword, "gold"))
    solution = solve(other.tabular_mdp(), {"gold": 1.0}, discount=1.0)
    with pytest.raises(ValueError, match=r"solve model\.tabular_mdp"):
        exact_policy(TokenModel(flattery, compose(flattery, "gold")), solution)
