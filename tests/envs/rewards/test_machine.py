"""Reward machines: the walk through them, their algebra, their smallest form and their range."""

from functools import lru_cache
from itertools import product as tuples
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwalk.envs.arrays import FloatArray, IntArray
from tokenwalk.envs.rewards.automaton import TooManyStatesError, partition, product
from tokenwalk.envs.rewards.machine import RewardMachine

V, H = 4, 5  # token 3 is <eos>
seeds = st.integers(0, 2**32 - 1)


def random_machine(seed: int, n_states: int = 4, n_starts: int = 1) -> RewardMachine:
    rng = np.random.default_rng(seed)
    shape = n_states, V
    reward, extra = (rng.integers(-2, 3, shape) * rng.choice([0.1, 0.3, 1.0]) for _ in range(2))
    return RewardMachine(
        rng.integers(n_states, size=shape), reward, extra, rng.integers(n_states, size=n_starts)
    )


@lru_cache
def every_completion(horizon: int = H) -> tuple[IntArray, IntArray]:
    """Return all completions of up to ``horizon`` tokens, padded with V, and their lengths."""
    texts = [text for size in range(horizon + 1) for text in tuples(range(V - 1), repeat=size)]
    ended = [(*text, V - 1) for text in texts if len(text) < horizon] + [
        t for t in texts if len(t) == horizon
    ]
    rows = [(*text, *[V] * (horizon - len(text))) for text in ended]
    return np.array(rows), np.array([len(text) for text in ended])


def walked(machine: RewardMachine, tokens: IntArray, length: int, start: int) -> list[float]:
    """Return the reward of each token by a walk through the tables, one step at a time."""
    state, rewards = start, []
    for time, token in enumerate(tokens[:length]):
        extra = machine.reward_at_horizon[state, token] if time == len(tokens) - 1 else 0.0
        rewards.append(machine.reward[state, token] + extra)
        state = machine.next_state[state, token]
    return rewards + [0.0] * (len(tokens) - length)


def totals(machine: RewardMachine) -> FloatArray:
    return machine.run(*every_completion())


@given(seeds)
def test_a_batch_has_the_rewards_of_a_walk_through_the_tables(seed: int) -> None:
    machine = random_machine(seed, n_starts=3)
    completion, length = every_completion()
    prompt = np.random.default_rng(seed).integers(3, size=len(length))
    expected = [walked(machine, *row) for row in zip(completion, length, machine.start[prompt], strict=True)]
    assert np.array_equal(machine.run(completion, length, prompt), expected)


def test_a_walk_that_pays_the_horizon_too_early_would_be_noticed() -> None:
    machine = random_machine(5)
    completion, length = every_completion()
    twin = RewardMachine(machine.next_state, machine.reward + machine.reward_at_horizon, 0.0, machine.start)  # type: ignore[arg-type]
    assert not np.array_equal(machine.run(completion, length), twin.run(completion, length))


def test_small_unsigned_tokens_and_partial_completions_are_read_alike() -> None:
    machine = random_machine(1)
    completion, _ = every_completion()
    length = np.minimum(2, (completion < V).sum(axis=1))
    whole = machine.run(completion, length)
    assert np.array_equal(machine.run(completion.astype(np.uint8), length.astype(np.uint8)), whole)
    assert not whole[:, 2:].any()


@given(seeds, seeds)
def test_a_sum_pays_what_both_pay(left: int, right: int) -> None:
    one, other = random_machine(left), random_machine(right)
    assert np.allclose(totals(one + other), totals(one) + totals(other), rtol=0, atol=1e-12)


@given(seeds, st.floats(-3, 3))
def test_a_scaled_machine_pays_in_proportion(seed: int, factor: float) -> None:
    machine = random_machine(seed)
    assert np.allclose(totals(factor * machine), factor * totals(machine), rtol=0, atol=1e-12)
    assert np.array_equal(totals(machine * factor), totals(factor * machine))


@given(seeds, seeds)
def test_a_product_pays_the_product_of_both_rewards_of_a_token(left: int, right: int) -> None:
    one, other = random_machine(left), random_machine(right)
    assert np.allclose(totals(one * other), totals(one) * totals(other), rtol=0, atol=1e-12)


def test_a_sum_of_one_start_and_several_has_several() -> None:
    both = random_machine(1) + random_machine(2, n_starts=5)
    assert both.start.shape == (5,)
    with pytest.raises(ValueError, match="3, 5"):
        both + random_machine(3, n_starts=3)


@given(seeds)
def test_the_smallest_machine_pays_the_same_and_cannot_shrink(seed: int) -> None:
    machine = random_machine(seed, n_starts=2)
    small = machine.minimized()
    completion, length = every_completion()
    for prompt in (0, 1):
        rows = np.full(len(length), prompt)
        assert np.array_equal(small.run(completion, length, rows), machine.run(completion, length, rows))
    assert small.n_states <= machine.n_states
    assert small.minimized().n_states == small.n_states
    # No two of its states pay alike for every completion.
    variants = [
        RewardMachine(small.next_state, small.reward, small.reward_at_horizon, np.array([q]))
        for q in range(small.n_states)
    ]
    assert len({totals(one).tobytes() for one in variants}) == small.n_states


