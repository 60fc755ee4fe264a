"""Preferences: the annotator's distribution, the split of the data, and files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tokenwalk.agents.backprop.configs import RewardModelConfig
from tokenwalk.agents.backprop.datasets import RewardDataset
from tokenwalk.agents.backprop.preferences import (
    PreferenceDataError,
    Preferences,
    Split,
    read_preferences,
    sample_preferences,
    sample_split,
)
from tokenwalk.agents.exact_tokens.completions import concatenate, enumerate_completions
from tokenwalk.agents.exact_tokens.encode import encode_completion
from tokenwalk.envs.tasks import find_task

FLATTERY, ARITHMETIC = find_task("Flattery"), find_task("Arithmetic")


def pair(left: str, right: str, count: int) -> object:
    both = [encode_completion(FLATTERY, 0, text) for text in (left, right)]
    return concatenate(both * count)


@pytest.mark.parametrize(
    ("temperature", "spurious", "expected"),
    [
        (
            0.25,
            (),
            1 / (1 + np.exp(-1.0 / 0.25)),
        ),  # the gold of because evidence is 1, of great -0.5: a difference of 1.5
        (1.0, (("great", 1.2),), 1 / (1 + np.exp(-(1.5 - 1.2)))),
        (1.0, (("great", 1.5),), 0.5),  # a tie
    ],
)
def test_the_better_one_is_preferred_with_the_probability_of_bradley_and_terry(
    temperature: float, spurious: tuple[tuple[str, float], ...], expected: float
) -> None:
    count = 4_000
    dataset = RewardDataset(FLATTERY, RewardModelConfig(temperature=temperature, spurious=spurious))
    texts = pair("because evidence", "great", count)
    found = sample_preferences(texts, dataset.annotator_score, temperature, np.random.default_rng(0))  # type: ignore[arg-type]
    share = np.mean([text == "because evidence" for text in found.chosen.texts(FLATTERY)])
    exact = 1 / (1 + np.exp(-(1.5 - dict(spurious).get("great", 0.0)) / temperature))
    assert abs(share - exact) < 4 * np.sqrt(max(exact * (1 - exact), 1e-4) / count)
    assert expected == pytest.approx(exact, abs=0.02)


def test_what_is_chosen_and_what_is_rejected_are_the_two_of_each_pair() -> None:
    rng = np.random.default_rng(1)
    split = Split(ARITHMETIC, 0.2, 0)
    sampled = sample_split(ARITHMETIC, 400, rng, split, held_out=False)
    found = sample_preferences(sampled, lambda one: one.length * 1.0, 0.5, rng)
    assert (found.chosen.prompt == sampled.prompt[0::2]).all()
    both = {
        tuple(sorted(map(tuple, pair)))
        for pair in zip(sampled.tokens[0::2].tolist(), sampled.tokens[1::2].tolist(), strict=True)
    }
    again = {
        tuple(sorted(map(tuple, pair)))
        for pair in zip(found.chosen.tokens.tolist(), found.rejected.tokens.tolist(), strict=True)
    }
    assert again == both
    assert found.chosen.length.mean() > found.rejected.length.mean()


@pytest.mark.parametrize("name", ["Flattery", "Arithmetic", "Keyword"])
def test_nothing_leaks_from_one_side_of_the_split_to_the_other(name: str) -> None:
    task, rng = find_task(name), np.random.default_rng(0)
    split = Split(task, 0.2, seed=3)
    sides = [sample_split(task, 2_000, rng, split, held_out) for held_out in (False, True)]
    assert [len(one) for one in sides] == [2_000, 2_000]
    assert not split.held_out(sides[0]).any()
    assert split.held_out(sides[1]).all()
    if split.by_prompt:
        prompts = [set(one.prompt.tolist()) for one in sides]
        assert prompts[0] & prompts[1] == set()
        assert len(prompts[1]) <= 20
    else:
        texts = [set(map(tuple, one.tokens.tolist())) for one in sides]
        assert texts[0] & texts[1] == set()
    assert (sides[0].prompt[0::2] == sides[0].prompt[1::2]).all()


def test_about_the_share_is_held_out_and_another_seed_holds_out_others() -> None:
    every = enumerate_completions(FLATTERY)
    shares = [Split(FLATTERY, 0.2, seed).held_out(every) for seed in (0, 1)]
    assert all(abs(one.mean() - 0.2) < 0.03 for one in shares)
    assert (shares[0] != shares[1]).mean() > 0.2
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="above 0 and below 1"):
            Split(FLATTERY, share, 0)


def test_a_side_without_completions_is_refused() -> None:
    one_token = replace(FLATTERY, horizon=1)
    with pytest.raises(PreferenceDataError, match="change held_out"):
        sample_split(one_token, 10, np.random.default_rng(0), Split(one_token, 1e-9, 0), held_out=True)


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_a_file_of_trls_form_is_read(tmp_path: Path) -> None:
    lines = [
        {"prompt": "1+2=", "chosen": "3", "rejected": "12"},
        {"prompt": "9+9=", "chosen": "18", "rejected": "181"},
    ]
    found = read_preferences(write(tmp_path / "pairs.jsonl", *lines), ARITHMETIC)
    assert len(found) == 2
    assert found.chosen.texts(ARITHMETIC) == ["3", "18"]
    assert found.rejected.texts(ARITHMETIC) == ["12", "181"]
    assert found.rejected.length.tolist() == [3, 3]  # the second fills the horizon and has no <eos>
    alone = read_preferences(write(tmp_path / "alone.jsonl", {"chosen": "great", "rejected": ""}), FLATTERY)
    assert alone.rejected.length.tolist() == [1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is empty: give at least one line"),
        ([{"prompt": "1+2=", "chosen": "3"}], "line 1: its label is missing: there is no 'rejected'"),
        ([{"prompt": "1+2=", "chosen": "3", "rejected": None}], "its label is missing"),
        ([{"prompt": "no", "chosen": "3", "rejected": "1"}], "prompt 'no' is none of the 100"),
        ([{"prompt": "1+2=", "chosen": "x", "rejected": "1"}], "line 1: 'x', number 1"),
        (
            [{"prompt": "1+2=", "chosen": "1234", "rejected": "1"}],
            "has 4 tokens: Arithmetic has a horizon of 3",
        ),
        (["not json"], "line 1: Expecting value"),
        (["[1, 2]"], "its label is missing"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, lines: list[object], message: str) -> None:
    with pytest.raises(PreferenceDataError, match=message):
        read_preferences(write(tmp_path / "pairs.jsonl", *lines), ARITHMETIC)


def test_pairs_of_two_prompts_and_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PreferenceDataError, match="there is no file"):
        read_preferences(tmp_path / "none.jsonl", ARITHMETIC)
    one, two = (encode_completion(ARITHMETIC, prompt, "3") for prompt in (0, 1))
    with pytest.raises(PreferenceDataError, match="two different prompts"):
        Preferences(one, two)
    with pytest.raises(PreferenceDataError, match="no preferences"):
        Preferences(one[:0], one[:0])
    for temperature in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="give a finite number above 0"):
            sample_preferences(
                concatenate([one, one]), lambda rows: np.zeros(2), temperature, np.random.default_rng(0)
            )


def test_prompts_of_pairs_are_sampled_by_their_weights_on_their_side_of_the_split() -> None:
    count = 8_000
    weights = np.linspace(0.0, 1.0, len(ARITHMETIC.prompts)) ** 2
    task = replace(ARITHMETIC, prompt_weights=weights / weights.sum())
    split = Split(task, 0.2, seed=0)
    texts = sample_split(task, 2 * count, np.random.default_rng(0), split, held_out=False)
    prompts = texts.prompt[0::2]
    kept = ~np.isin(np.arange(100), sample_split(task, 4_000, np.random.default_rng(1), split, True).prompt)
    expected = weights * kept / (weights * kept).sum()
    for half in (np.arange(100) < 50, np.arange(100) >= 90):
        share = expected[half].sum()
        found = np.isin(prompts, np.flatnonzero(half)).mean()
        assert abs(found - share) < 4 * np.sqrt(
            share * (1 - share) / count
        )  # standard errors of a binomial share
    assert expected[:50].sum() < 0.2  # uniform prompts would give about 0.5
