"""``tokenwalk train``: one function from a request to a run folder. It can be called in a worker as it stands."""

import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenwalk.agents.backprop.descent import NonFiniteLossError
from tokenwalk.agents.evaluation.policies import over_tokens
from tokenwalk.agents.evaluation.score import score, summary_of
from tokenwalk.agents.evaluation.stored_completions import sample_texts, write_completions
from tokenwalk.agents.learners.protocol import Learner
from tokenwalk.agents.learners.registry import find_agent, load_learner
from tokenwalk.agents.problem.problem import Problem, open_problem
from tokenwalk.agents.problem.reopen import keep_sources, reopen_problem
from tokenwalk.agents.problem.saved_models import MODELS
from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.agents.runs.progress import OnProgress, Progress
from tokenwalk.agents.runs.tracking import Tracker
from tokenwalk.envs.checks import check_seed
from tokenwalk.envs.rewards.source import SourceContractError

SAVE_EVERY = 20.0  # seconds of training that a kill may cost


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
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Train ``agent`` on ``env`` and return the summary that also stands in the run folder.

    Args:
        agent: a name of ``registry.AGENTS``, or FILE.py:CLASS.
        env: an environment's name or id.
        steps: environment steps of each run; the agent's default for this environment where None.
        seed: of everything that is sampled.
        runs: independent runs (16 by default for tabular agents on tables, else 1).
        env_args: for ``gym.make``.
        reward: of a token task instead of its own: gold, proxy, a run folder, FILE.py:FUNCTION, each with =WEIGHT
            or, annealed over the training, =FROM..TO.
        shaping: potentials whose shaping is added for the learner: machine, value, a run folder, FILE.py:FUNCTION.
        config: the agent's dataclass; its default for this environment where None.
        run_dir: a new folder; where None, a numbered one under ``runs/``.
        threads: of torch.
        on_progress: called some times a second.

    Returns:
        The keys agent, env, steps, seconds, return, gold, proxy, optimal_return, reference_return, normalized_score, those
        of a language model (regularized_return, optimal_regularized), kl, exact, interval, note, caveat (what an SB3 agent
        optimizes other than the exact answers), runs, interrupted, run_dir. Ctrl-C ends the training early, with what was
        learned saved and ``interrupted`` true.

    Raises:
        ValueError: an unknown name, a number out of range, spaces that the agent cannot take, a folder that exists.
    """
    found = find_agent(agent)
    check_seed(seed)
    default, default_steps = found.default(env)
    config = default if config is None else config
    problem = open_problem(env, env_args, reward, shaping, getattr(config, "discount", None))
    if "torch" in sys.modules:  # a learned reward: small networks want one thread
        sys.modules["torch"].set_num_threads(threads)
    steps = default_steps if steps is None else steps
    if steps < 0:
        raise ValueError(f"steps is {steps}: give 0 or more")
    learner = found.build(problem, config, seed=seed, runs=runs, threads=threads)
    folder = RunFolder.create(run_dir, f"{found.label}-{problem.env_id.rsplit('/', 1)[-1]}")
    request = {
        "agent": agent if found.custom is None else found.custom.place,
        **(found.custom.as_request() if found.custom else {}),
        "env": problem.env_id,
        "env_args": dict(problem.env_args),
        "seed": seed,
        "runs": learner.runs,
        "steps": steps,
        "config": asdict(config) if config is not None else {},
        **keep_sources(folder.path, problem.names),
    }
    folder.write_config(request)
    caveat = found.family.caveat(agent, config, problem.discount)
    return _Training(folder, problem, learner, request, on_progress, caveat, found.family.only_tokens).run(
        steps
    )


def resume(run: Path, *, steps: int | None = None, on_progress: OnProgress | None = None) -> dict[str, Any]:
    """Continue a tabular run for ``steps`` more steps (its own budget where None) and return the new summary.

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
    return _Training(folder, problem, learner, request, on_progress).run(steps)


@dataclass(frozen=True)
class _Training:
    """One training of a learner into a run folder.

    Attributes:
        folder: where it goes. problem: what is learned on. learner: what learns. request: the run's config.json.
        on_progress: called some times a second. caveat: what the agent optimizes other than the exact answers do.
        logs_texts: whether samples of the policy are logged as text along the way.
    """

    folder: RunFolder
    problem: Problem
    learner: Learner
    request: Mapping[str, Any]
    on_progress: OnProgress | None
    caveat: str | None = None
    logs_texts: bool = False

    @property
    def seed(self) -> int:
        """Return the run's seed."""
        return int(self.request["seed"])

    def run(self, steps: int) -> dict[str, Any]:
        """Train for ``steps`` steps, save whatever happens, and return the summary."""
        try:
            return self._run(steps)
        except SourceContractError as error:
            self.learner.save(self.folder.path)
            raise _logged(self.folder, error) from error
        except NonFiniteLossError as error:
            self.learner.save(self.folder.path)
            message = f"{error}; they are in {self.folder.path}"
            raise NonFiniteLossError(message, error.update, error.model) from error

    def _run(self, steps: int) -> dict[str, Any]:
        """Do as ``run`` says; what a reward function does wrong passes through."""
        learner, problem, request = self.learner, self.problem, self.request
        started, first_step, interrupted = time.perf_counter(), learner.steps, False
        saved = started
        seen: set[str] = set()
        with Tracker(self.folder.path, problem.lines.charts) as tracker:
            tracker.log_hparams(
                {"agent": request["agent"], "env": request["env"], "seed": self.seed, **request["config"]}
            )

            def report(step: int, metrics: Mapping[str, float]) -> None:
                nonlocal saved
                taken = step - first_step
                metrics = {**metrics, **_anneal(problem, learner, taken / steps if steps else 1.0)}
                seen.update(metrics)
                tracker.log(step, metrics)
                if "eval/exact" in metrics and self.logs_texts and problem.tokens is not None:
                    policy = over_tokens(problem, learner.policy())
                    tracker.log_text(step, "samples", sample_texts(problem.tokens.task, policy, self.seed))
                if time.perf_counter() - saved > SAVE_EVERY:
                    learner.save(self.folder.path)
                    saved = time.perf_counter()
                if self.on_progress:
                    self.on_progress(Progress(taken, steps, metrics, problem.lines.optimal_train_return))

            try:
                learner.learn(steps, report)
            except KeyboardInterrupt:
                interrupted = True
            learner.save(self.folder.path)
            seconds = time.perf_counter() - started
            policy = learner.policy()
            found = score(problem, policy, self.seed)
            played = any(tag.startswith("reward/") for tag in seen)
            report(learner.steps, {**found.as_metrics(), **({} if played else found.terms)})
        if problem.tokens is not None:
            write_completions(
                self.folder.path, problem.tokens.task, over_tokens(problem, policy), seed=self.seed
            )
        summary = {
            "agent": request["agent"],
            "env": request["env"],
            "steps": learner.steps,
            "seconds": seconds,
            **summary_of(problem, found),
            "caveat": self.caveat,
            "runs": learner.runs,
            "interrupted": interrupted,
            "run_dir": str(self.folder.path),
        }
        self.folder.write_summary(summary)
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
