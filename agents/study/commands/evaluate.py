"""``tokenwalk evaluate``: evaluates the agent of a run folder."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenwalk.agents.evaluation.best_of_n import best_of as best_of_run
from tokenwalk.agents.evaluation.policies import make_actor, over_tokens
from tokenwalk.agents.evaluation.rollout import Episode, play, write_trajectories
from tokenwalk.agents.evaluation.score import EPISODES, score, score_episodes, summary_of
from tokenwalk.agents.evaluation.stored_completions import read_completions, score_stored
from tokenwalk.agents.learners.protocol import Learner
from tokenwalk.agents.learners.registry import load_learner
from tokenwalk.agents.problem.problem import Problem
from tokenwalk.agents.problem.reopen import reopen_problem
from tokenwalk.agents.problem.reward_spec import Named, named_source
from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.envs.checks import check_seed


def evaluate_run(
    run: Path,
    *,
    episodes: int | None = None,
    trajectories: Path | None = None,
    seed: int = 0,
    reward: Sequence[str] = (),
    best_of: int | None = None,
) -> dict[str, Any]:
    """Return the score of the run's agent, with the keys of a training summary and ``estimate``.

    The figures are exact if the environment has tables.

    Args:
        run: a run folder.
        episodes: number of episodes to play for ``estimate``; None: 200 if ``trajectories`` is given, else none.
        trajectories: a file for the played episodes, as JSON lines.
        seed: of everything that is sampled.
        reward: reward functions that score the completions which the run stored.
        best_of: n of best-of-n.

    Returns:
        The keys of a summary; ``estimate``: None, or episodes, return and its 95 % interval, played by run 0;
        ``stored`` (with ``reward``): the statistics of each reward function on the stored completions; ``best_of``: see
        ``evaluation.best_of_n.best_of``.

    Raises:
        ValueError: no run, a damaged run, fewer than 1 episode, or ``reward`` or ``best_of`` on a task without tokens.
    """
    started = time.perf_counter()
    check_seed(seed)
    if episodes is not None and episodes < 1:
        raise ValueError(f"episodes is {episodes}: give 1 or more")
    folder = RunFolder.open(run)
    request = folder.config
    problem = reopen_problem(folder.path, request)
    learner = load_learner(folder.path, request, problem)
    policy = learner.policy()
    found = score(problem, policy, seed, episodes=episodes or EPISODES)
    estimate = None
    if episodes is not None or trajectories is not None:
        played: Iterable[Episode] = play(
            problem.make_to_play(),
            make_actor(problem, policy, np.random.default_rng(seed)),
            episodes or EPISODES,
            seed,
        )
        if trajectories is not None:
            played = write_trajectories(trajectories, played)
        estimate = score_episodes(problem, list(played))
    return {
        "agent": request["agent"],
        "env": request["env"],
        "steps": folder.summary["steps"] if folder.is_complete else learner.steps,
        "seconds": time.perf_counter() - started,
        **summary_of(problem, found),
        "runs": learner.runs,
        "estimate": {"episodes": estimate.episodes, "return": estimate.return_, "interval": estimate.interval}
        if estimate
        else None,
        **({"best_of": _best_of(problem, learner, best_of, seed)} if best_of is not None else {}),
        **({"stored": _score_again(folder.path, problem, reward)} if reward else {}),
    }


def _best_of(problem: Problem, learner: Learner, n: int, seed: int) -> dict[str, Any]:
    if problem.tokens is None:
        raise ValueError(f"{problem.env_id} is no token task, so it has no completions for best-of-n")
    return best_of_run(problem.tokens, over_tokens(problem, learner.policy()), n, seed)


def _score_again(run: Path, problem: Problem, reward: Sequence[str]) -> dict[str, Any]:
    """Return the scores of the stored completions of a run. Raises ValueError for a reward that cannot score them."""
    if problem.tokens is None:
        raise ValueError(f"{run} is no run of a token task, so it has no completions to score")
    task = problem.tokens.task
    sources = [named_source(Named.of(text).name, task) for text in reward]
    return score_stored(read_completions(run, task), task, sources)
