"""Every builder of machines against a direct scorer of the tokens, on random and on adversarial texts."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwalk.envs.rewards.automaton import TooManyStatesError
from tokenwalk.envs.rewards.builders import (
    balanced_brackets,
    exact_answers,
    from_step_function,
    keyword,
    token_weights,
)
from tokenwalk.envs.rewards.machine import RewardMachine

V, H = 4, 12
EOS = V - 1
words = st.lists(st.integers(0, V - 2), min_size=1, max_size=5)


def completions(pieces: Sequence[Sequence[int]] = ()) -> st.SearchStrategy[list[int]]:
    """Draw completions of at most H tokens, made of single tokens and of ``pieces``, most of them ended."""
    piece = st.sampled_from([[token] for token in range(V - 1)] + [list(one) for one in pieces])
    text = st.lists(piece, max_size=H).map(lambda parts: [token for part in parts for token in part][:H])
    return st.tuples(text, st.booleans()).map(lambda t: [*t[0], EOS] if t[1] and len(t[0]) < H else t[0])


def fragments(word: Sequence[int]) -> list[Sequence[int]]:
    """Return every part of ``word``: what a scorer with a mistake trips over."""
    return [word[i:j] for i in range(len(word)) for j in range(i + 1, len(word) + 1)]


def rewards_of(machine: RewardMachine, tokens: list[int], prompt: int | None = None) -> list[float]:
    padded = np.array([tokens + [V] * (H - len(tokens))])
    rewards = machine.run(padded, np.array([len(tokens)]), None if prompt is None else np.array([prompt]))
    assert not rewards[0, len(tokens) :].any()
    return rewards[0, : len(tokens)].tolist()


def spelled(tokens: list[int], word: Sequence[int]) -> list[bool]:
    return [tokens[: t + 1][-len(word) :] == list(word) and t + 1 >= len(word) for t in range(len(tokens))]


@given(st.data(), words)
def test_a_keyword_is_rewarded_wherever_the_last_tokens_spell_it(
    data: st.DataObject, word: list[int]
) -> None:
    tokens = data.draw(completions(fragments(word)))
    machine = keyword(word, V, 0.5)
    assert rewards_of(machine, tokens) == [0.5 * now for now in spelled(tokens, word)]
    assert machine.n_states == len(word)


@given(st.data(), words, st.sampled_from([0.0, -0.05]))
def test_a_keyword_rewarded_once_is_followed_by_what_comes_afterwards(
    data: st.DataObject, word: list[int], afterwards: float
) -> None:
    tokens = data.draw(completions(fragments(word)))
    expected, found = [], False
    for token, now in zip(tokens, spelled(tokens, word), strict=True):
        expected.append((afterwards if token != EOS else 0.0) if found else float(now))
        found = found or now
    assert rewards_of(keyword(word, V, afterwards=afterwards), tokens) == expected


def test_overlapping_occurrences_are_all_rewarded() -> None:
    assert sum(rewards_of(keyword([0, 0], V), [0] * 5)) == 4
    assert sum(rewards_of(keyword([0, 1, 0], V), [0, 1, 0, 1, 0])) == 2


def test_a_keyword_machine_that_starts_over_at_a_mismatch_would_be_noticed() -> None:
    word = [0, 0, 1]

    def forgetful(matched: int, token: int) -> tuple[int, float]:
        if token != word[matched]:
            return 0, 0.0
        return (matched + 1, 0.0) if matched < 2 else (0, 1.0)

    text = [0, 0, 0, 1]
    assert rewards_of(from_step_function(forgetful, [0], V), text) != [
        float(now) for now in spelled(text, word)
    ]
    assert rewards_of(keyword(word, V), text) == [float(now) for now in spelled(text, word)]


@given(st.data(), st.lists(st.lists(st.integers(0, V - 2), max_size=4), min_size=1, max_size=6))
def test_an_exact_answer_is_rewarded_at_eos_to_its_own_prompt_alone(
    data: st.DataObject, answers: list[list[int]]
) -> None:
    prompt = data.draw(st.integers(0, len(answers) - 1))
    tokens = data.draw(st.one_of(completions(), st.sampled_from(answers).map(lambda answer: [*answer, EOS])))
    right = tokens == [*answers[prompt], EOS]
    rewards = rewards_of(exact_answers(answers, V, 2.0), tokens, prompt)
    assert rewards == [0.0] * (len(tokens) - 1) + [2.0 * right] * bool(tokens)


def test_an_exact_answer_that_only_the_horizon_ends_is_not_rewarded() -> None:
    assert sum(rewards_of(exact_answers([[0] * H], V), [0] * H)) == 0
    assert sum(rewards_of(exact_answers([[0] * (H - 1)], V), [0] * (H - 1) + [EOS])) == 1


def balanced(text: str, max_depth: int) -> bool:
    depth = np.cumsum([1 if bracket in "([" else -1 for bracket in text])
    while "()" in text or "[]" in text:
        text = text.replace("()", "").replace("[]", "")
    return not text and (depth.size == 0 or depth.max() <= max_depth)


NESTED = st.recursive(
    st.just(""), lambda s: st.one_of(s.map("({})".format), s.map("[{}]".format), st.tuples(s, s).map("".join))
)
BRACKETS = {
    depth: balanced_brackets([(0, 1), (2, 3)], 5, depth, max_pairs=6, reward_per_pair=0.25)
    for depth in (1, 2, 3)
}


@given(st.one_of(NESTED, st.text("()[]", max_size=10)), st.integers(1, 3))
def test_brackets_are_rewarded_by_the_pair_where_removing_pairs_leaves_nothing(
    text: str, max_depth: int
) -> None:
    text = text[:10]
    machine = BRACKETS[max_depth]
    tokens = np.array([["()[]".index(bracket) for bracket in text] + [4]])
    rewards = machine.run(tokens, np.array([len(text) + 1]))
    assert not rewards[0, :-1].any()
    assert rewards[0, -1] == (len(text) / 2 * 0.25 if balanced(text, max_depth) else 0.0)


def test_more_pairs_than_the_machine_counts_are_not_rewarded() -> None:
    machine = balanced_brackets([(0, 1)], 3, max_depth=2, max_pairs=2, reward_per_pair=1.0)
    for pairs, reward in ((1, 1.0), (2, 2.0), (3, 0.0)):
        assert machine.run(np.array([[0, 1] * pairs + [2]]), np.array([2 * pairs + 1])).sum() == reward


@given(completions(), st.lists(st.floats(-1, 1), min_size=V, max_size=V))
def test_weights_are_the_rewards_of_each_token(tokens: list[int], weights: list[float]) -> None:
    assert rewards_of(token_weights(weights), tokens) == [weights[token] for token in tokens]


def delayed(first: int | None, token: int) -> tuple[int | None, float]:
    if first is None:
        return token, 0.0
    return first, (0.01 if token == 0 else 0.0) if token != EOS else float(first == 1)


@given(completions())
def test_a_step_function_is_rewarded_as_it_says_and_at_the_horizon(tokens: list[int]) -> None:
    machine = from_step_function(delayed, [None], V, lambda first, token: float(first == 1 and token != EOS))
    expected = [0.01 * (time > 0 and token == 0) for time, token in enumerate(tokens)]
    if tokens and tokens[0] == 1 and (len(tokens) == H or tokens[-1] == EOS):
        expected[-1] += 1.0
    assert rewards_of(machine, tokens) == expected
    assert machine.n_states == 3


def test_a_step_function_may_start_elsewhere_for_each_prompt() -> None:
    machine = from_step_function(lambda left, token: (max(left - 1, 0), float(left == 1)), [3, 1, 3], V)
    assert [rewards_of(machine, [0, 0, 0], prompt) for prompt in range(3)] == [
        [0, 0, 1],
        [1, 0, 0],
        [0, 0, 1],
    ]


def test_a_step_function_with_too_many_states_is_refused_with_their_number() -> None:
    with pytest.raises(TooManyStatesError, match=r"more than 100 states \(found 101 after"):
        from_step_function(lambda count, token: (count + 1, 0.0), [0], V, limit=100)
    with pytest.raises(TooManyStatesError, match=r"20,000"):
        from_step_function(lambda text, token: ((*text, token), 0.0), [()], V)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: keyword([], V), "empty"),
        (lambda: keyword([0, EOS], V), "token 3 is out of range: give tokens from 0 to 2, without <eos>"),
        (lambda: keyword([-1], V), "token -1"),
        (lambda: exact_answers([], V), "answers is empty"),
        (lambda: exact_answers([[0], [7]], V), "token 7"),
        (lambda: balanced_brackets([(0, 1), (1, 2)], V, 2, 3, 1.0), "twice"),
        (lambda: token_weights([0.0, np.inf]), "inf"),
    ],
)
def test_tokens_that_are_not_there_are_named(build: Callable[[], RewardMachine], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
