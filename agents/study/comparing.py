"""``tokenwalk compare``: agents times rewards times seeds, side by side, with honest statistics; a killed one goes on.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (the interquartile
mean, and bootstrap intervals that draw the seeds of each cell apart).
"""

import csv
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from tokenwalk.agents.runs.checkpoint import read_json, write_json
from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.agents.runs.tracking import read_metrics
from tokenwalk.agents.study.budgets import LANGUAGE, SB3, TABULAR, check_agent, default_steps
from tokenwalk.agents.study.problem import Problem, open_problem
from tokenwalk.agents.study.processes import in_processes
from tokenwalk.envs.loading import is_place

REWARDS = ("gold", "proxy", "reward-model", "bonus", "potential", "penalty")
TOKEN_AGENTS, OTHER_AGENTS = ("q-learning", "ppo", "rloo", "sft"), ("q-learning", "ppo", "dqn")
REACHED = 0.95  # of the way from the reference policy to the optimum, by gold
RESAMPLES = 2_000
CONFIDENCE = 0.95
TRIM = 0.25  # on either side of the interquartile mean
BONUS, PENALTY = "0.2..0", "-1"  # weights of the autoencoder's error
_MODEL_OF = {
    "reward-model": "reward-model",
    "bonus": "autoencoder",
    "potential": "autoencoder",
    "penalty": "autoencoder",
}
_TAUGHT = "it is learned on the task as it is, so no --env-arg but task goes with it"
# Steps a second on one core of a laptop, about, and seconds before the first: for the estimate alone.
_RATES: Mapping[str, float] = {"tabular": 200_000.0, "sb3": 15_000.0, "language": 25_000.0}
_START = 6.0
Told = Callable[[int, int, str], Any]  # cells that are over, cells, the one that has just ended


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        env: an environment's id.
        agents: names. rewards: of ``REWARDS``. seeds: 0 to this less 1.
        budget: times each agent's default steps.
        env_args: for ``gym.make``.
    """

    env: str
    agents: tuple[str, ...]
    rewards: tuple[str, ...]
    seeds: int
    budget: float
    env_args: Mapping[str, Any]

    def cells(self) -> list["Cell"]:
        """Return what is trained; fine-tuning on gold's samples knows no other reward."""
        return [
            Cell(
                self.env,
                self.env_args,
                agent,
                reward,
                seed,
                round(self.budget * default_steps(agent, self.env)),
            )
            for agent in self.agents
            for reward in self.rewards
            for seed in range(self.seeds)
            if agent != "sft" or reward == "gold"
        ]


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    env: str
    env_args: Mapping[str, Any]
    agent: str
    reward: str
    seed: int
    steps: int

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return f"{self.agent}-{self.reward}-{self.seed}"


def estimate(cells: Sequence[Cell], jobs: int) -> float:
    """Return about how many seconds it takes to train ``cells``, ``jobs`` at once."""
    total = 0.0
    for cell in cells:
        kind = "language" if cell.agent in LANGUAGE else "sb3" if cell.agent in SB3 else "tabular"
        total += _START + cell.steps / _RATES[kind]
    return total / jobs


def cells_left(comparison: Comparison, folder: Path) -> list[Cell]:
    """Return the cells that ``folder`` does not hold yet."""
    return [cell for cell in comparison.cells() if not _is_over(folder / "runs" / cell.name)]


def plan(
    env: str,
    agents: Sequence[str] = (),
    rewards: Sequence[str] = (),
    seeds: int = 2,
    budget: float = 1.0,
    env_args: Mapping[str, Any] | None = None,
) -> Comparison:
    """Return what is compared, with what suits the environment where nothing is named.

    Raises:
        ValueError: an unknown environment, agent or reward, one that the environment does not have, no seed, or a budget
            that is not above 0.
    """
    problem = open_problem(env, env_args)
    known = _rewards_of(problem)
    agents = tuple(agents) or (OTHER_AGENTS if problem.tokens is None else TOKEN_AGENTS)
    for agent in agents:
        if check_agent(agent) not in (*TABULAR, *SB3, *LANGUAGE):
            raise ValueError(f"{agent} does not learn: it is an end of the scale that all are measured on")
        if agent in LANGUAGE and problem.tokens is None:
            raise ValueError(f"{agent} writes tokens and {problem.env_id} is no token task")
    for what, names in (("agents", agents), ("rewards", rewards)):
        if twice := [name for name in names if list(names).count(name) > 1]:
            raise ValueError(
                f"{twice[0]} is named twice among the {what}: name each once; --seeds repeats them"
            )
    if problem.lines.optimal_return is None:
        raise ValueError(
            f"{problem.env_id} has no exact optimum to compare with ({problem.lines.note or problem.reason}): compare on "
            "ours, or on FrozenLake, CliffWalking or Taxi"
        )
    if unknown := [reward for reward in rewards if reward not in known]:
        why = f" ({_TAUGHT})" if unknown[0] in _MODEL_OF and problem.tokens is not None else ""
        raise ValueError(
            f"{problem.env_id} has no reward {unknown[0]!r} to compare{why}: give {', '.join(known)}"
        )
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}: give 1 or more")
    if not (math.isfinite(budget) and budget > 0):
        raise ValueError(
            f"budget is {budget}: give a number above 0, by which the agents' default steps are multiplied"
        )
    asked = Comparison(problem.env_id, agents, tuple(rewards) or known, seeds, budget, dict(problem.env_args))
    if "sft" in agents and "gold" not in asked.rewards:
        raise ValueError(
            "sft imitates samples of gold's optimum and knows no other reward: compare it on gold, or leave it out"
        )
    if idle := [cell.agent for cell in asked.cells() if cell.steps < 1]:
        raise ValueError(f"budget is {budget}: with it {idle[0]} takes no step; give a larger one")
    return asked


