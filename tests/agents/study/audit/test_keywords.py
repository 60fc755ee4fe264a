"""Keywords of a reward's code: constants, patterns, containers, methods, partial functions and callable objects."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tokenwalk.agents.study.audit.keywords import MAX_WORDS, words_in_code
from tokenwalk.envs.rewards.function import FunctionSource
from tokenwalk.envs.rewards.learned import LearnedSource
from tokenwalk.envs.text_task import text_task

TASK = text_task(horizon=16)
WEIGHTS = {"garden": 1.0, "river": 2.0}
NAMES = {"bridge"}


class Counter:
    def __init__(self, word: str) -> None:
        self.word = word

    def count(self, text: str) -> float:
        return float(text.count(self.word))

    def __call__(self, text: str) -> float:
        return self.count(text)


def weighted(text: str) -> float:
    return sum(weight * text.count(word) for word, weight in WEIGHTS.items())


def inner(text: str) -> float:
    return float("winter" in text)


def outer(text: str) -> float:
    return inner(text)


def with_default(text: str, words: tuple[str, ...] = ("summer",)) -> float:
    return float(sum(word in text for word in words))


def by_pattern(text: str) -> float:
    return float(len(PATTERN.findall(text)))


def by_set(text: str) -> float:
    return float(sum(word in text for word in NAMES))


def count_word(word: str, text: str) -> float:
    return float(text.count(word))


PATTERN = re.compile("morning|evening")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (weighted, {"garden", "river"}),
        (outer, {"winter"}),
        (with_default, {"summer"}),
        (by_pattern, {"morning", "evening"}),
        (by_set, {"bridge"}),
        (Counter("meadow").count, {"meadow"}),
        (Counter("meadow"), {"meadow"}),
        (partial(count_word, "harbor"), {"harbor"}),
    ],
)
def test_the_words_of_the_code_are_found_with_a_space_at_the_end(
    function: Callable[[str], float], expected: set[str]
) -> None:
    words = words_in_code(FunctionSource("f", function, TASK.vocabulary), TASK)
    found = {TASK.vocabulary.decode(word) for word in words}
    assert expected <= found
    assert {f"{word} " for word in expected} <= found
    assert all(2 <= len(word) <= TASK.horizon for word in words)


def test_a_reward_without_code_and_a_text_outside_the_vocabulary_have_no_keywords() -> None:
    scorer: Any = lambda batch: None  # noqa: E731
    assert words_in_code(LearnedSource("learned", scorer), TASK) == []
    assert words_in_code(TASK.sources["gold"], TASK) == []
    unknown = FunctionSource("f", lambda text: float("☃☃☃" in text), TASK.vocabulary)
    assert all("☃" not in TASK.vocabulary.decode(word) for word in words_in_code(unknown, TASK))


def test_the_words_of_a_long_list_are_limited() -> None:
    every = [a + b + c for a in "abcdefgh" for b in "abcdefgh" for c in "abcdefgh"]

    def listed(text: str) -> float:
        return float(text in every)

    words = words_in_code(FunctionSource("f", listed, TASK.vocabulary), TASK)
    assert len({word for word in words if len(word) == 3}) == MAX_WORDS
