"""Training and comparing from Python, as kind as the command line: keywords, mappings, functions, numpy numbers, paths."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenwalk.agents.learners.registry import Agent, find_agent
from tokenwalk.agents.problem.reward_spec import Reward, several
from tokenwalk.agents.runs.progress import OnProgress
from tokenwalk.agents.study.compare import run as comparison_run
from tokenwalk.agents.study.compare.plan import plan
from tokenwalk.agents.training import train_agent
from tokenwalk.envs.checks import check_count


def train(
    agent: str,
    env: str,
    *,
    steps: int | None = None,
    seed: int = 0,
    runs: int | None = None,
    reward: Reward | Sequence[Reward] = (),
    shaping: str | Sequence[str] = (),
    config: Mapping[str, Any] | Any = None,
    env_args: Mapping[str, Any] | None = None,
    run_dir: Path | str | None = None,
    threads: int = 1,
    on_progress: OnProgress | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train an agent into a run folder and return its summary, as ``tokenwalk train AGENT ENV`` does.

    Args:
        agent: a name such as "q-learning" or "rloo", or FILE.py:CLASS for a custom algorithm.
        env: an id such as "CounterWalk".
        steps: environment steps; None: what suits the environment.
        seed: of everything that is sampled.
        runs: independent runs; None: 16 for tabular agents on tables, else 1.
        reward: of a token task: a name, a function of the text, a source, or several, each alone or with its weight.
        shaping: potentials by name.
        config: the agent's dataclass, or a mapping of some of its fields; None: what suits the environment.
        env_args: of ``gym.make``.
        run_dir: a new folder; None: a numbered one under runs/.
        threads: of torch.
        on_progress: called some times a second with a ``Progress``.
        settings: fields of the agent's config, such as epsilon=0.5.

    Raises:
        ValueError: an unknown name or field (with the nearest), a number out of range, a folder that exists.
    """
    found = find_agent(agent)
    return train_agent.train(
        agent,
        env,
        steps=None if steps is None else check_count("steps", steps, 0),
        seed=seed,
        runs=None if runs is None else check_count("runs", runs),
        env_args=env_args,
        reward=several(reward),
        shaping=several(shaping),
        config=_config(found, env, config, settings),
        run_dir=run_dir,
        threads=check_count("threads", threads),
        on_progress=on_progress,
    )


def compare(
    env: str,
    agents: Sequence[str] = (),
    *,
    rewards: Sequence[str] = (),
    seeds: int = 2,
    budget: float = 1.0,
    env_args: Mapping[str, Any] | None = None,
    run_dir: Path | str | None = None,
    jobs: int | None = None,
) -> dict[str, Any]:
    """Train agents times rewards times seeds and return their scores with intervals, as ``tokenwalk compare`` does.

    It starts processes: a script that calls it needs ``if __name__ == "__main__":``.

    Args:
        env: an id.
        agents: names, or FILE.py:CLASS; none: those that suit the environment.
        rewards: "gold", "proxy", "reward-model", "bonus", "potential", "penalty"; none: all that the environment has.
        seeds: how many.
        budget: factor of each agent's default steps.
        env_args: of ``gym.make``.
        run_dir: the folder, gone on with where it holds a part; None: runs/compare-ENV.
        jobs: processes; None: one for each core.

    Raises:
        ValueError: what cannot be compared, or a folder of another comparison.
    """
    asked = plan(env, several(agents), several(rewards), check_count("seeds", seeds), budget, env_args)
    name = asked.env.rsplit("/", 1)[-1].rpartition("-v")[0]
    folder = Path("runs") / f"compare-{name}" if run_dir is None else Path(run_dir)
    return comparison_run.compare(asked, folder, jobs=jobs)


def _config(agent: Agent, env: str, config: Any, settings: Mapping[str, Any]) -> Any:
    """Return the agent's config with the fields that were given.

    Raises:
        ValueError: a config of another type, or a field that the agent does not have, with the nearest.
    """
    kind, default = agent.config_type, agent.default(env)[0]
    if isinstance(config, Mapping):
        settings, config = {**config, **settings}, None
    if config is not None and (kind is None or not isinstance(config, kind)):
        wanted = "nothing to set" if kind is None else f"a {kind.__name__} or a mapping of its fields"
        raise ValueError(f"config is {type(config).__name__}: {agent.name} takes {wanted}")
    known = [] if kind is None else [field.name for field in dataclasses.fields(kind)]
    if unknown := [name for name in settings if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise ValueError(
            f"{agent.name} has no setting {unknown[0]!r}"
            + (f": did you mean {near[0]}?" if near else "")
            + f" It has {', '.join(known) or 'none'}; what belongs to the environment goes into env_args"
        )
    base = default if config is None else config
    return dataclasses.replace(base, **settings) if settings else base
