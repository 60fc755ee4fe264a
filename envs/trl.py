"""A token task's reward as TRL's ``reward_funcs``: one function for each reward component, which TRL logs and weights.

TRL is not imported. TRL adds the weighted rewards of a completion and then standardizes the sum in its group.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenwalk.envs.rewards.source import Source, score_tokens
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import RewardTerm, compose
from tokenwalk.envs.vocabulary import EOS


class RewardFuncs(NamedTuple):
    """The arguments of ``GRPOTrainer`` and ``GRPOConfig``.

    Attributes:
        functions: ``reward_funcs``. weights: ``reward_weights``; 0 for what is only logged: gold and the metrics.
    """

    functions: list["SourceReward"]
    weights: list[float]


class SourceReward:
    """One reward component as a function of texts, under its own name.

    Args:
        source: of the task.
        task: gives the vocabulary and the prompts.
    """

    def __init__(self, source: Source, task: Task) -> None:
        self.source, self.task = source, task
        self.__name__ = source.name  # under which TRL logs it

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """Return the reward of each whole completion, summed over its tokens.

        An item is a text or a conversation, of which the last message counts. A completion of fewer than H tokens has
        ended. Of a longer one the first H tokens count, as in the environment. Where the task has several prompts, the
        prompt is the longest one that the text ends with; where it has one prompt, the text is not read.

        Raises:
            ValueError: a text that ends with no prompt of the task, or a completion with an unknown token.
            SourceContractError: a reward function that broke its contract.
        """
        task, vocabulary = self.task, self.task.vocabulary
        number = [self._prompt_of(_text(prompt)) for prompt in prompts]
        rows = [vocabulary.encode_completion(_text(completion), task.horizon) for completion in completions]
        tokens, length = vocabulary.pad_rows(rows, task.horizon)
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


def reward_funcs(task: Task | str, reward: RewardTerm | Sequence[RewardTerm] = "gold") -> RewardFuncs:
    """Return the reward components of ``task`` for TRL: the training reward, then gold and the metrics with weight 0.

    Args:
        task: or its name.
        reward: as in the environment: "gold", "proxy", a reward function, or a list of these, each with or without a weight.

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
    functions.sort(
        key=lambda one: one.source.name not in weights
    )  # a stable sort: the training reward comes first
    return RewardFuncs(functions, [weights.get(one.source.name, 0.0) for one in functions])


def _text(item: Any) -> str:
    """Return a text, or the last message of a conversation, without the end marks that a tokenizer may leave."""
    if not isinstance(item, str):
        item = item[-1]["content"] if item else ""
    return str(item).replace(EOS, "")
