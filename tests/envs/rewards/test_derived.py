"""Clips and gates: a new source each, exact where the parts are machines."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.builders import keyword, token_weights
from tokenwalk.envs.rewards.derived import Clipped, Gated, clipped, gated
from tokenwalk.envs.rewards.machine import RewardMachine
from tokenwalk.envs.rewards.source import MachineSource, Source, SourceContractError, TokenBatch, score_tokens
from tokenwalk.envs.tasks import find_task
from tokenwalk.envs.vocabulary import Vocabulary

ABC, HORIZON = Vocabulary.of_characters("abc"), 6


@dataclass(frozen=True)
class Opaque:
    """A source that hides its machine."""

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

    def score(self, batch: TokenBatch) -> FloatArray:
        return self.inner.score(batch)


def machine_source(name: str, machine: RewardMachine) -> MachineSource:
    return MachineSource(name, machine, HORIZON)


def random_source(seed: int, name: str = "inner", whole: bool = False) -> MachineSource:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 4)), ABC.size)
    reward, last = (
        (rng.integers(0, 2, shape) * 1.0, np.zeros(shape)) if whole else rng.normal(size=(2, *shape))
    )
    return machine_source(
        name, RewardMachine(rng.integers(shape[0], size=shape), reward, last, np.zeros(1, int))
    )


def some_texts(seed: int, count: int = 20) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, ABC.size, (count, HORIZON))
    ended = tokens == ABC.eos
    length = np.where(ended.any(axis=1), ended.argmax(axis=1) + 1, HORIZON)
    return np.where(np.arange(HORIZON) < length[:, None], tokens, ABC.pad), length


def scores(source: Source, seed: int) -> FloatArray:
    tokens, length = some_texts(seed)
    prompt = np.zeros((len(tokens), 0), int)
    return score_tokens([source], prompt, tokens, length, ABC)[source.name]  # type: ignore[arg-type]


@given(st.integers(0, 10_000))
def test_a_clipped_machine_is_a_machine_that_pays_what_the_clipped_function_pays(seed: int) -> None:
    source = random_source(seed)
    machine, function = clipped(source, -0.5, 0.7, "cut"), clipped(Opaque(source), -0.5, 0.7, "cut")
    assert isinstance(machine, MachineSource)
    assert isinstance(function, Clipped)
    assert scores(machine, seed) == pytest.approx(np.clip(scores(source, seed), -0.5, 0.7), abs=1e-15)
    assert (scores(function, seed) == np.clip(scores(source, seed), -0.5, 0.7)).all()
    assert -0.5 <= function.low <= function.high <= 0.7
    twin = scores(machine, seed).sum(axis=1) - np.clip(scores(source, seed).sum(axis=1), -0.5, 0.7)
    assert (
        np.abs(twin).max() > 0 or np.abs(scores(source, seed)).max() < 0.5
    )  # a clip of sums is another reward


@given(st.integers(0, 10_000))
def test_a_gated_machine_is_a_machine_that_pays_the_product(seed: int) -> None:
    source, gate = random_source(seed), random_source(seed + 1, "gate", whole=True)
    machine, function = gated(source, gate, "both"), gated(Opaque(source), gate, "both")
    assert isinstance(machine, MachineSource)
    assert isinstance(function, Gated)
    product = scores(source, seed) * scores(gate, seed)
    assert scores(machine, seed) == pytest.approx(product, abs=1e-15)
    assert scores(function, seed) == pytest.approx(product, abs=1e-15)


def test_derived_sources_have_their_own_names_and_ranges() -> None:
    task = find_task("Keyword")
    gold = task.sources["gold"]
    half = clipped(gold, 0.0, 0.5, "half")
    assert (gold.name, half.name, half.low, half.high) == ("gold", "half", 0.0, 0.5)
    first = gated(gold, task.machine_source("first", keyword([0], task.vocabulary.size)), "gated")
    assert (first.name, first.low, first.high) == ("gated", 0.0, 0.0)  # cab never ends in a


def test_what_makes_no_sense_is_refused() -> None:
    source = random_source(0)
    with pytest.raises(ValueError, match="give low <= 0 <= high"):
        clipped(source, 0.5, 1.0, "cut")
    with pytest.raises(SourceContractError, match="give a gate between 0 and 1"):
        gated(source, machine_source("gate", token_weights([2.0, 0, 0, 0])), "both")
    other = MachineSource("gate", token_weights([1.0, 0, 0, 0]), HORIZON + 1)
    with pytest.raises(ValueError, match="give both the same"):
        gated(source, other, "both")
