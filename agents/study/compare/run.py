"""``tokenwalk compare``: trains the cells of a comparison and summarizes them; a killed one can be resumed."""

import csv
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from tokenwalk.agents.learners.registry import find_agent
from tokenwalk.agents.runs.checkpoint import read_json, write_json
from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.agents.runs.processes import in_processes
from tokenwalk.agents.runs.tracking import read_metrics
from tokenwalk.agents.study.compare.plan import MODEL_OF, Cell, Comparison
from tokenwalk.agents.study.compare.statistics import (
    interquartile_mean,
    interval,
    mean_of_known,
    median_of_known,
)
from tokenwalk.envs.loading import is_place

REACHED = 0.95  # the normalized score of steps_to_95
BONUS, PENALTY = "0.2..0", "-1"  # weights of the autoencoder's error
OnCell = Callable[
    [int, int, str], Any
]  # finished cells, all cells, name of the cell that has just finished ("": none)


def cells_left(comparison: Comparison, folder: Path) -> list[Cell]:
    """Return the cells that are not finished in ``folder``."""
    return [cell for cell in comparison.cells() if not _is_finished(folder / "runs" / cell.name)]


def compare(
    comparison: Comparison,
    folder: Path,
    *,
    jobs: int | None = None,
    on_cell: OnCell = lambda finished, total, name: None,
    on_stage: Callable[[str], Any] = lambda stage: None,
) -> dict[str, Any]:
    """Train every cell that is not finished in ``folder``, in parallel processes, and return the report.

    Args:
        comparison: the request.
        folder: of the runs; a folder with a part of the same comparison is resumed.
        jobs: processes; None: one per core.
        on_cell: called after each cell. on_stage: called before each learned reward is trained.

    Returns:
        env, agents (their labels), rewards, seeds, budget, env_args, rows (one per agent and reward, see ``summarize``),
        by_agent and by_reward (name, cells, score, low, high: over their cells; the seeds of each cell are resampled
        separately), seconds, run_dir.

    Raises:
        ValueError: a folder of another comparison, or in use by another process; fewer than 1 job.
    """
    started = time.perf_counter()
    claim(folder, comparison, jobs)
    with _alone_in(folder):
        _train_rewards(comparison, folder, on_stage)
        _train_cells(comparison, folder, jobs, on_cell)
    report = {
        **asdict(comparison),
        "agents": [find_agent(agent).label for agent in comparison.agents],
        **summarize(comparison, folder),
        "seconds": time.perf_counter() - started,
        "run_dir": str(folder),
    }
    write_json(folder / "comparison.json", report)
    with (folder / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(report["rows"][0]))
        writer.writeheader()
        writer.writerows(report["rows"])
    return report


def _train_cells(comparison: Comparison, folder: Path, jobs: int | None, on_cell: OnCell) -> None:
    """Train the cells that are not finished in ``folder``."""
    cells = comparison.cells()
    left = cells_left(comparison, folder)
    finished = len(cells) - len(left)
    on_cell(finished, len(cells), "")
    for cell, _ in in_processes(partial(train_cell, folder=folder), left, jobs):
        finished += 1
        on_cell(finished, len(cells), cell.name)


def claim(folder: Path, comparison: Comparison, jobs: int | None = None) -> None:
    """Reserve ``folder`` for ``comparison``; a folder of the same comparison with at most as many seeds is accepted.

    Raises:
        ValueError: a folder of another comparison, or fewer than 1 job.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs is {jobs}: give 1 or more")
    request = {
        **asdict(comparison),
        "agents": list(comparison.agents),
        "rewards": list(comparison.rewards),
        "files": _contents([*comparison.agents, *comparison.env_args.values()]),
    }
    kept = folder / "asked.json"
    if not folder.exists():
        folder.mkdir(parents=True)
        write_json(kept, request)
    if not kept.is_file():
        raise ValueError(f"{folder} exists and contains no comparison: give a new folder with --run-dir")
    if (found := read_json(kept)) != request:
        other = next(name for name in request if request[name] != found.get(name))
        if {**found, "seeds": comparison.seeds} == request and found["seeds"] < comparison.seeds:
            write_json(kept, request)  # the finished seeds stay
            return
        raise ValueError(
            f"{folder} contains a comparison with {other} = {found.get(other)!r}, not {request[other]!r}: give a new "
            "folder with --run-dir, or the same request"
        )


def _contents(values: Iterable[Any]) -> dict[str, str]:
    """Return the digest of the file of each FILE.py:NAME: an edited task or agent makes another comparison."""
    places = [value for value in values if isinstance(value, str) and is_place(value)]
    paths = {place: Path(place.rpartition(":")[0]) for place in places}
    return {place: sha256(path.read_bytes()).hexdigest()[:12] for place, path in paths.items()}


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Lock ``folder``. Raises ValueError if another process holds the lock, which ends with its process."""
    with (folder / "lock").open("w") as lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no locks on Windows
            pass
        except BlockingIOError:
            raise ValueError(
                f"another process runs a comparison in {folder}: wait for it, or stop it"
            ) from None
        yield


