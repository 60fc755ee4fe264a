"""Two studies of the language model: size against excess loss, and the placement of the KL penalty."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenwalk.agents.backprop.configs import LMConfig
from tokenwalk.agents.learners.registry import find_agent
from tokenwalk.agents.policy_gradient.config import Placement
from tokenwalk.agents.problem.problem import open_problem
from tokenwalk.agents.runs.processes import in_processes
from tokenwalk.agents.runs.progress import completed
from tokenwalk.agents.runs.tracking import read_metrics
from tokenwalk.agents.training.model_run import ModelRequest
from tokenwalk.agents.training.train_lm import read_source, train_lm_run

SIZES = ((1, 16), (2, 32), (2, 64))  # layers, width
SIZES_TASK = "Lexicon"
KL_TASK = "Flattery"
KL_COEF = 0.3
KL_STEPS = 1_000_000
PLACEMENTS: tuple[Placement, ...] = ("k1-in-reward", "k2-loss", "full-loss", "k3-token-loss")
OnStage = Callable[[str], Any]


@dataclass(frozen=True)
class Size:
    """A language model of one size: its parameters, its held-out loss by update, and its final excess loss."""

    n_layers: int
    width: int
    parameters: int
    updates: list[int]
    losses: list[float]
    floor: float
    excess: float
    seconds: float


def model_sizes(
    sizes: Sequence[tuple[int, int]] = SIZES, *, on_stage: OnStage = lambda text: None
) -> list[Size]:
    """Pre-train a model of each size on the same data and return its loss above the entropy rate."""
    found = []
    for n_layers, width in sizes:
        with TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            config = LMConfig(n_layers=n_layers, n_heads=max(1, width // 16), width=width)
            source = read_source(SIZES_TASK, None, "characters", None)
            summary = completed(train_lm_run(ModelRequest(SIZES_TASK, run_dir=run), source, config))
            logged = [(step, value) for step, _, tag, value in read_metrics(run) if tag == "eval/loss"]
        # Each evaluation is logged again until the next.
        losses = dict(
            one for one, last in zip(logged, [(0, 0.0), *logged], strict=False) if one[1] != last[1]
        )
        on_stage(
            f"{summary['parameters']:,} parameters: {100 * summary['excess']:.2f} % above the entropy rate"
        )
        figures = (
            summary["parameters"],
            list(losses),
            list(losses.values()),
            summary["floor"],
            summary["excess"],
        )
        found.append(Size(n_layers, width, *figures, summary["seconds"]))
    return found


@dataclass(frozen=True)
class PlacementRun:
    """A run with one placement of the KL penalty: its exact regret by generated tokens."""

    placement: Placement
    seed: int
    steps: list[int]
    regret: list[float]


def kl_placements(
    placements: Sequence[Placement] = PLACEMENTS,
    *,
    seeds: int = 2,
    steps: int = KL_STEPS,
    on_stage: OnStage = lambda text: None,
) -> list[PlacementRun]:
    """Train RLOO with each placement of the KL penalty and return the exact regret during training."""
    jobs = [(placement, seed) for placement in placements for seed in range(seeds)]
    found: dict[tuple[Placement, int], PlacementRun] = {}
    for job, one in in_processes(partial(train_placement, steps=steps), jobs):
        on_stage(f"{one.placement}, seed {one.seed}: regret {one.regret[-1]:.5f}")
        found[job] = one
    return [found[job] for job in jobs]


def train_placement(job: tuple[Placement, int], steps: int) -> PlacementRun:
    """Train RLOO with one placement of the KL penalty and one seed; ``kl_coef`` is constant."""
    placement, seed = job
    problem = open_problem(KL_TASK)
    config = replace(find_agent("rloo").default(KL_TASK)[0], kl=placement, kl_coef=KL_COEF, kl_anneal=1.0)
    learner = find_agent("rloo").build(problem, config, seed=seed, runs=None)
    regrets: dict[int, float] = {}

    def report(step: int, metrics: Any) -> None:
        if "eval/regret" in metrics:
            regrets[step] = metrics["eval/regret"]

    learner.learn(steps, report)
    return PlacementRun(placement, seed, list(regrets), list(regrets.values()))