def test_doubled_and_unreachable_states_disappear() -> None:
    machine = random_machine(3).minimized()
    q = machine.n_states
    # Every state twice, its successors among both copies, and one more that nothing leads to.
    copies = np.vstack([machine.next_state, machine.next_state]) + q * np.random.default_rng(0).integers(
        2, size=(2 * q, V)
    )
    tables = [np.vstack([table, table, table[:1]]) for table in (machine.reward, machine.reward_at_horizon)]
    doubled = RewardMachine(np.vstack([copies, copies[:1]]), *tables, machine.start)  # type: ignore[call-arg]
    assert doubled.minimized().n_states == q
    assert np.array_equal(totals(doubled.minimized()), totals(machine))


def test_merging_states_by_their_rewards_alone_would_be_noticed() -> None:
    # Both states pay nothing at once, but only one of them leads to pay.
    next_state = np.array([[0, 1, 2, 0], [0, 1, 0, 0], [2, 2, 2, 0]])
    reward = np.array([[0.0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]])
    by_reward = np.unique(reward, axis=0, return_inverse=True)[1].reshape(-1)
    assert by_reward.max() == 1
    assert partition(next_state, reward).max() == 2


@given(seeds)
def test_the_range_is_the_least_and_the_greatest_reward_of_any_token(seed: int) -> None:
    machine = random_machine(seed, n_states=6)
    for horizon in (1, 2, 3):
        completion, length = every_completion(horizon)
        written = machine.run(completion, length)[np.arange(horizon) < length[:, None]]
        assert machine.bounds(horizon) == (written.min(), written.max())


def test_only_the_end_pays_where_no_other_token_does() -> None:
    shape = 2, V
    reward = np.zeros(shape)
    reward[:, V - 1] = 1.0
    at_end = RewardMachine(np.zeros(shape, int), reward, np.ones(shape), 0)  # type: ignore[arg-type]
    assert at_end.timing == "end"
    reward[1, 0] = 0.5
    assert RewardMachine(np.zeros(shape, int), reward, np.ones(shape), 0).timing == "token"  # type: ignore[arg-type]


TABLE = np.zeros((2, V), dtype=np.int64)
ZERO = np.zeros((2, V))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.full((2, V), 2), ZERO, ZERO, 0), "next_state holds the state 2: give states from 0 to 1"),
        ((np.full((2, V), -1), ZERO, ZERO, 0), "next_state holds the state -1"),
        ((TABLE, ZERO, ZERO, 2), "start holds the state 2"),
        ((TABLE, ZERO, ZERO, [0, -1]), "start holds the state -1"),
        ((TABLE, ZERO, ZERO, []), "start has"),
        ((TABLE.astype(float), ZERO, ZERO, 0), "next_state has dtype float64"),
        ((TABLE[0], ZERO, ZERO, 0), "give .Q, V."),
        ((TABLE, ZERO[:, 1:], ZERO, 0), "reward has shape"),
        ((TABLE, ZERO, ZERO[:1], 0), "reward_at_horizon has shape"),
        ((TABLE, ZERO + np.nan, ZERO, 0), "reward is nan for token 0 in state 0"),
        ((TABLE, ZERO, ZERO - np.inf, 0), "reward_at_horizon is -inf"),
    ],
)
def test_a_machine_that_makes_no_sense_is_refused_by_name(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardMachine(*arguments)


@pytest.mark.parametrize(
    ("completion", "length", "prompt", "message"),
    [
        ([[0, 4]], [2], [0], "token 4 is out of range"),
        ([[0, -1]], [2], [0], "token -1 is out of range"),
        ([[0, 1]], [3], [0], "length spans 3 to 3: completion has 2 columns"),
        ([[0, 1]], [-1], [0], "length spans -1"),
        ([[3, 1]], [2], [0], "goes on after <eos>"),
        ([[0.0, 1.0]], [2], [0], "give integers"),
        ([0, 1], [2], [0], "give integers"),
        ([[0, 1]], [2], None, "2 prompts"),
        ([[0, 1]], [2], [2], "prompt spans 2 to 2: give 0 to 1"),
    ],
)
def test_tokens_that_no_episode_could_hold_are_refused_by_name(
    completion: Any, length: Any, prompt: Any, message: str
) -> None:
    machine = random_machine(0, n_starts=2)
    with pytest.raises(ValueError, match=message):
        machine.run(np.array(completion), np.array(length), None if prompt is None else np.array(prompt))


def test_machines_of_two_vocabularies_are_not_added() -> None:
    other = RewardMachine(np.zeros((1, 3), int), np.zeros((1, 3)), np.zeros((1, 3)), np.zeros(1, int))
    with pytest.raises(ValueError, match="4 tokens, the other 3"):
        random_machine(0) + other


def test_a_product_beyond_its_limit_is_refused_with_the_count() -> None:
    # Counters modulo 7 and 11 meet in all 77 pairs.
    tables = [np.tile((np.arange(size) + 1) % size, (2, 1)).T for size in (7, 11)]
    starts = [np.zeros(1, dtype=np.int64)] * 2
    assert len(product(tables, starts).next_state) == 77
    with pytest.raises(TooManyStatesError, match=r"more than 40 reachable ones \(found 41"):
        product(tables, starts, limit=40)
    with pytest.raises(TooManyStatesError, match="minimize"):
        product([np.zeros((10**4, 2), dtype=np.int64)] * 5, [np.zeros(1, dtype=np.int64)] * 5)


def test_a_machine_cannot_be_changed_behind_the_back_of_its_users() -> None:
    given_table = np.zeros((2, V))
    machine = RewardMachine(TABLE, given_table, ZERO, 0)  # type: ignore[arg-type]
    given_table[:] = 1.0
    assert not machine.reward.any()
    with pytest.raises(ValueError, match="read-only"):
        machine.reward[0, 0] = 1.0
