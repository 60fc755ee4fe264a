"""``tokenwalk play``: a person writes a token task, beside the best that is still possible."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tokenwalk.agents.exact_tokens.completions import best_text
from tokenwalk.agents.exact_tokens.token_policy import table_policy
from tokenwalk.agents.problem.problem import Problem
from tokenwalk.envs.rewards.source import TokenBatch

STOP_WORDS = ("quit", "exit")


class Table:
    """One episode of a token task with its exact values at hand.

    Raises:
        ValueError: an environment that is no token task, or one without exact answers.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        if problem.tokens is None:
            raise ValueError(
                f"{problem.env_id} is no token task: play one of those that 'tokenwalk envs' lists with tokens"
            )
        self._task, self._best = problem.tokens.task, problem.best
        self._policy = table_policy(problem.tokens, self._best.policy)
        self._env = problem.make(observation="tokens", render_mode="ansi")
        self._observation, self._info = self._env.reset(seed=seed)
        self.return_, self.length, self.over = 0.0, 0, False

    @property
    def tokens(self) -> tuple[str, ...]:
        """Return the symbols that may be written now."""
        mask = self._info["action_mask"]
        return tuple(
            symbol for symbol, allowed in zip(self._task.vocabulary.tokens, mask, strict=True) if allowed
        )

    def write(self, symbol: str) -> None:
        """Write one token. Raises ValueError for a symbol that may not be written now; nothing is written then."""
        if symbol not in self.tokens:
            raise ValueError(
                f"{symbol!r} cannot be written here: write one of {' '.join(map(repr, self.tokens))}"
            )
        action = self._task.vocabulary.tokens.index(symbol)
        self._observation, reward, self.over, _, self._info = self._env.step(action)
        self.return_ += float(reward)
        self.length += 1

    def show(self) -> str:
        """Return the episode so far, and the best return that is still possible, exactly."""
        return f"{self._env.render()}\nbest still possible  {self.best_possible():+g}"

    def best_possible(self) -> float:
        """Return the return so far plus the exact value of going on as well as can be."""
        if self.over:
            return self.return_
        prompt, completion = np.split(self._observation[None], [self._task.prompt_length], axis=1)
        batch = TokenBatch(prompt, completion, np.array([self.length]), np.zeros(1, dtype=np.bool_))
        return self.return_ + float(self._best.value[self.length, self._policy.states(batch)[0]])

    def optimum(self) -> str:
        """Return the optimum of this prompt and a completion that attains it."""
        prompt, text = self._observation[: self._task.prompt_length], self._task.vocabulary.decode
        number = next(n for n, ids in enumerate(self._task.prompt_ids) if (ids == prompt).all())
        start = self._policy.start[number if self._policy.start.size > 1 else 0]
        best = best_text(self._task, self._policy, number)
        shown = f" after {text(prompt)!r}" if text(prompt) else ""
        return f"the optimum is {self._best.value[0, start]:+g}{shown}, for example {best!r}"


def split_line(line: str, tokens: Iterable[str]) -> list[str]:
    """Return the symbols that a person typed: the line itself, its words, or its characters.

    >>> split_line("cab", "abc"), split_line("<eos>", ["a", "<eos>"]), split_line("so be it", ["so", "be", "it"])
    (['c', 'a', 'b'], ['<eos>'], ['so', 'be', 'it'])
    """
    known = set(tokens)
    if line in known:
        return [line]
    words = line.split()
    return words if words and all(word in known for word in words) else list(line)


def play_episode(table: Table, ask: Callable[[], str | None], show: Callable[[str], Any]) -> bool:
    """Let a person write until the episode is over; return whether it was. ``ask`` returns None at the end of input."""
    show(
        f"write: {' '.join(map(repr, table.tokens))}   (several at once are fine; an empty line ends with <eos>; quit)"
    )
    show(table.show())
    while not table.over:
        line = ask()
        if line is None or line.strip() in STOP_WORDS:
            return False
        for symbol in split_line(line, table.tokens) or [table.tokens[-1]]:
            try:
                table.write(symbol)
            except ValueError as error:
                show(str(error))
                break
            if table.over:
                break
        show(table.show())
    show(table.optimum())
    return True
