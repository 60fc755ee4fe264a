"""A token task's reward as TRL's ``reward_funcs``: a function for each source, so that TRL logs and weighs each by itself.

Nothing of TRL is imported. TRL adds the weighted rewards of a completion and then standardises the sum in its group.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tokenwalk.envs.rewards.source import Source, score_tokens
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import Paid, compose
from tokenwalk.envs.vocabulary import EOS


class RewardFuncs(NamedTuple):
    """What ``GRPOTrainer`` and ``GRPOConfig`` take.

    Attributes:
        functions: ``reward_funcs``. weights: ``reward_weights``; 0 for gold and the metrics, which are logged and not paid.
    """

    functions: list["SourceReward"]
    weights: list[float]


class SourceReward:
    """One source as a function of texts, under its own name.

    Args:
        source: of the task.
        task: whose vocabulary the texts are written in, and whose prompts stand before them.
    """

    def __init__(self, source: Source, task: Task) -> None:
        self.source, self.task = source, task
        self.__name__ = source.name  # under which TRL logs it

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """Return what the source says of each whole completion, the sum over its tokens.

        Texts, or conversations, whose last message counts. A completion of fewer than H tokens is taken to have ended; of
        a longer one the first H tokens count, as in the environment. Where the task has several prompts, the longest that
        a text ends with is meant; where it has one, what stands before is not looked at.

        Raises:
            ValueError: a text that ends with no prompt of the task, or a completion with what is no token of it.
            SourceContractError: a source that returned what it must not.
        """
        task, vocabulary = self.task, self.task.vocabulary
        number = [self._prompt_of(_text(prompt)) for prompt in prompts]
        tokens = np.full((len(number), task.horizon), vocabulary.pad, dtype=vocabulary.dtype)
        length = np.zeros(len(number), dtype=np.int64)
        for row, completion in enumerate(completions):
            ids = [*vocabulary.encode(_text(completion)), vocabulary.eos][: task.horizon]
            tokens[row, : len(ids)], length[row] = ids, len(ids)
        prompt = task.prompt_ids[number]
        found: list[float] = (
            score_tokens([self.source], prompt, tokens, length, vocabulary)[self.source.name]
            .sum(axis=1)
            .tolist()
        )
        return found

    def _prompt_of(self, text: str) -> int:
        prompts = self.task.prompts
        if len(prompts) == 1:
            return 0
        ends = [number for number, prompt in enumerate(prompts) if text.endswith(prompt)]
        if not ends:
            known = ", ".join(map(repr, prompts[:4]))
            raise ValueError(f"{text!r} ends with no prompt of {self.task.name}, which has {known} and so on")
        return max(ends, key=lambda number: len(prompts[number]))


def reward_funcs(task: Task | str, reward: Paid | Sequence[Paid] = "gold") -> RewardFuncs:
    """Return the sources of ``task`` as TRL wants them: those that are paid, then gold and the metrics with weight 0.

    Args:
        task: or its name.
        reward: as the environment takes it: "gold", "proxy", a source, or a list of them, each with its weight if any.

    Raises:
        ValueError: an unknown task or reward.

    >>> found = reward_funcs("Flattery", "proxy")
    >>> [one.__name__ for one in found.functions], found.weights
    (['proxy', 'gold'], [1.0, 0.0])
    >>> found.functions[1]([""], ["because evidence"])
    [1.0]
    """
    task = find_task(task) if isinstance(task, str) else task
    composition = compose(task, reward)
    weights = {source.name: weight for source, weight in composition.train}
    functions = [SourceReward(source, task) for source in composition.sources]
    functions.sort(key=lambda one: one.source.name not in weights)  # a stable sort: what is paid comes first
    return RewardFuncs(functions, [weights.get(one.source.name, 0.0) for one in functions])


def _text(written: Any) -> str:
    """Return a text, or the last message of a conversation, without the marks that a tokenizer may leave."""
    if not isinstance(written, str):
        written = written[-1]["content"] if written else ""
    return str(written).replace(EOS, "")