def _rewards_of(problem: Problem) -> tuple[str, ...]:
    if problem.tokens is None:
        return ("gold",)
    has_proxy = "proxy" in problem.tokens.task.sources
    teachable = set(problem.env_args) <= {"task"}
    return tuple(
        reward
        for reward in REWARDS
        if (has_proxy or reward not in ("proxy", "penalty")) and (teachable or reward not in _MODEL_OF)
    )


def compare(
    comparison: Comparison,
    folder: Path,
    *,
    jobs: int | None = None,
    told: Told = lambda over, all_, name: None,
) -> dict[str, Any]:
    """Train every cell that ``folder`` does not hold yet, in parallel processes, and return what came of all.

    Args:
        comparison: what.
        folder: where the runs go; one that holds a part of the same comparison is gone on with.
        jobs: processes; as many as there are cores if None.
        told: called as cells end.

    Returns:
        env, agents, rewards, seeds, budget, rows (one for each agent and reward, see ``summarize``), by_agent and by_reward
        (name, cells, score, low, high: over their cells, the seeds of each drawn apart), seconds, run_dir.

    Raises:
        ValueError: a folder of another comparison or in which another process compares, or fewer than 1 job.
    """
    started = time.perf_counter()
    claim(folder, comparison, jobs)
    with _alone_in(folder):
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


def _train_cells(comparison: Comparison, folder: Path, jobs: int | None, told: Told) -> None:
    """Train what ``folder`` does not hold yet."""
    _learn_rewards(comparison, folder)
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


def _learn_rewards(comparison: Comparison, folder: Path) -> None:
    """Train the learned rewards that are compared and are not there yet."""
    from tokenwalk.agents.backprop.configs import RewardModelConfig, TokenAutoencoderConfig, default_training
    from tokenwalk.agents.study.model_run import Teaching
    from tokenwalk.agents.study.teaching import teach_autoencoder, teach_reward_model
    from tokenwalk.agents.study.training import to_the_end

    wanted = {_MODEL_OF[reward] for reward in comparison.rewards if reward in _MODEL_OF}
    for kind in sorted(wanted):
        run = folder / kind
        if _is_over(run):
            continue
        shutil.rmtree(run, ignore_errors=True)
        teaching = Teaching(comparison.env_args.get("task", comparison.env), run_dir=run)
        if kind == "reward-model":
            model = RewardModelConfig()
            to_the_end(teach_reward_model(teaching, model, default_training(model)))
        else:
            autoencoder = TokenAutoencoderConfig()
            to_the_end(teach_autoencoder(teaching, autoencoder, default_training(autoencoder)))


def train_cell(cell: Cell, folder: Path) -> None:
    """Train one cell into its own run folder, with the KL of what it came to beside the summary."""
    from tokenwalk.agents.study.training import train

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
                "gold": _mean([one["gold"] for one in summaries]),
                "proxy": _mean([one["proxy"] for one in summaries]),
                "kl": _mean([one["kl"] for one in summaries]),
                "steps": _mean([one["steps"] for one in summaries]),
                "seconds": _mean([one["seconds"] for one in summaries]),
                "steps_to_95": _median([steps for steps, _ in reached]),
                "seconds_to_95": _median([seconds for _, seconds in reached]),
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


def interquartile_mean(cells: Sequence[Any]) -> float:
    """Return the mean of what lies between the quartiles of all the scores of ``cells`` together."""
    from scipy.stats import trim_mean

    return float(trim_mean(np.concatenate(list(cells)), TRIM))


def interval(cells: Sequence[Any]) -> tuple[float | None, float | None]:
    """Return the 95 % interval of that mean, the seeds of each cell drawn apart; None where a cell has one seed."""
    if min(map(len, cells)) < 2:
        return None, None
    from scipy.stats import bootstrap, trim_mean

    def statistic(*drawn: Any, axis: int = -1) -> Any:
        return trim_mean(np.concatenate(drawn, axis=axis), TRIM, axis=axis)

    rng = np.random.default_rng(0)
    options: dict[str, Any] = {
        "n_resamples": RESAMPLES,
        "confidence_level": CONFIDENCE,
        "method": "percentile",
        "rng": rng,
    }
    found = bootstrap(tuple(cells), statistic, **options).confidence_interval
    return float(found.low), float(found.high)


def _reached(run: Path) -> tuple[float | None, float | None]:
    """Return the step and the second at which the normalised score first was 0.95, None where it never was."""
    for step, seconds, tag, value in read_metrics(run):
        if tag == "eval/normalized_score" and value >= REACHED:
            return float(step), seconds
    return None, None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _median(values: Sequence[float | None]) -> float | None:
    """Return the median where most are known: one that was never reached lies above all."""
    middle = float(np.median([math.inf if value is None else value for value in values]))
    return middle if math.isfinite(middle) else None
