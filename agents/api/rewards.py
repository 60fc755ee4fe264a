"""Goodhart's curve and the audits from Python, for names, functions and sources alike."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenwalk.agents.evaluation.goodhart import goodhart_report
from tokenwalk.agents.problem.reward_spec import as_source, several
from tokenwalk.agents.study.audit.audit_reward import audit_reward as audit_source
from tokenwalk.agents.study.audit.load_reward import name_reward
from tokenwalk.envs.rewards.source import Source
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.text_task import HORIZON, text_task


def goodhart(env: str, reward: Any = (), *, env_args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the exact path of a proxy: KL, proxy and gold for falling kl_coef, as ``tokenwalk goodhart`` does.

    Args:
        env: a token task by id. reward: instead of the task's proxy: a name, a function of the text or a source.
        env_args: of ``gym.make``.

    Raises:
        ValueError: no token task, no proxy, or no exact answer.

    >>> round(goodhart("Flattery")["peak"]["gold"], 3)
    0.474
    """
    return goodhart_report(env, several(reward), env_args)


def audit_reward(
    reward: str | Path | Callable[..., Any] | Source,
    task: str | Task | None = None,
    *,
    text: Path | str | None = None,
    horizon: int | None = None,
    seed: int = 0,
    budget: int = 200_000,
) -> dict[str, Any]:
    """Return what optimizing a reward generates, what that is worth, and the verdict, as ``tokenwalk audit reward`` does.

    Args:
        reward: a function of the text, a source, FILE.py:FUNCTION, a run of a learned reward, "gold" or "proxy".
        task: whose gold judges it; None: there is no verdict, and completions are like ``text``.
        text: a file; None: the bundled one. horizon: most tokens. seed: of the searches. budget: texts that are scored.

    Raises:
        ValueError: an unknown name, or a number out of range. SourceContractError: a reward that breaks its contract.

    >>> audit_reward("proxy", "Flattery")["verdict"]
    'hackable'
    """
    path = None if text is None else Path(text)
    if isinstance(reward, str | Path) and not isinstance(task, Task):
        named = name_reward(str(reward), task, path, horizon=horizon)
        return audit_source(named.source, named.task, judged=named.judged, seed=seed, budget=budget)
    if task is not None and path is not None:
        raise ValueError(f"text {path} is for a reward without a task: leave it out")
    plain = HORIZON if horizon is None else horizon
    found = text_task(path, horizon=plain) if task is None else find_task(task, horizon)
    source = as_source(str(reward) if isinstance(reward, Path) else reward, found)
    return audit_source(source, found, judged=task is not None, seed=seed, budget=budget)


def audit_kl(
    task: str = "Flattery", *, agent: str = "rloo", updates: int = 100, seed: int = 0
) -> dict[str, Any]:
    """Return what an agent and its KL penalty climb, against the exact gradient, as ``tokenwalk audit kl`` does.

    Args:
        task: a token task of few texts. agent: reinforce, rloo, grpo, ppo-lm, or FILE.py:CLASS.
        updates: that are sampled. seed: of the model and the samples.

    Raises:
        ValueError: an unknown task or agent, or a task of too many texts.
    """
    from tokenwalk.agents.study.audit.audit_kl import audit_kl as audit_choice
    from tokenwalk.agents.study.audit.audit_kl import find_choice

    return audit_choice(find_task(task), find_choice(agent, updates=updates, seed=seed))
