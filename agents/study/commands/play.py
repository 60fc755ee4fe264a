"""``tokenwalk play``: a person plays a token task and sees the best return that is still possible."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tokenwalk.agents.exact_tokens.completions import best_text
from tokenwalk.agents.exact_tokens.token_policy import table_policy
from tokenwalk.agents.problem.problem import Problem
from tokenwalk.envs.rewards.source import TokenBatch

STOP_WORDS = ("quit", "exit")


class Table:
    """One episode of a token task with its exact values.

    Raises:
        ValueError: an environment that is no token task, or has no exact answer.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        if problem.tokens is None:
            raise ValueError(
                f"{problem.env_id} is no token task: give a token task that 'tokenwalk envs' lists"
            )
        self._task, self._best = problem.tokens.task, problem.best
        self._policy = table_policy(problem.tokens, self._best.policy)
        self._env = problem.make(observation="tokens", render_mode="ansi")
        self._observation, self._info = self._env.reset(seed=seed)
        self.return_, self.length, self.over = 0.0, 0, False

    @property
    def tokens(self) -> tuple[str, ...]:
        """Return the tokens that are allowed now."""
        mask = self._info["action_mask"]
        return tuple(
            symbol for symbol, allowed in zip(self._task.vocabulary.tokens, mask, strict=True) if allowed
        )

    def append(self, symbol: str) -> None:
        """Append one token. Raises ValueError for a token that is not allowed now; the episode does not change then."""
        if symbol not in self.tokens:
            raise ValueError(
                f"{symbol!r} is not allowed here: give one of {' '.join(map(repr, self.tokens))}"
            )
        action = self._task.vocabulary.tokens.index(symbol)
        self._observation, reward, self.over, _, self._info = self._env.step(action)
        self.return_ += float(reward)
        self.length += 1

    def show(self) -> str:
        """Return the episode so far, and the best return that is still possible, exactly."""
        return f"{self._env.render()}\nbest still possible  {self.best_possible():+g}"

    def best_possible(self) -> float:
        """Return the return so far plus the exact optimal value of the current state."""
        if self.over:
            return self.return_
        prompt, completion = np.split(self._observation[None], [self._task.prompt_length], axis=1)
        batch = TokenBatch(prompt, completion, np.array([self.length]), np.zeros(1, dtype=np.bool_))
        return self.return_ + float(self._best.value[self.length, self._policy.states(batch)[0]])

    def optimum(self) -> str:
        """Return a sentence with the optimum of this prompt and an optimal completion."""
        prompt, text = self._observation[: self._task.prompt_length], self._task.vocabulary.decode
        number = next(n for n, ids in enumerate(self._task.prompt_ids) if (ids == prompt).all())
        start = self._policy.start[number if self._policy.start.size > 1 else 0]
        best = best_text(self._task, self._policy, number)
        shown = f" after {text(prompt)!r}" if text(prompt) else ""
        return f"the optimum is {self._best.value[0, start]:+g}{shown}, for example {best!r}"


def split_line(line: str, tokens: Iterable[str]) -> list[str]:
    """Return the tokens of a typed line: the line itself, its words, or its characters.

    >>> split_line("cab", "abc"), split_line("<eos>", ["a", "<eos>"]), split_line("so be it", ["so", "be", "it"])
    (['c', 'a', 'b'], ['<eos>'], ['so', 'be', 'it'])
    """
    known = set(tokens)
    if line in known:
        return [line]
    words = line.split()
    return words if words and all(word in known for word in words) else list(line)


def play_episode(table: Table, ask: Callable[[], str | None], show: Callable[[str], Any]) -> bool:
    """Ask for tokens until the episode ends; return whether it ended. ``ask`` returns None at the end of input."""
    show(
        f"tokens: {' '.join(map(repr, table.tokens))}   (type one or more; an empty line is <eos>; quit stops)"
    )
    show(table.show())
    while not table.over:
        line = ask()
        if line is None or line.strip() in STOP_WORDS:
            return False
        for symbol in split_line(line, table.tokens) or [table.tokens[-1]]:
            try:
                table.append(symbol)
            except ValueError as error:
                show(str(error))
                break
            if table.over:
                break
        show(table.show())
    show(table.optimum())
    return True
