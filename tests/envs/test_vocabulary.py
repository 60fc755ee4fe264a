"""Tokens, ids and text."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwalk.envs.vocabulary import Vocabulary

LETTERS = Vocabulary.of_characters("abc ")
WORDS = Vocabulary(("because", "great", "I", "<eos>"))


@given(st.text("abc "))
def test_text_of_characters_survives_the_round_trip(text: str) -> None:
    assert LETTERS.decode(LETTERS.encode(text)) == text
    assert LETTERS.encode(text).dtype == np.int64


@given(st.lists(st.sampled_from(WORDS.tokens[:-1])))
def test_words_are_separated_by_single_spaces(words: list[str]) -> None:
    assert WORDS.decode(WORDS.encode("  ".join(words))) == " ".join(words)


def test_eos_is_the_last_token_and_padding_comes_after_it() -> None:
    assert (LETTERS.size, LETTERS.eos, LETTERS.pad) == (5, 4, 5)
    assert LETTERS.tokens[LETTERS.eos] == "<eos>"


def test_decoding_stops_at_eos_and_leaves_padding_out() -> None:
    assert LETTERS.decode([5, 5, 0, 1, 4, 2, 5]) == "ab"
    assert LETTERS.decode(np.array([2, 5], dtype=np.uint8)) == "c"
    assert WORDS.decode([0, 2, 3]) == "because I"
    assert LETTERS.decode([]) == ""


@pytest.mark.parametrize(("size", "dtype"), [(254, np.uint8), (255, np.uint16), (70_000, np.uint32)])
def test_the_smallest_unsigned_type_holds_every_id_and_their_number(size: int, dtype: type) -> None:
    vocabulary = Vocabulary.of_characters(f"w{number}" for number in range(size - 1))
    assert vocabulary.size == size
    assert vocabulary.dtype == dtype
    assert np.iinfo(vocabulary.dtype).max >= vocabulary.size + 1


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (("a", "b", "a", "<eos>"), "'a' is there twice"),
        (("<eos>", "a", "<eos>"), "'<eos>' is there twice"),
        (("a", "b"), r"end with \('b',\): '<eos>' must be there, as the last one"),
        (("<eos>", "a"), "as the last one"),
        ((), "must be there"),
        (("<eos>",), "no token but '<eos>'"),
        (("a", "", "<eos>"), "'' is no token"),
        (("a", 3, "<eos>"), "3 is no token"),
        (("so", "good bye", "<eos>"), "'good bye' holds a space"),
        ("ab", "of_characters"),
    ],
)
def test_a_vocabulary_that_makes_no_sense_is_refused_by_name(tokens: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(tokens)


@pytest.mark.parametrize(
    ("vocabulary", "text", "message"),
    [
        (LETTERS, "abxc", "'x', number 3 of 'abxc'"),
        (LETTERS, "aB", "'B', number 2"),
        (LETTERS, "a\n", r"number 2"),
        (WORDS, "because <eos>", "'<eos>', number 2"),
        (WORDS, "because terrible", "'because', 'great', 'I'"),
        (LETTERS, 3, "no text"),
    ],
)
def test_an_unknown_character_or_word_is_named_with_its_place(
    vocabulary: Vocabulary, text: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        vocabulary.encode(text)


@pytest.mark.parametrize("wrong", [-1, 6])
def test_an_id_that_is_no_token_is_named(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"id {wrong} is out of range: ids are 0 to 4, and 5 for padding"):
        LETTERS.decode([0, wrong])
