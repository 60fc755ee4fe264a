"""Load a reward by its name, with the task that judges it or the text that replaces the task."""

from dataclasses import dataclass
from pathlib import Path

from tokenwalk.agents.problem.reward_spec import named_source
from tokenwalk.envs.rewards.source import Source
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.text_task import HORIZON, Tokens, text_task


@dataclass(frozen=True)
class NamedReward:
    """The arguments of ``audit_reward``.

    Attributes:
        source: the reward.
        task: its task.
        judged: whether the task has a gold reward.
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
    """Return the reward called ``name`` on a task, or on a text where there is no task.

    Args:
        name: gold, proxy, a run folder of a learned reward, or FILE.py:FUNCTION.
        task: a name of the catalog or FILE.py:NAME.
        text: file that the task is fitted to, see ``text_task``; the bundled one if None. tokens: its tokens.
        horizon: maximum tokens; the task's own, or 32, if None.

    Raises:
        ValueError: an unknown name, a task and a text together, or an error of ``text_task``.
    """
    if task is not None:
        if text is not None:
            raise ValueError(f"--text {text} is for a reward without a task: leave it out, or --task {task}")
        judge = find_task(task, horizon)
        return NamedReward(named_source(name, judge), judge, True)
    if name in ("gold", "proxy"):
        raise ValueError(
            f"{name!r} is a reward of a task: name the task with --task, such as --task Flattery"
        )
    plain = text_task(text, tokens, HORIZON if horizon is None else horizon)
    return NamedReward(named_source(name, plain), plain, False)
