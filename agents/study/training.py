"""``tokenwalk train``: one function from a request to a run folder. It can be called in a worker as it stands."""

import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenwalk.agents.backprop.descent import NonFiniteLossError
from tokenwalk.agents.baselines.configs import caveat
from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.agents.runs.tracking import Tracker
from tokenwalk.agents.study.budgets import LANGUAGE, SB3, check_agent, default_config, default_steps
from tokenwalk.agents.study.learned import MODELS
from tokenwalk.agents.study.learner import Learner, score_learner
from tokenwalk.agents.study.learners import build_learner, load_learner
from tokenwalk.agents.study.problem import Problem, open_problem
from tokenwalk.agents.study.requests import keep_sources, reopen_problem
from tokenwalk.agents.study.scoring import summary_of
from tokenwalk.agents.study.stored import sample_texts, write_completions
from tokenwalk.envs.lanes import check_seed
from tokenwalk.envs.rewards.source import SourceContractError

SAVE_EVERY = 20.0  # seconds of training that a kill may cost


@dataclass(frozen=True)
class Progress:
    """What a training run tells while it goes on."""

    step: int
    steps: int
    metrics: Mapping[str, float]
    optimal_return: float | None


def train(
    agent: str,
    env: str,
    *,
    steps: int | None = None,
    seed: int = 0,
    runs: int | None = None,
    env_args: Mapping[str, Any] | None = None,
    reward: Sequence[str] = (),
    shaping: Sequence[str] = (),
    config: Any = None,
    run_dir: Path | str | None = None,
    threads: int = 1,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Train ``agent`` on ``env`` and return the summary that also stands in the run folder.

    Args:
        agent: a name of ``budgets.AGENTS``.
        env: an environment's name or id.
        steps: environment steps of each run; the agent's default for this environment where None.
        seed: of everything that is drawn.
        runs: independent runs (16 by default for tabular agents on tables, else 1).
        env_args: for ``gym.make``.
        reward: what a token task pays instead of its own: gold, proxy, a run folder, FILE.py:FUNCTION, each with =WEIGHT
            or, annealed over the training, =FROM..TO.
        shaping: potentials whose shaping is added for the learner: machine, value, a run folder, FILE.py:FUNCTION.
        config: the agent's dataclass; its default for this environment where None.
        run_dir: a new folder; where None, a numbered one under ``runs/``.
        threads: of torch.
        on_progress: called some times a second.

    Returns:
        The keys agent, env, steps, seconds, return, gold, proxy, optimal_return, reference_return, normalized_score, those
        of a language model (regularized_return, optimal_regularized), kl, exact, interval, note, caveat (what an SB3 agent
        optimises other than the exact answers), runs, interrupted, run_dir. Ctrl-C ends the training early, with what was
        learned saved and ``interrupted`` true.

    Raises:
        ValueError: an unknown name, a number out of range, spaces that the agent cannot take, a folder that exists.
    """
    check_agent(agent)
    check_seed(seed)
    config = default_config(agent, env) if config is None else config
    problem = open_problem(env, env_args, reward, shaping, getattr(config, "discount", None))
    if "torch" in sys.modules:  # a learned reward: small networks want one thread
        sys.modules["torch"].set_num_threads(threads)
    steps = default_steps(agent, problem.env_id) if steps is None else steps
    if steps < 0:
        raise ValueError(f"steps is {steps}: give 0 or more")
    learner = build_learner(agent, problem, config, seed=seed, runs=runs, threads=threads)
    folder = RunFolder.create(run_dir, f"{agent}-{problem.env_id.rsplit('/', 1)[-1]}")
    request = {
        "agent": agent,
        "env": problem.env_id,
        "env_args": dict(problem.env_args),
        "seed": seed,
        "runs": learner.runs,
        "steps": steps,
        "config": asdict(config) if config is not None else {},
        **keep_sources(folder.path, problem.names),
    }
    folder.write_config(request)
    optimises_else = caveat(agent, config, problem.discount) if agent in SB3 else None
    return _carry_on(folder, problem, learner, request, steps, on_progress, optimises_else)


def to_the_end(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the summary of a run that something else is built on; Ctrl-C that ended it early goes on to end that, too.

    Raises:
        KeyboardInterrupt: the run was interrupted.
    """
    if summary["interrupted"]:
        raise KeyboardInterrupt
    return summary


def resume(
    run: Path, *, steps: int | None = None, on_progress: Callable[[Progress], None] | None = None
) -> dict[str, Any]:
    """Go on with a tabular run for ``steps`` more steps (its own budget where None) and return the new summary.

    Raises:
        ValueError: no run, a damaged one, one whose agent cannot go on, or negative steps.
    """
    folder = RunFolder.open(run)
    request = folder.config
    refusal = f"{run} is a run of {request['agent']}, which cannot go on: only the tabular agents can; train a new one"
    if request["agent"] in MODELS:
        raise ValueError(refusal)
    problem = reopen_problem(folder.path, request)
    learner = load_learner(folder.path, request, problem)
    if not learner.can_resume:
        raise ValueError(refusal)
    steps = int(request["steps"]) if steps is None else steps
    if steps < 0:
        raise ValueError(f"steps is {steps}: give 0 or more")
    return _carry_on(folder, problem, learner, request, steps, on_progress)


def _carry_on(
    folder: RunFolder,
    problem: Problem,
    learner: Learner,
    request: Mapping[str, Any],
    steps: int,
    on_progress: Callable[[Progress], None] | None,
    optimises_else: str | None = None,
) -> dict[str, Any]:
    """Train ``learner`` for ``steps`` steps into ``folder``, save it whatever happens, and return the summary."""
    try:
        return _learn(folder, problem, learner, request, steps, on_progress, optimises_else)
    except SourceContractError as error:
        learner.save(folder.path)
        raise _logged(folder, error) from error
    except NonFiniteLossError as error:
        learner.save(folder.path)
        raise NonFiniteLossError(f"{error}; they are in {folder.path}", error.update, error.model) from error


def _learn(
    folder: RunFolder,
    problem: Problem,
    learner: Learner,
    request: Mapping[str, Any],
    steps: int,
    on_progress: Callable[[Progress], None] | None,
    optimises_else: str | None,
) -> dict[str, Any]:
    """Do as ``_carry_on`` says; what a source does wrong passes through."""
    started, first_step, interrupted = time.perf_counter(), learner.steps, False
    saved = started
    seen: set[str] = set()
    with Tracker(folder.path, problem.lines.charts) as tracker:
        tracker.log_hparams(
            {"agent": request["agent"], "env": request["env"], "seed": request["seed"], **request["config"]}
        )

        def report(step: int, metrics: Mapping[str, float]) -> None:
            nonlocal saved
            taken = step - first_step
            metrics = {**metrics, **_anneal(problem, learner, taken / steps if steps else 1.0)}
            seen.update(metrics)
            tracker.log(step, metrics)
            if "eval/exact" in metrics and request["agent"] in LANGUAGE:
                tracker.log_text(step, "samples", sample_texts(problem, learner, int(request["seed"])))
            if time.perf_counter() - saved > SAVE_EVERY:
                learner.save(folder.path)
                saved = time.perf_counter()
            if on_progress:
                on_progress(Progress(taken, steps, metrics, problem.lines.optimal_paid))

        try:
            learner.learn(steps, report)
        except KeyboardInterrupt:
            interrupted = True
        learner.save(folder.path)
        seconds = time.perf_counter() - started
        score = score_learner(problem, learner, seed=int(request["seed"]))
        played = any(tag.startswith("reward/") for tag in seen)
        report(learner.steps, {**score.as_metrics(), **({} if played else score.terms)})
    if problem.tokens is not None:
        write_completions(folder.path, problem, learner, seed=int(request["seed"]))
    summary = {
        "agent": request["agent"],
        "env": request["env"],
        "steps": learner.steps,
        "seconds": seconds,
        **summary_of(problem, score),
        "caveat": optimises_else,
        "runs": learner.runs,
        "interrupted": interrupted,
        "run_dir": str(folder.path),
    }
    folder.write_summary(summary)
    return summary


def _anneal(problem: Problem, learner: Learner, share: float) -> dict[str, float]:
    """Give each annealed source the weight that belongs to this ``share`` of the training; return them for the log."""
    weights = {name: first + min(share, 1.0) * (last - first) for name, first, last in problem.annealed}
    for name, weight in weights.items():
        learner.set_weight(name, weight)
    return {f"reward/{name}/weight": weight for name, weight in weights.items()}


def _logged(folder: RunFolder, error: SourceContractError) -> SourceContractError:
    """Write where a source failed into the run's error.log and return the error with the place of that file."""
    path = folder.path / "error.log"
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return SourceContractError(f"{error} (traceback: {path})")
