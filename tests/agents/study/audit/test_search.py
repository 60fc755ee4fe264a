"""The searches against what enumeration and backward induction know: the optimum, and how its ties split."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tasks import random_task

from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact.evaluation import evaluate
from tokenwalk.agents.exact_tokens.completions import enumerate_completions, log_prob_of
from tokenwalk.agents.exact_tokens.encode import blank, draft, reference_samples, resampled
from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens
from tokenwalk.agents.study.audit.keywords import spelled, stretches
from tokenwalk.agents.study.audit.mcmc import find_best, walk
from tokenwalk.agents.study.audit.search import Search, beam, imitate, mean_by_prompt, score_completions
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.function import FunctionSource
from tokenwalk.envs.rewards.source import Source, SourceContractError, TokenBatch
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import TokenModel, compose


class Restless:
    """A source that pays each token something of its own, by all the tokens before it and the prompt."""

    name, low, high, paid = "restless", -10.0, 10.0, "token"

    def score(self, batch: TokenBatch) -> FloatArray:
        tokens = np.hstack([batch.prompt, batch.completion]).astype(np.float64)
        return np.sin(tokens @ np.arange(1.0, tokens.shape[1] + 1) + np.asarray(batch.length))


def count_cab(text: str) -> float:
    return float(text.count("cab"))


def length_bias(text: str) -> float:
    return float("cab" in text) + 0.05 * len(text)


def begun(task: Task, source: Source, seed: int = 0, draws: int = 500) -> Search:
    """Return a search that knows some draws of the reference policy and nothing better."""
    search = Search(task, source, np.random.default_rng(seed))
    search.pay(reference_samples(task, search.prompts, draws, search.rng), "the reference policy")
    return search


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_a_draft_is_closed_and_knows_the_mask_and_the_reference_policy(seed: int) -> None:
    task = random_task(seed)
    every = enumerate_completions(task)
    rebuilt, allowed = draft(task, every.prompt, every.tokens)
    assert allowed.all()
    assert (rebuilt.tokens == every.tokens).all()
    assert (rebuilt.length == every.length).all()
    expected = log_prob_of(task, reference_on_tokens(task), every)
    assert rebuilt.log_reference == pytest.approx(expected, abs=1e-12)
    texts = np.array([[0, 3, 3], [1, 2, 0], [0, 1, 0]], dtype=task.vocabulary.dtype)  # <eos> is 2, padding 3
    closed, allowed = draft(task, np.zeros(3, dtype=np.int64), texts)
    assert closed.tokens.tolist() == [[0, 2, 3], [1, 2, 3], [0, 1, 0]]
    assert closed.length.tolist() == [2, 2, 3]
    known = {row.tobytes() for row in every.tokens[every.prompt == 0]}
    assert allowed.tolist() == [row.tobytes() in known for row in closed.tokens]


def test_a_rest_drawn_again_keeps_its_beginning_and_follows_the_reference_policy() -> None:
    task = find_task("Flattery")
    start, _ = draft(task, np.zeros(20_000, dtype=np.int64), np.full((20_000, 5), 3, dtype=np.uint8))
    drawn = resampled(task, start, np.full(20_000, 3), np.random.default_rng(0))
    assert (drawn.tokens[:, :3] == 3).all()
    share = Counter(drawn.tokens[:, 3].tolist())
    for token, probability in enumerate([0.30, 0.22, 0.22, 0.06, 0.04, 0.16]):
        error = 4 * np.sqrt(probability * (1 - probability) / 20_000)
        assert share[token] / 20_000 == pytest.approx(probability, abs=error)
    empty = blank(task, np.zeros(50, dtype=np.int64))
    full = resampled(task, empty, np.zeros(50, dtype=np.int64), np.random.default_rng(0), without_eos=True)
    assert (full.length == 5).all()
    assert task.vocabulary.eos not in full.tokens


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=6)
def test_on_small_tasks_it_finds_what_enumeration_finds_after_every_prompt(seed: int) -> None:
    task, source = random_task(seed), Restless()
    every = enumerate_completions(task)
    pay = score_completions(task, source, every)  # type: ignore[arg-type]
    search = begun(task, source, draws=3)  # type: ignore[arg-type]
    find_best(search, 1_000)
    assert search.best == pytest.approx([pay[every.prompt == prompt].max() for prompt in search.prompts])
    assert search.span()[1] == pytest.approx(search.best.max())


@pytest.mark.parametrize("seed", [0, 1])
def test_a_function_that_cannot_be_enumerated_is_brought_to_the_optimum_that_dynamic_programming_knows(
    seed: int,
) -> None:
    task = find_task("Keyword")
    mdp = TokenModel(task, compose(task, "gold")).tabular_mdp()
    search = begun(task, FunctionSource("f", count_cab, task.vocabulary), seed)
    beam(search, 40_000)
    assert search.mean_best() == solve(mdp, {"gold": 1.0}, discount=1.0).start_value(mdp) == 5.0
    assert search.ties(0).texts(task)[0].count("cab") == 5


def test_the_policy_search_and_the_walk_climb_by_themselves_far_above_what_is_ever_drawn() -> None:
    task = find_task("Keyword")
    source = FunctionSource("f", count_cab, task.vocabulary)
    drawn = begun(task, source)
    assert drawn.mean_best() <= 2
    for method in (imitate, walk):
        search = begun(task, source)
        method(search, 30_000)
        assert search.mean_best() >= 4
        assert "search" in search.origin[0] or "walk" in search.origin[0]


def test_the_walk_splits_ties_per_completion_and_the_texts_it_found_do_not() -> None:
    task = find_task("LengthBias")
    mdp = TokenModel(task, compose(task, "proxy")).tabular_mdp()
    policy = solve(mdp, {"proxy": 1.0}, discount=1.0).policy
    exact = evaluate(mdp, policy).returns["gold"]
    assert exact == pytest.approx(0.6735, abs=1e-4)
    search = begun(task, FunctionSource("f", length_bias, task.vocabulary))
    draws = find_best(search, 60_000)
    gold = task.sources["gold"]
    walked = mean_by_prompt(task, draws, score_completions(task, gold, draws))
    found = score_completions(task, gold, search.ties(0)).mean()  # the twin: whatever a search came across
    assert search.mean_best() == pytest.approx(1.8)
    assert walked == pytest.approx(exact, abs=0.06)
    assert abs(found - exact) > 0.1


@pytest.mark.parametrize("seed", [3, 11, 22, 34])  # ties of very different probability, masks, two prompts
def test_on_small_tasks_the_walks_draws_are_the_optimum_with_its_ties_split(seed: int) -> None:
    task = random_task(seed)
    mdp = TokenModel(task, compose(task, "proxy")).tabular_mdp()
    exact = evaluate(mdp, solve(mdp, {"proxy": 1.0}, discount=1.0).policy).returns["gold"]
    search = Search(task, task.sources["proxy"], np.random.default_rng(seed))
    search.pay(enumerate_completions(task), "all of them")
    draws = walk(search, 40_000)
    gold = score_completions(task, task.sources["gold"], draws)
    assert mean_by_prompt(task, draws, gold) == pytest.approx(exact, abs=0.1)
    ties = [search.ties(where) for where in range(len(search.prompts))]
    even = [float(score_completions(task, task.sources["gold"], one).mean()) for one in ties]  # the twin
    assert abs(task.prompt_weights[search.prompts] @ np.array(even) - exact) > 0.5


def test_no_text_is_scored_twice_and_the_same_seed_finds_the_same() -> None:
    task, seen = find_task("Flattery"), Counter[str]()

    def counted(text: str) -> float:
        seen[text] += 1
        return text.count("great") / (1 + len(text))

    searches = []
    for _ in range(2):
        seen.clear()
        searches.append(begun(task, FunctionSource("f", counted, task.vocabulary), seed=3))
        draws = find_best(searches[-1], 4_000)
        assert set(seen.values()) == {1}
        assert searches[-1].scored == len(seen)
    assert searches[0].best.tolist() == searches[1].best.tolist()
    assert searches[0].ties(0).texts(task) == searches[1].ties(0).texts(task)
    assert draws.prompt.tolist() == [0] * len(draws)


def test_a_reward_that_breaks_in_the_middle_of_a_search_is_named_with_its_text() -> None:
    task = find_task("Keyword")

    def breaks(text: str) -> float:
        return float("nan") if text.startswith("cabc") else float(text.startswith("cab"))

    search = begun(task, FunctionSource("breaks", breaks, task.vocabulary), draws=50)
    with pytest.raises(SourceContractError, match=r"'breaks' returned nan for prompt '', completion 'cabc"):
        find_best(search, 20_000)


def test_words_are_read_off_a_rewards_own_code() -> None:
    task = find_task("Lexicon")
    known = {"boat", "zebra9"}

    def nested(text: str) -> float:
        """The word harbour of this docstring is no part of what is paid."""
        return float(any(word in text for word in known)) + text.count("great")

    source = FunctionSource("nested", nested, task.vocabulary)
    words = [task.vocabulary.decode(word) for word in spelled(source, task)]
    assert {"boat", "great", "great ", "boat "} <= set(words)
    assert not any("harbour" in word or "9" in word for word in words)
    assert any("great" in word and "boat" in word for word in words)  # all of them in a row
    assert spelled(task.sources["gold"], task) == []


def test_stretches_are_the_pieces_of_two_to_eight_tokens() -> None:
    task = find_task("Keyword")
    text, _ = draft(task, np.zeros(1, dtype=np.int64), np.array([[2, 0, 1] + [9] * 13], dtype=np.uint8))
    assert stretches(text, task.vocabulary.eos) == [(2, 0), (0, 1), (2, 0, 1)]
