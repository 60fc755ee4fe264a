"""A reward that a person named, with the task that judges it or the text that it is tried on."""

from dataclasses import dataclass
from pathlib import Path

from tokenwalk.agents.problem.reward_spec import named_source
from tokenwalk.envs.rewards.source import Source
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.text_task import HORIZON, Tokens, text_task


@dataclass(frozen=True)
class NamedReward:
    """What ``audit_reward`` is given.

    Attributes:
        source: the reward.
        task: what is to be written.
        judged: whether its gold means anything.
    """

    source: Source
    task: Task
    judged: bool


def name_reward(
    name: str,
    task: str | None = None,
    text: Path | None = None,
    tokens: Tokens = "characters",
    horizon: int | None = None,
) -> NamedReward:
    """Return the reward called ``name`` on a task, or without one on a text.

    Args:
        name: gold, proxy, a run folder of a learned reward, or FILE.py:FUNCTION.
        task: a name of the catalogue or FILE.py:NAME.
        text: what the text's task is fitted to, see ``text_task``; the bundled one if None. tokens: of it.
        horizon: instead of the task's own, or of 32.

    Raises:
        ValueError: an unknown name, a task and a text together, or what ``text_task`` refuses.
    """
    if task is not None:
        if text is not None:
            raise ValueError(f"--text {text} is for a reward without a task: leave it out, or --task {task}")
        judge = find_task(task, horizon)
        return NamedReward(named_source(name, judge), judge, True)
    if name in ("gold", "proxy"):
        raise ValueError(
            f"{name!r} is a task's own reward: say which task with --task, such as --task Flattery"
        )
    plain = text_task(text, tokens, HORIZON if horizon is None else horizon)
    return NamedReward(named_source(name, plain), plain, False)
