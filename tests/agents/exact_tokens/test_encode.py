"""Text as token ids: closed by ``<eos>``, cut into rows of the horizon, refused where it does not fit."""

from pathlib import Path

import numpy as np
import pytest

from tokenwalk.agents.exact_tokens.encode import encode_completion, read_rows
from tokenwalk.envs.tasks import find_task
from tokenwalk.envs.text_task import text_task
from tokenwalk.envs.trl import reward_funcs

FLATTERY = find_task("Flattery")  # a horizon of 5 words
EOS, PAD = FLATTERY.vocabulary.eos, FLATTERY.vocabulary.pad


def test_a_text_is_closed_by_eos_unless_it_fills_the_horizon() -> None:
    because = int(FLATTERY.vocabulary.encode("because")[0])
    short, full = (encode_completion(FLATTERY, 0, " ".join(["because"] * size)) for size in (2, 5))
    assert short.tokens.tolist() == [[because, because, EOS, PAD, PAD]]
    assert full.tokens.tolist() == [[because] * 5]
    assert (short.length.tolist(), full.length.tolist()) == ([3], [5])
    assert encode_completion(FLATTERY, 0, "").tokens.tolist() == [[EOS, PAD, PAD, PAD, PAD]]


def test_a_text_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="has 6 tokens: Flattery has a horizon of 5"):
        encode_completion(FLATTERY, 0, " ".join(["because"] * 6))
    with pytest.raises(ValueError, match="is not in the vocabulary"):
        encode_completion(FLATTERY, 0, "nonsense")


def test_the_reward_function_of_trl_counts_the_first_tokens_of_a_longer_text() -> None:
    gold = next(one for one in reward_funcs("Flattery").functions if one.source.name == "gold")
    pair = "because evidence"
    assert gold([""] * 3, [pair, f"{pair} {pair}", f"{pair} {pair} {pair}"]) == [1.0, 2.0, 2.0]


def test_a_line_longer_than_the_horizon_goes_on_in_the_next_row(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("aabb\nab\n\n")
    task = text_task(path, "characters", 2)
    rows, dropped = read_rows(path, task)
    a, b = (int(task.vocabulary.encode(letter)[0]) for letter in "ab")
    eos, pad = task.vocabulary.eos, task.vocabulary.pad
    assert rows.tokens.tolist() == [[a, a], [b, b], [eos, pad], [a, b], [eos, pad]]
    assert (rows.length.tolist(), dropped) == ([2, 2, 1, 2, 1], 0)
    assert np.array_equal(rows.prompt, np.zeros(5))
