"""``tokenwalk evaluate``: reads a run folder and says what its agent is worth."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.agents.study.learners import EPISODES, load_learner, score_learner
from tokenwalk.agents.study.problem import open_problem
from tokenwalk.agents.study.rollout import Episode, play, write_trajectories
from tokenwalk.agents.study.scoring import score_episodes, summary_of
from tokenwalk.envs.lanes import check_seed


def evaluate_run(
    run: Path, *, episodes: int | None = None, trajectories: Path | None = None, seed: int = 0
) -> dict[str, Any]:
    """Return the score of the run's agent, with the keys of a training summary and ``estimate``.

    The figures are exact where the environment has tables. ``estimate`` (None where nothing was played) holds
    episodes, return and its 95 % interval from episodes played by run 0: 200 of them where there are no tables or
    ``trajectories`` asks for them and ``episodes`` does not say otherwise.

    Raises:
        ValueError: no run, a damaged one, or fewer than 1 episode.
    """
    started = time.perf_counter()
    check_seed(seed)
    if episodes is not None and episodes < 1:
        raise ValueError(f"episodes is {episodes}: give 1 or more")
    folder = RunFolder.open(run)
    request = folder.config
    problem = open_problem(request["env"], request["env_args"])
    learner = load_learner(folder.path, request, problem)
    score = score_learner(problem, learner, seed, episodes or EPISODES)
    estimate = None
    if episodes is not None or trajectories is not None:
        played: Iterable[Episode] = play(
            problem.make_to_play(),
            learner.actor(0, np.random.default_rng(seed)),
            episodes or EPISODES,
            seed,
        )
        if trajectories is not None:
            played = write_trajectories(trajectories, played)
        estimate = score_episodes(problem, list(played))
    return {
        "agent": request["agent"],
        "env": request["env"],
        "steps": folder.summary["steps"],
        "seconds": time.perf_counter() - started,
        **summary_of(problem, score),
        "runs": learner.runs,
        "estimate": {"episodes": estimate.episodes, "return": estimate.return_, "interval": estimate.interval}
        if estimate
        else None,
    }
