"""Anybody's function as a source: how it is called is read off its parameters, and what it returns is checked."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import tokenwalk  # noqa: F401 - registers the ids
from tokenwalk.envs.rewards.function import FunctionPotential, FunctionSource, form_of
from tokenwalk.envs.rewards.source import SourceContractError, TokenBatch, score_strictly
from tokenwalk.envs.tasks import Task, find_task


def by_text(text: str) -> int:
    return text.count("a")


def by_completion(prompt: str, completion: str) -> float:
    return len(prompt) + 0.5 * len(completion)


def by_completion_alone(completion: str, strict: bool = False) -> bool:
    return completion == "12" or strict


def by_trl(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    assert not columns
    return [len(prompt) + 0.5 * len(text) for prompt, text in zip(prompts, completions, strict=True)]


def by_trl_without_prompts(completions: list[str], **columns: Any) -> list[float]:
    return [float(len(text)) + len(columns["prompts"]) for text in completions]


def by_batch(batch: TokenBatch) -> Any:
    return np.asarray(batch.length) * 1.0


def batch_of(task: Task, *texts: str, prompt: int = 0) -> TokenBatch:
    completion = np.full((len(texts), task.horizon), task.vocabulary.pad)
    for row, text in enumerate(texts):
        ids = task.vocabulary.encode(text)
        completion[row, : len(ids)] = ids
        if len(ids) < task.horizon:
            completion[row, len(ids)] = task.vocabulary.eos
    length = (completion != task.vocabulary.pad).sum(axis=1)
    return TokenBatch(
        np.repeat(task.prompt_ids[[prompt]], len(texts), axis=0),
        completion,
        length,
        np.ones(len(texts), bool),
    )


@pytest.mark.parametrize(
    ("function", "form", "scores"),
    [
        (by_text, "text", [0, 0, 0]),
        (by_completion, "prompt and completion", [5.0, 4.5, 5.5]),
        (by_completion_alone, "prompt and completion", [1.0, 0.0, 0.0]),
        (by_trl, "prompts and completions", [5.0, 4.5, 5.5]),
        (by_trl_without_prompts, "prompts and completions", [5.0, 4.0, 6.0]),
        (by_batch, "batch", [3.0, 2.0, 3.0]),
    ],
)
def test_each_form_is_told_by_its_parameters_and_called_so(
    function: Any, form: str, scores: list[float]
) -> None:
    task = find_task("Arithmetic")
    assert form_of(function) == form
    source = FunctionSource("mine", function, task.vocabulary)
    found = score_strictly(source, batch_of(task, "12", "1", "999"), task.vocabulary)
    assert found.dtype == np.float64
    assert found.tolist() == scores


def test_text_is_the_completion_without_its_prompt_and_without_eos() -> None:
    task, seen = find_task("Flattery"), []

    def keeps(text: str) -> float:
        seen.append(text)
        return 0.0

    FunctionSource("mine", keeps, task.vocabulary).score(batch_of(task, "because evidence", "great"))
    assert seen == ["because evidence", "great"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda s: 0.0, "these names are unknown"),
        (lambda text, weight: 0.0, "needs 'weight'"),
        (lambda: 0.0, "these names are unknown"),
    ],
)
def test_a_function_with_other_parameters_is_refused_when_the_source_is_made(
    function: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FunctionSource("mine", function, find_task("Flattery").vocabulary)


def raises(text: str) -> float:
    return {"because": 1.0}[text]


def judges_nothing(text: str) -> Any:
    return None if text == "great" else 1.0


def returns_text(completions: list[str]) -> Any:
    return ["1.0" for _ in completions]


def returns_too_few(completions: list[str]) -> Any:  # noqa: ARG001
    return [0.0]


def returns_one_number(batch: TokenBatch) -> Any:  # noqa: ARG001
    return 1.0


def returns_nan(text: str) -> float:  # noqa: ARG001
    return float("nan")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raises, r"'mine' raised KeyError: 'great'.*completion 'great'"),
        (judges_nothing, r"'mine' returned None.*cannot judge.*'great'"),
        (returns_text, r"'mine' returned '1.0' for completion 'because'"),
        (returns_too_few, r"returned 1 scores for 2 texts"),
        (returns_one_number, r"returned 1 scores for 2 texts"),
        (returns_nan, r"'mine' returned nan .*'because'"),
    ],
)
def test_what_a_function_must_not_do_stops_with_its_name_and_the_text(function: Any, message: str) -> None:
    task = find_task("Flattery")
    source = FunctionSource("mine", function, task.vocabulary)
    with pytest.raises(SourceContractError, match=message) as caught:
        score_strictly(source, batch_of(task, "because", "great"), task.vocabulary)
    if function is raises:
        assert isinstance(caught.value.__cause__, KeyError)  # whose traceback a log can show


def test_a_stated_range_is_held() -> None:
    task = find_task("Flattery")
    source = FunctionSource("mine", lambda text: len(text), task.vocabulary, low=0.0, high=4.0)
    assert score_strictly(source, batch_of(task, ""), task.vocabulary).tolist() == [0.0]
    with pytest.raises(SourceContractError, match=r"its range is 0\.0 to 4\.0"):
        score_strictly(source, batch_of(task, "great"), task.vocabulary)


def test_an_environment_pays_the_function_at_the_end_alone() -> None:
    task = find_task("Flattery")
    env = gym.make(
        "tokenwalk/Flattery-v0", reward=FunctionSource("mine", lambda text: len(text), task.vocabulary)
    )
    env.reset(seed=0)
    assert env.step(3)[1] == 0.0
    _, reward, terminated, _, info = env.step(task.vocabulary.eos)
    assert (reward, terminated, info["reward/mine"], info["gold"]) == (5.0, True, 5.0, 0.0)


def test_a_potential_values_unfinished_text() -> None:
    task = find_task("Flattery")
    batch = batch_of(task, "great because").before(task.vocabulary.pad)
    assert FunctionPotential("mine", lambda text: len(text), task.vocabulary).value(batch).tolist() == [13.0]
