"""Sources of reward: what they are shown, what is demanded of them, and the one whole-batch scorer."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwalk.envs.arrays import FloatArray, IntArray
from tokenwalk.envs.rewards.builders import exact_answers, from_step_function, keyword
from tokenwalk.envs.rewards.machine import RewardMachine
from tokenwalk.envs.rewards.source import (
    MachineSource,
    Source,
    SourceContractError,
    TokenBatch,
    check_source,
    find_rows,
    score_strictly,
    score_tokens,
)
from tokenwalk.envs.vocabulary import Vocabulary

VOCABULARY = Vocabulary.of_characters("abc")
V, EOS, PAD, H = 4, 3, 4, 6
PROMPTS = np.array([[PAD, 0], [1, 2], [2, 2]])
texts = st.lists(st.integers(0, V - 2), max_size=H).map(lambda text: (*text, EOS)[:H])
batches = st.lists(st.tuples(st.integers(0, 2), texts), min_size=1, max_size=8)


def laid_out(rows: list[tuple[int, tuple[int, ...]]]) -> tuple[IntArray, IntArray, IntArray]:
    """Return prompts, padded completions and lengths of ``rows`` of a prompt's index and a text."""
    completion = np.array([[*text, *[PAD] * (H - len(text))] for _, text in rows])
    return PROMPTS[[prompt for prompt, _ in rows]], completion, np.array([len(text) for _, text in rows])


@dataclass(frozen=True)
class CountsLetters:
    """Pays the number of ``a`` so far, at each token or at the end, and keeps what it was shown."""

    timing: Literal["token", "end"] = "token"
    name: str = "letters"
    low: float = 0.0
    high: float = float(H)
    shown: list[TokenBatch] = field(default_factory=list)

    def score(self, batch: TokenBatch) -> FloatArray:
        self.shown.append(batch)
        written = np.arange(H) < batch.length[:, None]
        return ((batch.completion == 0) & written).sum(axis=1).astype(np.float64)


@dataclass(frozen=True)
class Returns:
    """Returns ``value`` whatever it is shown."""

    value: Any
    name: str = "odd"
    low: float = -1.0
    high: float = 1.0
    timing: Literal["token", "end"] = "token"

    def score(self, batch: TokenBatch) -> FloatArray:
        result: FloatArray = self.value
        return result


def counting_machine() -> RewardMachine:
    return from_step_function(
        lambda seen, token: (min(seen + (token == 0), H), float(seen + (token == 0))), [0], V
    )


@given(batches)
def test_a_machine_and_a_plain_class_of_the_same_formula_score_alike(
    rows: list[tuple[int, tuple[int, ...]]],
) -> None:
    machine = MachineSource("machine", counting_machine(), H)
    scores = score_tokens([machine, CountsLetters()], *laid_out(rows), VOCABULARY)
    assert np.array_equal(scores["machine"], scores["letters"])
    assert scores["machine"].shape == (len(rows), H)


@given(batches)
def test_the_whole_batch_is_scored_as_each_prefix_alone(rows: list[tuple[int, tuple[int, ...]]]) -> None:
    prompt, completion, length = laid_out(rows)
    answers = MachineSource("answer", exact_answers([[0], [1, 1], []], V), H, PROMPTS)
    whole = score_tokens([answers], prompt, completion, length, VOCABULARY)["answer"]
    for row, tokens in enumerate(completion):
        for time in range(length[row]):
            prefix = np.where(np.arange(H) <= time, tokens, PAD)[None]
            last = np.array([tokens[time] == EOS or time == H - 1])
            one = answers.score(TokenBatch(prompt[row : row + 1], prefix, np.array([time + 1]), last))
            assert one[0] == whole[row, time]


@given(batches)
def test_a_source_is_never_shown_the_future(rows: list[tuple[int, tuple[int, ...]]]) -> None:
    source = CountsLetters()
    score_tokens([source], *laid_out(rows), VOCABULARY)
    for batch in source.shown:
        future = np.arange(H) >= batch.length[:, None]
        assert (batch.completion[future] == PAD).all()
        token = batch.completion[np.arange(len(batch.length)), batch.length - 1]
        assert np.array_equal(batch.last, (token == EOS) | (batch.length == H))


