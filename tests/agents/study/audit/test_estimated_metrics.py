"""Estimated metrics against the exact ones, where gold, reward or prompts are not given exactly."""

from dataclasses import replace

import numpy as np
import pytest

from tokenwalk.agents.study.audit.estimated_metrics import (
    MAX_PROMPTS,
    SearchSettings,
    estimated_metrics,
    fewer_prompts,
)
from tokenwalk.agents.study.audit.self_test import (
    count_keyword,
    longer,
    mentions_because,
    no_fault,
    right_sum,
)
from tokenwalk.envs.rewards.builders import exact_answers
from tokenwalk.envs.rewards.function import FunctionSource
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.vocabulary import Vocabulary


def task_of(prompts: int) -> Task:
    """Return a task of ``prompts`` prompts, the weight of each proportional to its number plus 1."""
    letters = Vocabulary.of_characters("ab")
    names = [format(number, "06b").replace("0", "a").replace("1", "b") for number in range(prompts)]
    answers = [[int(token) for token in letters.encode(name[:2])] for name in names]
    weights = np.arange(1.0, prompts + 1)
    return Task(
        "Many",
        letters,
        3,
        exact_answers(answers, 3),
        prompts=tuple(names),
        prompt_weights=weights / weights.sum(),
    )


def test_of_more_than_32_prompts_32_are_sampled_with_equal_weights() -> None:
    small = task_of(MAX_PROMPTS)
    assert fewer_prompts(small, np.random.default_rng(0)) is small
    large = task_of(40)
    chosen = fewer_prompts(large, np.random.default_rng(0)).prompt_weights
    assert (chosen > 0).sum() == MAX_PROMPTS
    assert chosen.sum() == pytest.approx(1.0)
    assert set(np.round(chosen, 12)) == {0.0, round(1 / MAX_PROMPTS, 12)}
    assert chosen.tolist() == fewer_prompts(large, np.random.default_rng(0)).prompt_weights.tolist()
    assert chosen.tolist() != fewer_prompts(large, np.random.default_rng(1)).prompt_weights.tolist()


def test_a_gold_that_is_no_machine_is_searched_too_and_the_note_names_it() -> None:
    task = find_task("Flattery")
    gold = FunctionSource("gold", mentions_because, task.vocabulary)
    task = replace(task, gold=gold, proxy=None)
    reward = FunctionSource("reward", longer, task.vocabulary)
    found = estimated_metrics(task, reward, np.random.default_rng(0), SearchSettings(budget=8_000))
    assert found.optimal_gold == 5.0  # "because" five times
    assert found.best_reward == len(" ".join(["therefore"] * 5))
    assert found.best_gold < 1.0
    assert found.exact is False
    assert found.notes[0].startswith("estimates, also of the gold: Flattery is too large to enumerate")
    # The reference policy has 0.3 of "because" at each place that it reaches: 0.3 (1 - 0.84^5) / 0.16.
    assert found.reference_gold == pytest.approx(0.3 * (1 - 0.84**5) / 0.16, abs=0.15)


def test_a_constant_reward_has_no_estimated_curve_and_every_group_is_dead() -> None:
    task = find_task("Flattery")
    reward = FunctionSource("reward", lambda text: 1.0, task.vocabulary)
    found = estimated_metrics(task, reward, np.random.default_rng(0), SearchSettings(budget=2_000))
    assert found.curve is None
    assert "samples of the reference policy have the same reward" in found.notes[-1]
    assert found.dead_groups == pytest.approx(dict.fromkeys((2, 4, 8, 16), 1.0))
    assert (found.low, found.high, found.best_reward) == (1.0, 1.0, 1.0)


def test_the_functions_of_the_self_test_return_what_they_state() -> None:
    assert [right_sum("2+3=", text) for text in ("5", "6", "")] == [1.0, 0.0, 0.0]
    assert [count_keyword(text) for text in ("cabcab", "acb")] == [2.0, 0.0]
    assert [no_fault(text) for text in ("", "a b")] == [0.0, -2.0]
    assert longer("abc") == 3.0
