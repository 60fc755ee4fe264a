"""``tokenwalk evaluate``: reads a run folder and says what its agent is worth."""

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

    The figures are exact where the environment has tables. ``estimate`` (None where nothing was played) holds
    episodes, return and its 95 % interval from episodes played by run 0: 200 of them where there are no tables or
    ``trajectories`` asks for them and ``episodes`` does not say otherwise. ``stored`` (there only with ``reward``) holds,
    for each source that ``reward`` names, what it says of the completions that the run stored when it ended; nothing is
    written again. ``best_of`` (there only where it is asked for) holds what the best of so many completions earns, see
    ``best_of.best_of``.

    Raises:
        ValueError: no run, a damaged one, fewer than 1 episode, or the best of several where there are no texts.
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
        raise ValueError(f"{problem.env_id} is no token task: there are no texts to choose the best of")
    return best_of_run(problem.tokens, over_tokens(problem, learner.policy()), n, seed)


def _score_again(run: Path, problem: Problem, reward: Sequence[str]) -> dict[str, Any]:
    """Return what the sources that ``reward`` names say of the completions of a run. Raises ValueError as they do."""
    if problem.tokens is None:
        raise ValueError(f"{run} is no run of a token task: there is no text to score again")
    task = problem.tokens.task
    sources = [named_source(Named.of(text).name, task) for text in reward]
    return score_stored(read_completions(run, task), task, sources)
