"""Preferences between completions: sampled for a task from a noisy annotator, or read from a file.

P(left preferred) = sigmoid((gold difference + spurious difference) / temperature): Bradley and Terry 1952, with an
annotator whose score may differ from gold. Ties have probability 0.5.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenwalk.agents.backprop.configs import check_held_out
from tokenwalk.agents.backprop.descent import set_fields
from tokenwalk.agents.exact_tokens.completions import (
    Completions,
    blank_prefixes,
    concatenate,
    sample_completions,
)
from tokenwalk.agents.exact_tokens.encode import encode_completion
from tokenwalk.agents.exact_tokens.token_policy import Policy, reference_on_tokens
from tokenwalk.envs.arrays import BoolArray, FloatArray
from tokenwalk.envs.checks import check_number
from tokenwalk.envs.random_numbers import episode_stream, uniform
from tokenwalk.envs.tasks import Task

MAX_ROUNDS = 1_000  # of sampling completions until enough are on the wanted side of the split
Label = Callable[[Completions], FloatArray]  # an annotator's score of each completion, float64 [B]


class PreferenceDataError(ValueError):
    """Preference data that cannot be trained on."""


@dataclass(frozen=True, eq=False)
class Preferences:
    """n pairs of completions of the same prompts.

    Attributes:
        chosen, rejected: the preferred and the other completion of each pair.

    Raises:
        PreferenceDataError: no pairs, or the two sides do not have the same prompts.
    """

    chosen: Completions
    rejected: Completions

    def __post_init__(self) -> None:
        if not len(self.chosen):
            raise PreferenceDataError("there are no preferences: give at least one pair")
        if not np.array_equal(self.chosen.prompt, self.rejected.prompt):
            raise PreferenceDataError("a pair has two different prompts: compare completions of the same one")

    def __len__(self) -> int:
        return len(self.chosen)


@dataclass(frozen=True)
class Split:
    """Which completions are held out: those of some prompts, or where there is one prompt, some completions.

    Attributes:
        task: whose completions.
        share: of the prompts (at least one of them) or of the completions.
        seed: of the choice.

    Raises:
        ValueError: a share outside (0, 1).
    """

    task: Task
    share: float
    seed: int

    def __post_init__(self) -> None:
        set_fields(self, {"share": check_held_out(self.share)})

    @property
    def by_prompt(self) -> bool:
        """Return whether prompts are held out, and not completions."""
        return len(self.task.prompts) > 1

    def held_out(self, completions: Completions) -> BoolArray:
        """Return which of ``completions`` are held out, bool [B]; equal completions are on the same side."""
        if self.by_prompt:
            n_prompts = len(self.task.prompts)
            count = min(n_prompts - 1, max(1, round(self.share * n_prompts)))
            chosen = np.random.default_rng(self.seed).permutation(n_prompts)[:count]
            return np.isin(completions.prompt, chosen)
        code = np.full(len(completions), self.seed, dtype=np.uint64)
        for column in completions.tokens.T.astype(np.uint64):
            code = episode_stream(code, column)
        return uniform(code, np.zeros_like(code)) < self.share


def sample_split(
    task: Task,
    count: int,
    rng: np.random.Generator,
    split: Split,
    held_out: bool,
    policy: Policy | None = None,
) -> Completions:
    """Return ``count`` completions of ``policy`` (the reference policy if None) on one side of ``split``.

    Prompts are sampled by their weights on that side; the rows 2 i and 2 i + 1 have the same one.

    Raises:
        PreferenceDataError: hardly any completion lies on that side.
    """
    policy = reference_on_tokens(task) if policy is None else policy
    weights = task.prompt_weights
    if split.by_prompt:
        side = split.held_out(blank_prefixes(task, np.arange(len(task.prompts)))) == held_out
        weights = weights * side
        if weights.sum() <= 0:
            raise PreferenceDataError(
                "no prompt of positive weight is on this side of the split: change held_out"
            )
    pairs = -(-count // 2)
    prompt = np.repeat(rng.choice(len(weights), size=pairs, p=weights / weights.sum()), 2)
    if split.by_prompt:
        return sample_completions(task, policy, 2 * pairs, rng, prompt)[:count]
    found: list[Completions] = []
    for _ in range(MAX_ROUNDS):
        sampled = sample_completions(task, policy, max(2 * pairs, 1_024), rng)
        found.append(sampled[split.held_out(sampled) == held_out])
        if sum(map(len, found)) >= count:
            return concatenate(found)[:count]
    raise PreferenceDataError(
        f"of {MAX_ROUNDS * 1_024:,} completions of {task.name} fewer than {count} are "
        f"{'held out' if held_out else 'left to train on'}: change held_out"
    )


def sample_preferences(
    completions: Completions, score: Label, temperature: float, rng: np.random.Generator
) -> Preferences:
    """Return the preferences of an annotator between rows 2 i and 2 i + 1 of ``completions``.

    Args:
        completions: an even number, each two of one prompt.
        score: the annotator's score of each completion.
        temperature: of the annotator's noise, above 0: if two scores differ by this much, the better one is preferred
            with probability 0.73.
        rng: generator of the labels.

    Raises:
        ValueError: a temperature that is not above 0.
    """
    temperature = check_number("temperature", temperature, 0, low_open=True)
    left, right = completions[0::2], completions[1::2]
    scores = score(completions)  # [B]
    with np.errstate(over="ignore"):  # to a probability of 0, which is correct
        probability = 1 / (1 + np.exp((scores[1::2] - scores[0::2]) / temperature))
    first = rng.random(len(left)) < probability
    order = np.arange(len(left)) + np.where(first, 0, len(left))
    both = concatenate([left, right])
    return Preferences(both[order], both[(order + len(left)) % len(both)])


def read_preferences(path: Path, task: Task) -> Preferences:
    """Return the preferences in a file of JSON lines with prompt, chosen and rejected (TRL's columns), as text.

    Where the task has one prompt, ``prompt`` may be left out. Each text is ended by ``<eos>`` unless it fills the
    horizon.

    Raises:
        PreferenceDataError: no such file, no lines, or a line without a label, of an unknown prompt, with a token that
            the vocabulary does not have, or longer than the horizon; with the number of the line.
    """
    if not path.is_file():
        raise PreferenceDataError(
            f"there is no file {str(path)!r}: give JSON lines with prompt, chosen, rejected"
        )
    sides: dict[str, list[Completions]] = {"chosen": [], "rejected": []}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line = json.loads(text)
            for side, rows in sides.items():
                rows.append(_encoded(line, side, task))
        except (ValueError, TypeError) as error:
            raise PreferenceDataError(f"{path}, line {number}: {error}") from None
    if not sides["chosen"]:
        raise PreferenceDataError(f"{path} is empty: give at least one line with prompt, chosen and rejected")
    return Preferences(*map(concatenate, sides.values()))


def _encoded(line: Mapping[str, Any], side: str, task: Task) -> Completions:
    """Return one completion of a line. Raises ValueError where it is missing or is none of the task's."""
    if not isinstance(line, Mapping) or line.get(side) is None:
        raise ValueError(
            f"its label is missing: there is no {side!r}; leave the line out or say which is preferred"
        )
    prompt = line.get("prompt", task.prompts[0] if len(task.prompts) == 1 else None)
    if prompt not in task.prompts:
        raise ValueError(f"prompt {prompt!r} is none of the {len(task.prompts)} of {task.name}")
    return encode_completion(task, task.prompts.index(prompt), line[side])
