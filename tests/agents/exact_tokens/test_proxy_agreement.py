"""How a proxy agrees with gold: every figure against a loop over all pairs or all completions."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokenwalk.agents.exact_tokens.proxy_agreement import (
    correlation,
    gold_of_argmax,
    mean_and_std,
    pair_accuracy,
    tied_levels,
    worst_exploit,
)

Floats = NDArray[np.float64]


def random_columns(seed: int) -> tuple[NDArray[np.int64], Floats, Floats, Floats]:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 12))
    prompt = rng.integers(0, 3, count)
    weight = rng.dirichlet(np.ones(count))
    return prompt, weight, rng.integers(0, 3, count) * 1.0, rng.integers(0, 3, count) * 0.5


def pairs_by_hand(prompt: NDArray[np.int64], weight: Floats, gold: Floats, proxy: Floats) -> float | None:
    right = total = 0.0
    for i, j in itertools.product(range(len(gold)), repeat=2):
        if prompt[i] != prompt[j] or gold[i] == gold[j]:
            continue
        # the prompt by its weight, then two completions of it
        mass = weight[i] * weight[j] / weight[prompt == prompt[i]].sum()
        total += mass
        agrees = (gold[i] - gold[j]) * (proxy[i] - proxy[j])
        right += mass * (1.0 if agrees > 0 else 0.5 if agrees == 0 else 0.0)
    return right / total if total else None


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_the_accuracy_is_that_of_all_pairs(seed: int) -> None:
    columns = random_columns(seed)
    by_hand = pairs_by_hand(*columns)
    if by_hand is None:
        assert pair_accuracy(*columns) is None
    else:
        assert pair_accuracy(*columns) == pytest.approx(by_hand, abs=1e-12)


def test_a_broken_twin_that_compares_across_prompts_is_another() -> None:
    prompt, weight = np.array([0, 0, 1, 1]), np.full(4, 0.25)
    gold, proxy = np.array([0.0, 1.0, 10.0, 11.0]), np.array([5.0, 6.0, 0.0, 1.0])
    assert pair_accuracy(prompt, weight, gold, proxy) == 1.0
    assert pair_accuracy(np.zeros(4, int), weight, gold, proxy) == pytest.approx(1 / 3)


def test_the_correlation_is_numpys_and_a_constant_has_none() -> None:
    rng = np.random.default_rng(0)
    gold, proxy = rng.normal(size=(2, 50))
    assert correlation(np.ones(50), gold, proxy) == pytest.approx(np.corrcoef(gold, proxy)[0, 1])
    weight = rng.integers(1, 4, 50)
    repeated = np.repeat(gold, weight), np.repeat(proxy, weight)
    assert correlation(weight * 1.0, gold, proxy) == pytest.approx(np.corrcoef(*repeated)[0, 1])
    assert correlation(weight * 1.0, gold, np.full(50, 0.1)) is None
    assert mean_and_std(weight * 1.0, np.full(50, 0.1))[1] == 0.0


def test_the_worst_exploit_and_the_gold_of_the_argmax_are_those_of_a_list() -> None:
    prompt = np.array([0, 0, 0, 1, 1])
    weight = np.array([0.1, 0.3, 0.2, 0.4, 0.0])
    gold = np.array([1.0, 2.0, 0.0, 5.0, -1.0])
    proxy = np.array([3.0, 3.0, 1.0, 0.0, 4.0])
    worst = worst_exploit(gold, proxy)
    assert (worst.row, worst.proxy, worst.gold) == (4, 4.0, -1.0)
    # prompt 0: two tie, split 1 to 3; prompt 1: a completion of probability 0 is still the argmax
    expected = 0.6 * (0.1 * 1 + 0.3 * 2) / 0.4 + 0.4 * -1.0
    assert gold_of_argmax(prompt, weight, gold, proxy) == pytest.approx(expected)
    split_evenly = 0.6 * 1.5 + 0.4 * -1.0  # a twin
    assert abs(split_evenly - expected) > 0.1


def test_sums_in_another_order_are_one_level() -> None:
    assert tied_levels(np.array([0.1 + 0.2 + 0.3, 1.0, 0.3 + 0.2 + 0.1])).tolist() == [0, 1, 0]
