"""``tokenwalk compare``: trains what is compared and sums it up; a killed one goes on."""

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

REACHED = 0.95  # of the way from the reference policy to the optimum, by gold
BONUS, PENALTY = "0.2..0", "-1"  # weights of the autoencoder's error
OnStage = Callable[[int, int, str], Any]  # cells that are over, cells, the one that has just ended


def cells_left(comparison: Comparison, folder: Path) -> list[Cell]:
    """Return the cells that ``folder`` does not hold yet."""
    return [cell for cell in comparison.cells() if not _is_over(folder / "runs" / cell.name)]


def compare(
    comparison: Comparison,
    folder: Path,
    *,
    jobs: int | None = None,
    told: OnStage = lambda over, all_, name: None,
    say: Callable[[str], Any] = lambda stage: None,
) -> dict[str, Any]:
    """Train every cell that ``folder`` does not hold yet, in parallel processes, and return what came of all.

    Args:
        comparison: what.
        folder: where the runs go; one that holds a part of the same comparison is gone on with.
        jobs: processes; as many as there are cores if None.
        told: called as cells end. say: called with what goes on before the first of them.

    Returns:
        env, agents, rewards, seeds, budget, rows (one for each agent and reward, see ``summarize``), by_agent and by_reward
        (name, cells, score, low, high: over their cells, the seeds of each drawn apart), seconds, run_dir.

    Raises:
        ValueError: a folder of another comparison or in which another process compares, or fewer than 1 job.
    """
    started = time.perf_counter()
    claim(folder, comparison, jobs)
    with _alone_in(folder):
        _learn_rewards(comparison, folder, say)
        _train_cells(comparison, folder, jobs, told)
    report = {
        **asdict(comparison),
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


def _train_cells(comparison: Comparison, folder: Path, jobs: int | None, told: OnStage) -> None:
    """Train what ``folder`` does not hold yet."""
    cells = comparison.cells()
    left = cells_left(comparison, folder)
    told(len(cells) - len(left), len(cells), "")
    over = len(cells) - len(left)
    for cell, _ in in_processes(partial(train_cell, folder=folder), left, jobs):
        over += 1
        told(over, len(cells), cell.name)


def claim(folder: Path, comparison: Comparison, jobs: int | None = None) -> None:
    """Make ``folder`` this comparison's, or find that it is, or that more seeds of the same are asked for.

    Raises:
        ValueError: a folder of another comparison, or fewer than 1 job.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs is {jobs}: give 1 or more")
    asked = {
        **asdict(comparison),
        "agents": list(comparison.agents),
        "rewards": list(comparison.rewards),
        "files": _contents(comparison.env_args.values()),
    }
    kept = folder / "asked.json"
    if not folder.exists():
        folder.mkdir(parents=True)
        write_json(kept, asked)
    if not kept.is_file():
        raise ValueError(f"{folder} exists and holds no comparison: name a new folder with --run-dir")
    if (found := read_json(kept)) != asked:
        other = next(name for name in asked if asked[name] != found.get(name))
        if {**found, "seeds": comparison.seeds} == asked and found["seeds"] < comparison.seeds:
            write_json(kept, asked)  # more seeds of the same: those that are there stay
            return
        raise ValueError(
            f"{folder} holds a comparison with {other} = {found.get(other)!r}, and {asked[other]!r} was asked for: name a "
            "new folder with --run-dir, or ask for the same"
        )


def _contents(values: Iterable[Any]) -> dict[str, str]:
    """Return the digest of each file that the values name as FILE.py:NAME: a task that was edited is another task."""
    places = [value for value in values if isinstance(value, str) and is_place(value)]
    paths = {place: Path(place.rpartition(":")[0]) for place in places}
    return {place: sha256(path.read_bytes()).hexdigest()[:12] for place, path in paths.items()}


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process. Raises ValueError where another one holds it; a killed one holds nothing."""
    with (folder / "lock").open("w") as lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # not on this system
            pass
        except BlockingIOError:
            raise ValueError(
                f"{folder} is being compared in by another process: wait for it, or stop it"
            ) from None
        yield


def _is_over(run: Path) -> bool:
    folder = RunFolder(run)
    try:
        whole = folder.is_complete and not folder.summary.get("interrupted")
    except ValueError:  # damaged: trained again
        return False
    return whole and (run / "metrics.csv").is_file()


def _learn_rewards(comparison: Comparison, folder: Path, say: Callable[[str], Any]) -> None:
    """Train the learned rewards that are compared and are not there yet."""
    from tokenwalk.agents.backprop.configs import RewardModelConfig, TokenAutoencoderConfig, default_training
    from tokenwalk.agents.training.model_run import ModelRequest
    from tokenwalk.agents.training.progress import completed
    from tokenwalk.agents.training.train_autoencoder import train_autoencoder_run
    from tokenwalk.agents.training.train_reward_model import train_reward_model_run

    wanted = {MODEL_OF[reward] for reward in comparison.rewards if reward in MODEL_OF}
    for kind in sorted(wanted):
        run = folder / kind
        if _is_over(run):
            continue
        say(f"learning the {kind} that is compared ...")
        shutil.rmtree(run, ignore_errors=True)
        teaching = ModelRequest(comparison.env_args.get("task", comparison.env), run_dir=run)
        if kind == "reward-model":
            model = RewardModelConfig()
            completed(train_reward_model_run(teaching, model, default_training(model)))
        else:
            autoencoder = TokenAutoencoderConfig()
            completed(train_autoencoder_run(teaching, autoencoder, default_training(autoencoder)))


def train_cell(cell: Cell, folder: Path) -> None:
    """Train one cell into its own run folder, with the KL of what it came to beside the summary."""
    from tokenwalk.agents.training.train_agent import train

    run = folder / "runs" / cell.name
    shutil.rmtree(run, ignore_errors=True)  # of a comparison that was killed
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
    """Return what the runs in ``folder`` came to.

    Returns:
        rows: agent, reward, seeds, score (interquartile mean of the normalised score by gold), low and high (its 95 %
        interval, None with one seed), gold, proxy (means), kl (mean, to the reference policy, in nats),
        steps and seconds (means), steps_to_95 and seconds_to_95 (medians, None where most seeds did not come to 0.95),
        exact. by_agent, by_reward: name, cells (how many), score, low, high.
    """
    found: dict[tuple[str, str], list[Path]] = {}
    for cell in comparison.cells():
        found.setdefault((cell.agent, cell.reward), []).append(folder / "runs" / cell.name)
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
        "by_agent": _together(scores, 0, comparison.agents),
        "by_reward": _together(scores, 1, comparison.rewards),
    }


def _together(
    scores: Mapping[tuple[str, str], Any], place: int, names: Sequence[str]
) -> list[dict[str, Any]]:
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
    """Return the step and the second at which the normalised score first was 0.95, None where it never was."""
    for step, seconds, tag, value in read_metrics(run):
        if tag == "eval/normalized_score" and value >= REACHED:
            return float(step), seconds
    return None, None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