def _is_finished(run: Path) -> bool:
    folder = RunFolder(run)
    try:
        complete = folder.is_complete and not folder.summary.get("interrupted")
    except ValueError:  # damaged: the run is repeated
        return False
    return complete and (run / "metrics.csv").is_file()


def _train_rewards(comparison: Comparison, folder: Path, on_stage: Callable[[str], Any]) -> None:
    """Train the learned rewards of the comparison that are not finished in ``folder``."""
    from tokenwalk.agents.backprop.configs import RewardModelConfig, TokenAutoencoderConfig, default_training
    from tokenwalk.agents.runs.progress import completed
    from tokenwalk.agents.training.model_run import ModelRequest
    from tokenwalk.agents.training.train_autoencoder import train_autoencoder_run
    from tokenwalk.agents.training.train_reward_model import train_reward_model_run

    wanted = {MODEL_OF[reward] for reward in comparison.rewards if reward in MODEL_OF}
    for kind in sorted(wanted):
        run = folder / kind
        if _is_finished(run):
            continue
        on_stage(f"training the {kind} ...")
        shutil.rmtree(run, ignore_errors=True)
        request = ModelRequest(comparison.env_args.get("task", comparison.env), run_dir=run)
        if kind == "reward-model":
            model = RewardModelConfig()
            completed(train_reward_model_run(request, model, default_training(model)))
        else:
            autoencoder = TokenAutoencoderConfig()
            completed(train_autoencoder_run(request, autoencoder, default_training(autoencoder)))


def train_cell(cell: Cell, folder: Path) -> None:
    """Train one cell into its run folder."""
    from tokenwalk.agents.training.train_agent import train

    run = folder / "runs" / cell.name
    shutil.rmtree(run, ignore_errors=True)  # an unfinished run of a killed comparison
    autoencoder = folder / "autoencoder"
    reward: Mapping[str, list[str]] = {
        "proxy": ["proxy"],
        "reward-model": [str(folder / "reward-model")],
        "bonus": ["gold", f"{autoencoder}={BONUS}"],
        "penalty": ["proxy", f"{autoencoder}={PENALTY}"],
    }
    train(
        cell.agent,
        cell.env,
        steps=cell.steps,
        seed=cell.seed,
        runs=1,
        env_args=cell.env_args,
        reward=reward.get(cell.reward, []),
        shaping=[str(autoencoder)] if cell.reward == "potential" else [],
        run_dir=run,
    )


def summarize(comparison: Comparison, folder: Path) -> dict[str, Any]:
    """Return the statistics of the finished runs in ``folder``.

    Returns:
        rows: agent (its label), reward, seeds, score (interquartile mean of the normalized score), low and high (its 95 %
        interval, None with one seed), gold, proxy (means), kl (mean, to the reference policy, in nats),
        steps and seconds (means), steps_to_95 and seconds_to_95 (medians of the first evaluation with a score of 0.95, None
        if half of the seeds never reach it), exact. by_agent, by_reward: name, cells (their number), score, low, high.
    """
    found: dict[tuple[str, str], list[Path]] = {}
    for cell in comparison.cells():
        found.setdefault((cell.label, cell.reward), []).append(folder / "runs" / cell.name)
    scores, rows = {}, []
    for (agent, reward), runs in found.items():
        summaries = [RunFolder(run).summary for run in runs]
        scores[agent, reward] = np.array([_number(one["normalized_score"]) for one in summaries])
        reached = [_reached(run) for run in runs]
        low, high = interval([scores[agent, reward]])
        rows.append(
            {
                "agent": agent,
                "reward": reward,
                "seeds": len(runs),
                "score": interquartile_mean([scores[agent, reward]]),
                "low": low,
                "high": high,
                "exact": all(one["exact"] for one in summaries),
                "gold": mean_of_known([one["gold"] for one in summaries]),
                "proxy": mean_of_known([one["proxy"] for one in summaries]),
                "kl": mean_of_known([one["kl"] for one in summaries]),
                "steps": mean_of_known([one["steps"] for one in summaries]),
                "seconds": mean_of_known([one["seconds"] for one in summaries]),
                "steps_to_95": median_of_known([steps for steps, _ in reached]),
                "seconds_to_95": median_of_known([seconds for _, seconds in reached]),
            }
        )
    return {
        "rows": rows,
        "by_agent": _together(scores, 0, [find_agent(agent).label for agent in comparison.agents]),
        "by_reward": _together(scores, 1, comparison.rewards),
    }


def _together(
    scores: Mapping[tuple[str, str], Any], place: int, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return a row for each name that stands at ``place`` of a key of ``scores``."""
    rows = []
    for name in names:
        cells = [values for key, values in scores.items() if key[place] == name]
        if not cells:
            continue
        low, high = interval(cells)
        row = {
            "name": name,
            "cells": len(cells),
            "score": interquartile_mean(cells),
            "low": low,
            "high": high,
        }
        rows.append(row)
    return rows


def _reached(run: Path) -> tuple[float | None, float | None]:
    """Return the first step and second with a normalized score of at least 0.95, or (None, None)."""
    for step, seconds, tag, value in read_metrics(run):
        if tag == "eval/normalized_score" and value >= REACHED:
            return float(step), seconds
    return None, None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
