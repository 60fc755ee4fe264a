"""Trained policies on the exact gold-against-KL path of their proxy, with best-of-n."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tokenwalk.agents.backprop.configs import RewardModelConfig, default_training
from tokenwalk.agents.evaluation.goodhart import goodhart_report
from tokenwalk.agents.evaluation.score import score
from tokenwalk.agents.exact_tokens.frontier import Fit, fit_best_of_n, fit_rl
from tokenwalk.agents.learners.registry import find_agent
from tokenwalk.agents.problem.problem import open_problem
from tokenwalk.agents.runs.processes import in_processes
from tokenwalk.agents.runs.progress import completed
from tokenwalk.agents.training.model_run import ModelRequest
from tokenwalk.agents.training.train_reward_model import train_reward_model_run

LIKED = 1.0  # the bias of Flattery's annotator: reward per word of praise, added to gold
AGENT = "rloo"


@dataclass(frozen=True)
class Course:
    """The runs on one task: their KL coefficients, and the tokens of each."""

    task: str
    kl_coefs: tuple[float, ...]
    steps: int


COURSES = (
    Course("Flattery", (1.0, 0.35, 0.2, 0.1, 0.05), 250_000),
    Course("LengthBias", (0.15, 0.1, 0.06, 0.04), 800_000),
)


@dataclass(frozen=True)
class Job:
    """One training run."""

    task: str
    reward: str
    kl_coef: float
    steps: int
    seed: int


def measure(
    folder: Path,
    courses: Sequence[Course] = COURSES,
    *,
    seed: int = 0,
    on_stage: Callable[[str], Any] = lambda text: None,
) -> list[dict[str, Any]]:
    """Train on each task's proxy and on a learned reward, and return a panel for each.

    Args:
        folder: of the reward models.
        courses: the runs.
        seed: of all random numbers.
        on_stage: called with a line after each run.

    Returns:
        Panels with task, reward ("proxy" or "reward model"), report (of ``goodhart_report``), and runs: rows with kl_coef,
        kl, proxy, gold, exact and seconds; fits: of the points of the runs, by the name of the form.
    """
    panels: list[dict[str, Any]] = []
    for course in courses:
        for label, reward in (
            ("proxy", "proxy"),
            ("reward model", str(_reward_model(course.task, folder, seed))),
        ):
            report = goodhart_report(course.task, [reward])
            jobs = [Job(course.task, reward, kl_coef, course.steps, seed) for kl_coef in course.kl_coefs]
            panels.append({"task": course.task, "reward": label, "report": report, "jobs": jobs})
    jobs = [job for panel in panels for job in panel["jobs"]]
    jobs.sort(key=lambda job: -job.steps)  # long runs first, so that no core is idle at the end
    found: dict[Job, dict[str, Any]] = {}
    for job, row in in_processes(train_policy, jobs):
        found[job] = row
        on_stage(
            f"{job.task}, {Path(job.reward).name}, kl_coef {job.kl_coef:g}: gold {row['gold']:.3f} at {row['kl']:.2f} nats"
        )
    for panel in panels:
        panel["runs"] = [found[job] for job in panel.pop("jobs")]
        panel["fits"] = fits_of(panel["runs"], panel["report"]["reference_gold"])
    return panels


def train_policy(job: Job) -> dict[str, Any]:
    """Train one policy and return its proxy and gold returns and its KL; ``exact`` says whether they are exact."""
    problem = open_problem(job.task, reward=[job.reward])
    config = replace(find_agent(AGENT).default(job.task)[0], kl_coef=job.kl_coef, evaluate_every=1_000_000)
    learner = find_agent(AGENT).build(problem, config, seed=job.seed, runs=None)
    started = time.perf_counter()
    learner.learn(job.steps, lambda step, metrics: None)
    seconds = time.perf_counter() - started
    found = score(problem, learner.policy(), job.seed)
    return {
        "kl_coef": job.kl_coef,
        "kl": found.kl,
        "proxy": found.return_,
        "gold": found.gold,
        "exact": found.exact,
        "seconds": seconds,
    }


def _reward_model(task: str, folder: Path, seed: int) -> Path:
    """Train a reward model and return its run: Flattery's annotator has a bias for praise, LengthBias's is only noisy."""
    liked = (("great", LIKED), ("wonderful", LIKED)) if task == "Flattery" else ()
    config = RewardModelConfig(spurious=liked)
    run = folder / f"reward-model-{task}"
    # The reference policy hardly ever generates "cab"; a mix with the optimum does.
    request = ModelRequest(task, "reference" if liked else "mixed", run_dir=run)
    completed(train_reward_model_run(request, config, default_training(config, seed)))
    return run


def fits_of(runs: Sequence[dict[str, Any]], reference_gold: float) -> dict[str, Any]:
    """Return both published forms, fitted to the gold of ``runs`` by their KL, by name."""
    kl = np.array([run["kl"] for run in runs])
    gained = np.array([run["gold"] for run in runs]) - reference_gold
    forms: dict[str, Fit] = {"d (a - b log d)": fit_rl(kl, gained), "d (a - b d)": fit_best_of_n(kl, gained)}
    return {name: vars(fit) for name, fit in forms.items()}
