"""The searches against enumeration and backward induction: the optimum and its ties."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tasks import random_task

from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact.evaluation import evaluate
from tokenwalk.agents.exact_tokens.completions import enumerate_completions, log_prob_of
from tokenwalk.agents.exact_tokens.encode import blank, encode_completions, reference_samples, resampled
from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens
from tokenwalk.agents.study.audit.keywords import ngrams, words_in_code
from tokenwalk.agents.study.audit.mcmc import find_best, mcmc
from tokenwalk.agents.study.audit.search import Search, beam, cross_entropy, mean_by_prompt, score_completions
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.function import FunctionSource
from tokenwalk.envs.rewards.source import Source, SourceContractError, TokenBatch
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import TokenModel, compose


class PerToken:
    """A reward per token that depends on the prompt and all tokens before."""

    name, low, high, timing = "per-token", -10.0, 10.0, "token"

    def score(self, batch: TokenBatch) -> FloatArray:
        tokens = np.hstack([batch.prompt, batch.completion]).astype(np.float64)
        return np.sin(tokens @ np.arange(1.0, tokens.shape[1] + 1) + np.asarray(batch.length))


def count_cab(text: str) -> float:
    return float(text.count("cab"))


def length_bias(text: str) -> float:
    return float("cab" in text) + 0.05 * len(text)


def started(task: Task, source: Source, seed: int = 0, samples: int = 500) -> Search:
    """Return a search that has scored only samples of the reference policy."""
    search = Search(task, source, np.random.default_rng(seed))
    search.score(reference_samples(task, search.prompts, samples, search.rng), "the reference policy")
    return search


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_encoded_completions_are_closed_and_have_the_mask_and_the_reference_policy(seed: int) -> None:
    task = random_task(seed)
    every = enumerate_completions(task)
    rebuilt, allowed = encode_completions(task, every.prompt, every.tokens)
    assert allowed.all()
    assert (rebuilt.tokens == every.tokens).all()
    assert (rebuilt.length == every.length).all()
    expected = log_prob_of(task, reference_on_tokens(task), every)
    assert rebuilt.log_reference == pytest.approx(expected, abs=1e-12)
    texts = np.array([[0, 3, 3], [1, 2, 0], [0, 1, 0]], dtype=task.vocabulary.dtype)  # <eos> is 2, padding 3
    closed, allowed = encode_completions(task, np.zeros(3, dtype=np.int64), texts)
    assert closed.tokens.tolist() == [[0, 2, 3], [1, 2, 3], [0, 1, 0]]
    assert closed.length.tolist() == [2, 2, 3]
    known = {row.tobytes() for row in every.tokens[every.prompt == 0]}
    assert allowed.tolist() == [row.tobytes() in known for row in closed.tokens]


def test_a_resampled_rest_keeps_the_prefix_and_follows_the_reference_policy() -> None:
    task = find_task("Flattery")
    start, _ = encode_completions(
        task, np.zeros(20_000, dtype=np.int64), np.full((20_000, 5), 3, dtype=np.uint8)
    )
    sampled = resampled(task, start, np.full(20_000, 3), np.random.default_rng(0))
    assert (sampled.tokens[:, :3] == 3).all()
    share = Counter(sampled.tokens[:, 3].tolist())
    for token, probability in enumerate([0.30, 0.22, 0.22, 0.06, 0.04, 0.16]):
        error = 4 * np.sqrt(probability * (1 - probability) / 20_000)
        assert share[token] / 20_000 == pytest.approx(probability, abs=error)
    empty = blank(task, np.zeros(50, dtype=np.int64))
    full = resampled(task, empty, np.zeros(50, dtype=np.int64), np.random.default_rng(0), without_eos=True)
    assert (full.length == 5).all()
    assert task.vocabulary.eos not in full.tokens


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=6)
def test_on_small_tasks_the_search_finds_the_optimum_of_enumeration_for_every_prompt(seed: int) -> None:
    task, source = random_task(seed), PerToken()
    every = enumerate_completions(task)
    reward = score_completions(task, source, every)  # type: ignore[arg-type]
    search = started(task, source, samples=3)  # type: ignore[arg-type]
    find_best(search, 1_000)
    assert search.best == pytest.approx([reward[every.prompt == prompt].max() for prompt in search.prompts])
    assert search.span()[1] == pytest.approx(search.best.max())


@pytest.mark.parametrize("seed", [0, 1])
def test_beam_search_finds_the_optimum_of_dynamic_programming_where_enumeration_is_too_large(
    seed: int,
) -> None:
    task = find_task("Keyword")
    mdp = TokenModel(task, compose(task, "gold")).tabular_mdp()
    search = started(task, FunctionSource("f", count_cab, task.vocabulary), seed)
    beam(search, 40_000)
    assert search.mean_best() == solve(mdp, {"gold": 1.0}, discount=1.0).start_value(mdp) == 5.0
    assert search.ties(0).texts(task)[0].count("cab") == 5


def test_cross_entropy_and_mcmc_alone_improve_far_above_the_reference_samples() -> None:
    task = find_task("Keyword")
    source = FunctionSource("f", count_cab, task.vocabulary)
    sampled = started(task, source)
    assert sampled.mean_best() <= 2
    for method in (cross_entropy, mcmc):
        search = started(task, source)
        method(search, 30_000)
        assert search.mean_best() >= 4
        assert search.origin[0] in ("cross-entropy method", "MCMC")


def test_mcmc_splits_ties_per_completion_and_the_texts_found_do_not() -> None:
    task = find_task("LengthBias")
    mdp = TokenModel(task, compose(task, "proxy")).tabular_mdp()
    policy = solve(mdp, {"proxy": 1.0}, discount=1.0).policy
    exact = evaluate(mdp, policy).returns["gold"]
    assert exact == pytest.approx(0.6735, abs=1e-4)
    search = started(task, FunctionSource("f", length_bias, task.vocabulary))
    samples = find_best(search, 60_000)
    gold = task.sources["gold"]
    sampled = mean_by_prompt(task, samples, score_completions(task, gold, samples))
    found = score_completions(
        task, gold, search.ties(0)
    ).mean()  # the wrong twin: all texts that the search found
    assert search.mean_best() == pytest.approx(1.8)
    assert sampled == pytest.approx(exact, abs=0.06)
    assert abs(found - exact) > 0.1


@pytest.mark.parametrize("seed", [3, 11, 22, 34])  # ties of very different probability, masks, two prompts
def test_on_small_tasks_mcmc_samples_are_the_optimum_with_its_ties_split(seed: int) -> None:
    task = random_task(seed)
    mdp = TokenModel(task, compose(task, "proxy")).tabular_mdp()
    exact = evaluate(mdp, solve(mdp, {"proxy": 1.0}, discount=1.0).policy).returns["gold"]
    search = Search(task, task.sources["proxy"], np.random.default_rng(seed))
    search.score(enumerate_completions(task), "all of them")
    samples = mcmc(search, 40_000)
    gold = score_completions(task, task.sources["gold"], samples)
    assert mean_by_prompt(task, samples, gold) == pytest.approx(exact, abs=0.1)
    ties = [search.ties(where) for where in range(len(search.prompts))]
    even = [
        float(score_completions(task, task.sources["gold"], one).mean()) for one in ties
    ]  # the wrong twin
    assert abs(task.prompt_weights[search.prompts] @ np.array(even) - exact) > 0.5


def test_no_text_is_scored_twice_and_the_same_seed_finds_the_same() -> None:
    task, seen = find_task("Flattery"), Counter[str]()

    def counted(text: str) -> float:
        seen[text] += 1
        return text.count("great") / (1 + len(text))

    searches = []
    for _ in range(2):
        seen.clear()
        searches.append(started(task, FunctionSource("f", counted, task.vocabulary), seed=3))
        samples = find_best(searches[-1], 4_000)
        assert set(seen.values()) == {1}
        assert searches[-1].scored == len(seen)
    assert searches[0].best.tolist() == searches[1].best.tolist()
    assert searches[0].ties(0).texts(task) == searches[1].ties(0).texts(task)
    assert samples.prompt.tolist() == [0] * len(samples)


def test_a_reward_that_fails_during_a_search_is_named_with_its_text() -> None:
    task = find_task("Keyword")

    def breaks(text: str) -> float:
        return float("nan") if text.startswith("cabc") else float(text.startswith("cab"))

    search = started(task, FunctionSource("breaks", breaks, task.vocabulary), samples=50)
    with pytest.raises(SourceContractError, match=r"'breaks' returned nan for prompt '', completion 'cabc"):
        find_best(search, 20_000)


def test_keywords_are_read_from_the_code_of_a_reward() -> None:
    task = find_task("Lexicon")
    known = {"boat", "zebra9"}

    def nested(text: str) -> float:
        """The word harbor in this docstring has no reward."""
        return float(any(word in text for word in known)) + text.count("great")

    source = FunctionSource("nested", nested, task.vocabulary)
    words = [task.vocabulary.decode(word) for word in words_in_code(source, task)]
    assert {"boat", "great", "great ", "boat "} <= set(words)
    assert not any("harbor" in word or "9" in word for word in words)
    assert any("great" in word and "boat" in word for word in words)  # all of them in a row
    assert words_in_code(task.sources["gold"], task) == []


def test_ngrams_have_two_to_eight_tokens() -> None:
    task = find_task("Keyword")
    text, _ = encode_completions(
        task, np.zeros(1, dtype=np.int64), np.array([[2, 0, 1] + [9] * 13], dtype=np.uint8)
    )
    assert ngrams(text, task.vocabulary.eos) == [(2, 0), (0, 1), (2, 0, 1)]
