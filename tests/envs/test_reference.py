"""Reference policies: counts and smoothing by hand, distributions, masks, and the machine of the log-probability."""

from itertools import product as tuples
from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwalk.envs.reference import ReferencePolicy, fit_ngram, independent, uniform
from tokenwalk.envs.rewards.automaton import TooManyStatesError

V, EOS = 4, 3
lines = st.lists(st.lists(st.integers(0, V - 2), max_size=6), max_size=5)


def context_after(policy: ReferencePolicy, tokens: tuple[int, ...]) -> int:
    context = int(policy.start[0])
    for token in tokens:
        context = int(policy.next_context[context, token])
    return context


@given(lines, st.integers(1, 3), st.floats(0.01, 2.0))
def test_an_ngram_is_its_counts_with_the_smoothing_added(
    text: list[list[int]], order: int, smoothing: float
) -> None:
    policy = fit_ngram(text, V, order, smoothing)
    for size in range(4):
        for prefix in tuples(range(V - 1), repeat=size):
            kept = prefix[max(0, size - order + 1) :] if order > 1 else ()
            counts = np.zeros(V)
            for line in text:
                for place, token in enumerate([*line, EOS]):
                    before = tuple(line[max(0, place - order + 1) : place]) if order > 1 else ()
                    counts[token] += before == kept
            expected = (counts + smoothing) / (counts.sum() + V * smoothing)
            assert np.allclose(
                policy.probability[context_after(policy, prefix)], expected, rtol=0, atol=1e-12
            )


def test_a_bigram_forgets_all_but_the_last_token_and_knows_the_start() -> None:
    policy = fit_ngram([[0, 1], [0, 1], [2, 1]], V, order=2, smoothing=0.1)
    assert context_after(policy, (0, 2, 1)) == context_after(policy, (1,))
    assert policy.probability[policy.start[0], 0] == pytest.approx(2.1 / 3.4)
    assert policy.probability[context_after(policy, (1,)), EOS] == pytest.approx(3.1 / 3.4)


@given(lines)
def test_the_log_probability_is_a_machine_that_pays_each_token(text: list[list[int]]) -> None:
    policy = fit_ngram(text, V)
    machine = policy.as_machine()
    tokens = (0, 2, 2, 1, EOS)
    expected = [
        log(policy.probability[context_after(policy, tokens[:t]), token]) for t, token in enumerate(tokens)
    ]
    assert np.allclose(machine.run(np.array([tokens]), np.array([5]))[0], expected, rtol=0, atol=1e-12)


def test_a_probability_of_zero_has_no_machine() -> None:
    with pytest.raises(ValueError, match="token 1 has probability 0 in context 0: smooth"):
        independent([0.5, 0.0, 0.5]).as_machine()


def test_uniform_and_independent_have_one_context() -> None:
    assert np.array_equal(uniform(4).probability, np.full((1, 4), 0.25))
    assert np.array_equal(np.exp(independent([0.5, 0.25, 0.25]).log_probability), [[0.5, 0.25, 0.25]])
    assert independent([1.0, 0.0]).log_probability[0, 1] == -np.inf


TABLE = np.zeros((2, 3), dtype=np.int64)
EVEN = np.full((2, 3), 1 / 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TABLE, EVEN * 1.01, 0), "the reference policy sums to 1.01, not to 1"),
        ((TABLE, np.array([[1.5, -0.5, 0.0]] * 2), 0), "-0.5"),
        ((TABLE, EVEN * np.nan, 0), "nan"),
        ((TABLE, EVEN[:1], 0), "probability has shape"),
        ((TABLE + 2, EVEN, 0), "next_context holds the state 2"),
        ((TABLE, EVEN, 2), "start holds the state 2"),
        ((TABLE, EVEN, 0, np.ones((2, 2), dtype=bool)), "available has shape"),
        ((TABLE, EVEN, 0, np.ones((2, 3))), "dtype float64"),
        (
            (TABLE, EVEN, 0, np.array([[True, True, False]] * 2)),
            "token 2 has probability .* where it is not available",
        ),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_by_name(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReferencePolicy(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[3]], V), "token 3 is out of range"),
        (([[0]], V, 0), "order is 0"),
        (([[0]], V, 2, 0.0), "smoothing 0.0"),
        (([[0]], V, 2, float("inf")), "smoothing inf"),
    ],
)
def test_an_ngram_that_cannot_be_fitted_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_ngram(*arguments)


def test_too_many_contexts_are_refused_with_their_number() -> None:
    with pytest.raises(TooManyStatesError, match="order 4 over 51 tokens has 127,551 contexts"):
        fit_ngram([[0]], 51, order=4)