@given(batches)
def test_a_source_of_timing_end_is_called_once_for_each_text(
    rows: list[tuple[int, tuple[int, ...]]],
) -> None:
    prompt, completion, length = laid_out(rows)
    end, each = CountsLetters("end"), CountsLetters()
    at_end = score_tokens([end], prompt, completion, length, VOCABULARY)["letters"]
    everywhere = score_tokens([each], prompt, completion, length, VOCABULARY)["letters"]
    last = np.arange(H) == length[:, None] - 1
    assert np.array_equal(at_end, np.where(last, everywhere, 0.0))
    assert sum(len(batch.length) for batch in end.shown) == len(rows)
    assert all(batch.last.all() for batch in end.shown)


def one_text() -> TokenBatch:
    return TokenBatch(PROMPTS[1:2], np.array([[0, 1, EOS, PAD, PAD, PAD]]), np.array([3]), np.array([True]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([np.nan]), "returned nan for"),
        (np.array([np.inf]), "returned inf for"),
        (np.array([-np.inf]), "returned -inf for"),
        (np.array([1.5]), "returned 1.5 for .*: its range is -1.0 to 1.0"),
        (np.array([-1.0000001]), "its range is -1.0 to 1.0"),
        (np.array([0.0], dtype=np.float32), r"returned float32 \[1\] for 1 texts"),
        (np.array([0]), r"returned int64 \[1\]"),
        (np.array([0.0, 0.0]), r"returned float64 \[2\]"),
        (np.array([[0.0]]), r"returned float64 \[1, 1\]"),
        (np.float64(0.0), "returned float64 for"),
        ([0.0], "returned list"),
        (None, "returned NoneType"),
    ],
    ids=repr,
)
def test_a_source_that_breaks_its_contract_is_named_with_the_text(value: Any, message: str) -> None:
    with pytest.raises(SourceContractError, match=message) as caught:
        score_strictly(Returns(value), one_text(), VOCABULARY)
    assert "source 'odd'" in str(caught.value)
    assert "prompt 'bc', completion 'ab' (ended by <eos>)" in str(caught.value)


def test_the_row_that_went_wrong_is_the_one_that_is_shown() -> None:
    prompt, completion, length = laid_out([(0, (0, EOS)), (2, (2, 1, 1)), (1, (EOS,))])
    batch = TokenBatch(prompt, completion, length, np.array([True, False, True]))
    with pytest.raises(SourceContractError, match=r"returned nan for prompt 'cc', completion 'cbb':"):
        score_strictly(Returns(np.array([0.0, np.nan, 0.0])), batch, VOCABULARY)


def test_the_ends_of_a_range_belong_to_it() -> None:
    assert score_strictly(Returns(np.array([1.0])), one_text(), VOCABULARY) == [1.0]
    assert score_strictly(Returns(np.array([-1.0])), one_text(), VOCABULARY) == [-1.0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (object(), "no source"),
        (Returns(None, name=""), "is called ''"),
        (Returns(None, low=1.0, high=0.0), "range 1.0 to 0.0"),
        (Returns(None, low=float("nan")), "range nan"),
        (Returns(None, timing="later"), "timing 'later'"),  # type: ignore[arg-type]
    ],
)
def test_a_source_that_states_nonsense_is_refused(source: Any, message: str) -> None:
    with pytest.raises(SourceContractError, match=message):
        check_source(source)


def test_the_range_of_a_machine_is_that_of_its_horizon() -> None:
    late = keyword([0, 1], V, 2.0)
    assert (MachineSource("late", late, 1).low, MachineSource("late", late, 1).high) == (0.0, 0.0)
    assert MachineSource("late", late, 2).high == 2.0
    assert isinstance(MachineSource("late", late, 2), Source)


def test_prompts_are_found_by_their_tokens_and_strangers_named() -> None:
    assert find_rows(PROMPTS, PROMPTS[[2, 0, 2]].astype(np.uint8)).tolist() == [2, 0, 2]
    with pytest.raises(ValueError, match=r"prompt \[0, 0\] is none of the task's 3 prompts"):
        find_rows(PROMPTS, np.array([[2, 2], [0, 0]]))
    with pytest.raises(ValueError, match="2 starts and 3 prompts"):
        MachineSource("m", exact_answers([[0], [1]], V), H, PROMPTS)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    prompt, completion, length = laid_out([(0, (EOS,)), (1, (0, EOS))])
    with pytest.raises(ValueError, match=r"have shapes \(1, 2\), \(2, 6\), \(2,\)"):
        score_tokens([CountsLetters()], prompt[:1], completion, length, VOCABULARY)
