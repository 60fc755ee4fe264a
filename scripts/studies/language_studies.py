"""Two studies of the language model: more parameters against the entropy rate, and where the KL is charged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenwalk.agents.backprop.configs import LMConfig
from tokenwalk.agents.policy_gradient.config import Placement
from tokenwalk.agents.runs.processes import in_processes

SIZES = ((1, 16), (2, 32), (2, 64))  # layers, width
SIZES_TASK = "Lexicon"
KL_TASK = "Flattery"
KL_COEF = 0.3
KL_STEPS = 1_000_000
PLACEMENTS: tuple[Placement, ...] = ("k1-in-reward", "k2-loss", "full-loss", "k3-token-loss")
OnStage = Callable[[str], Any]


@dataclass(frozen=True)
class Size:
    """A language model of one size: its parameters, its loss by update (held-out texts), and where it ends."""

    n_layers: int
    width: int
    parameters: int
    updates: list[int]
    losses: list[float]
    floor: float
    excess: float
    seconds: float


def model_sizes(sizes: Sequence[tuple[int, int]] = SIZES, *, told: OnStage = lambda text: None) -> list[Size]:
    """Pre-train a model of each size on the same texts and return how near it comes to the entropy rate."""
    from tokenwalk.agents.runs.tracking import read_metrics
    from tokenwalk.agents.training.model_run import ModelRequest
    from tokenwalk.agents.training.progress import completed
    from tokenwalk.agents.training.train_lm import read_source, train_lm_run

    found = []
    for n_layers, width in sizes:
        with TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            config = LMConfig(n_layers=n_layers, n_heads=max(1, width // 16), width=width)
            source = read_source(SIZES_TASK, None, "characters", None)
            summary = completed(train_lm_run(ModelRequest(SIZES_TASK, run_dir=run), source, config))
            said = [(step, value) for step, _, tag, value in read_metrics(run) if tag == "eval/loss"]
        # The last look's loss is said again until the next.
        looks = dict(one for one, last in zip(said, [(0, 0.0), *said], strict=False) if one[1] != last[1])
        told(f"{summary['parameters']:,} parameters: {100 * summary['excess']:.2f} % above the floor")
        figures = (
            summary["parameters"],
            list(looks),
            list(looks.values()),
            summary["floor"],
            summary["excess"],
        )
        found.append(Size(n_layers, width, *figures, summary["seconds"]))
    return found


@dataclass(frozen=True)
class Charged:
    """One run with its KL charged in one place: its exact regret by tokens written."""

    placement: Placement
    seed: int
    steps: list[int]
    regret: list[float]


def kl_placements(
    placements: Sequence[Placement] = PLACEMENTS,
    *,
    seeds: int = 2,
    steps: int = KL_STEPS,
    told: OnStage = lambda text: None,
) -> list[Charged]:
    """Train RLOO with the KL charged in each place and return the exact regret along the way."""
    jobs = [(placement, seed) for placement in placements for seed in range(seeds)]
    found: dict[tuple[Placement, int], Charged] = {}
    for job, one in in_processes(partial(charged, steps=steps), jobs):
        told(f"{one.placement}, seed {one.seed}: regret {one.regret[-1]:.5f}")
        found[job] = one
    return [found[job] for job in jobs]


def charged(job: tuple[Placement, int], steps: int) -> Charged:
    """Train RLOO once, with the KL in one place and from one seed; the price of a nat is the same all along."""
    from tokenwalk.agents.learners.registry import find_agent
    from tokenwalk.agents.problem.problem import open_problem

    placement, seed = job
    problem = open_problem(KL_TASK)
    config = replace(find_agent("rloo").default(KL_TASK)[0], kl=placement, kl_coef=KL_COEF, kl_anneal=1.0)
    learner = find_agent("rloo").build(problem, config, seed=seed, runs=None)
    looks: dict[int, float] = {}

    def report(step: int, metrics: Any) -> None:
        if "eval/regret" in metrics:
            looks[step] = metrics["eval/regret"]

    learner.learn(steps, report)
    return Charged(placement, seed, list(looks), list(looks.values()))
