"""Compositions of sources: separate terms, and their sum: the training reward."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.composition import Composition
from tokenwalk.envs.rewards.source import SourceContractError, TokenBatch


@dataclass(frozen=True)
class Named:
    """A source of which only the name matters here."""

    name: str
    low: float = -1.0
    high: float = 1.0
    timing: Literal["token", "end"] = "token"

    def score(self, batch: TokenBatch) -> FloatArray:
        return np.zeros(len(batch.length))


def scores_of(*columns: list[float]) -> dict[str, FloatArray]:
    return dict(zip("pqr", map(np.array, columns), strict=False))


def test_the_reward_is_the_float64_sum_of_the_weighted_terms_in_their_order() -> None:
    # Of three numbers whose sum depends on the order, the order of the train sources counts.
    p, q, r = (Named(name) for name in "pqr")
    scores = scores_of([0.1], [0.2], [0.3])
    forwards = Composition(((p, 1.0), (q, 1.0), (r, 1.0)), gold=p)
    backwards = Composition(((r, 1.0), (q, 1.0), (p, 1.0)), gold=p)
    assert forwards.train_reward(forwards.weighted(scores)) == [0.1 + 0.2 + 0.3]
    assert backwards.train_reward(backwards.weighted(scores)) == [0.3 + 0.2 + 0.1]
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3), st.lists(st.floats(-5, 5), min_size=3, max_size=3))
def test_terms_are_kept_apart_and_only_train_terms_are_in_the_reward(
    values: list[float], weights: list[float]
) -> None:
    p, q, r = (Named(name) for name in "pqr")
    composition = Composition(((p, weights[0]), (q, weights[1])), gold=q, metrics=(r,))
    weighted = composition.weighted(scores_of(*([value] for value in values)))
    assert {name: term[0] for name, term in weighted.items()} == {
        "p": weights[0] * values[0],
        "q": weights[1] * values[1],
    }
    assert composition.train_reward(weighted) == [weights[0] * values[0] + weights[1] * values[1]]
    assert composition.sources == (p, q, r)


def test_a_composition_that_makes_no_sense_is_refused_by_name() -> None:
    p, other_p, q = Named("p"), Named("p"), Named("q")
    with pytest.raises(ValueError, match="the training reward is empty"):
        Composition((), gold=p)
    with pytest.raises(SourceContractError, match="two sources are called 'p'"):
        Composition(((p, 1.0),), gold=other_p)
    with pytest.raises(ValueError, match="there twice"):
        Composition(((p, 1.0), (p, 2.0)), gold=p)
    for weight in (float("nan"), float("inf"), "1", True, None):
        with pytest.raises(ValueError, match="the weight of 'q'"):
            Composition(((p, 1.0), (q, weight)), gold=p)  # type: ignore[arg-type]
