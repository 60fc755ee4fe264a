"""``tokenwalk examples``: the listings of the documents behind tokenwalk: their printed and their correct results."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenwalk.agents.backprop.configs import TrainingConfig
from tokenwalk.agents.backprop.linear import (
    LinearConfig,
    LinearModel,
    fit,
    largest_step_size,
    loss,
    normal_equation,
)
from tokenwalk.agents.backprop.linear_autoencoder import AutoencoderConfig, pca_error, second_moment
from tokenwalk.agents.backprop.linear_autoencoder import fit as fit_autoencoder
from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.problem.problem import open_problem
from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.agents.runs.tracking import Tracker
from tokenwalk.agents.tabular.config import QLearningConfig
from tokenwalk.agents.tabular.q_learning import QLearning

X = np.arange(1.0, 6.0)[:, None]
Y = np.array([2.0, 4.0, 5.0, 4.0, 5.0])[:, None]
CURVE_POINTS = 200


@dataclass(frozen=True)
class Example:
    """One listing.

    Attributes:
        name: as the command line has it.
        idea: of the document, in a few words.
        printed: the result that the document prints, or its error.
        right: the correct result, and the reason.
        measured: the results of this run, by name.
        curve: (update, loss) of the training; empty if nothing is trained.
        optimum: the minimum loss; None if nothing is trained.
        seconds: duration of this run.
    """

    name: str
    idea: str
    printed: str
    right: str
    measured: Mapping[str, Any]
    curve: list[tuple[int, float]]
    optimum: float | None
    seconds: float = 0.0


def layer_parameters() -> Example:
    """Return the parameters of a linear layer from 10 inputs to 5 outputs."""
    layer = LinearModel(np.zeros((5, 10)), np.zeros(5))
    return Example(
        "parameters",
        "a model's parameters: a linear layer from 10 inputs to 5 outputs",
        "a weight of shape (5, 10) and a bias of shape (5,)",
        "correct: 5 x 10 + 5 = 55 numbers are learned",
        {name: str(shape) if isinstance(shape, tuple) else shape for name, shape in layer.describe().items()},
        [],
        None,
    )


def one_weight() -> Example:
    """Return y = 2x from one weight by backpropagation: step size 0.01, 1,000 updates."""
    try:
        X.ravel() * np.zeros(2)  # the listing: two weights, five numbers
        failure = "nothing"
    except ValueError as error:
        failure = str(error)
    found = fit(X, 2 * X, LinearConfig(step_size=0.01, updates=1_000, bias=False))
    return Example(
        "backpropagation",
        "backpropagation: y = 2x for x = 1..5, the gradient -2 (y - prediction) x",
        f"the product of two weights with five numbers, which fails: {failure}",
        "one weight, which converges to 2",
        {"weight": float(found.model.weight[0, 0])},
        _curve(found.losses),
        0.0,
    )


def regression() -> Example:
    """Return the linear regression of the document, by gradient descent and by the normal equation."""
    config = LinearConfig(step_size=0.9 * largest_step_size(X), updates=3_000)
    found, exact = fit(X, Y, config), normal_equation(X, Y)
    return Example(
        "regression",
        "machine learning: a line through x = 1..5, y = 2, 4, 5, 4, 5",
        "slope 0.6, intercept 1.6, prediction 5.2 at x = 6",
        "slope 0.6, intercept 2.2, prediction 5.8: the line passes through the means (3, 4), and 4 - 0.6 x 3 is 2.2",
        {
            "slope": float(found.model.weight[0, 0]),
            "intercept": float(found.model.bias[0]),  # type: ignore[index]
            "prediction_at_6": float(found.model.predict([[6.0]])[0, 0]),
            "slope_by_normal_equation": float(exact.weight[0, 0]),
        },
        _curve(found.losses),
        loss(exact, X, Y),
    )


def small_network(updates: Iterable[int] = (100, 1_000, 3_000), seeds: int = 10) -> Example:
    """Return a network 1 -> 10 relu -> 1 trained on y = 2x by Adam, and its predictions at x = 6 over ten seeds."""
    import torch

    from tokenwalk.agents.backprop.fit import fit as train_network

    torch.set_num_threads(1)  # one thread is fastest for small networks
    network, target = _networks(seeds), torch.as_tensor(2 * X, dtype=torch.float32)
    inputs, marks, at_six = torch.as_tensor(X, dtype=torch.float32), sorted(updates), {}
    curve: list[tuple[int, float]] = []
    step = 0

    def mean_loss(rows: torch.Tensor) -> torch.Tensor:
        nonlocal step
        losses = ((network(inputs[rows]) - target[rows]) ** 2).mean(dim=(1, 2))  # [seeds]
        if step in marks:
            at_six[step] = network(torch.tensor([[6.0]])).detach().flatten().tolist()
        if step % max(1, marks[-1] // CURVE_POINTS) == 0:
            curve.append((step, float(losses.detach().mean())))
        step += 1
        total: torch.Tensor = losses.sum()
        return total

    config = TrainingConfig(
        updates=marks[-1] + 1, batch_size=len(X), learning_rate=1e-3, schedule="constant", clip_norm=1e9
    )
    train_network(network, mean_loss, len(X), config).raise_if_interrupted()
    return Example(
        "network",
        "deep learning: a hidden layer of 10 rectified units, Adam, 100 passes over y = 2x",
        "about 11.97 at x = 6 after 100 passes",
        "100 passes in one batch are 100 updates: with Adam's default step size that is far from 12; 3,000 are near it",
        {
            f"prediction_at_6_after_{mark}": {
                "minimum": min(at_six[mark]),
                "median": float(np.median(at_six[mark])),
                "maximum": max(at_six[mark]),
            }
            for mark in marks
        },
        curve,
        0.0,
    )


def _networks(seeds: int) -> Any:
    """Return ``seeds`` networks 1 -> 10 relu -> 1 as one module, with torch's default initialization."""
    import torch
    from torch import nn

    class Networks(nn.Module):
        """x [B, 1] to [seeds, B, 1]."""

        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(0)

            def uniform(*shape: int, inputs: int) -> nn.Parameter:
                bound = inputs**-0.5
                return nn.Parameter((torch.rand(seeds, *shape, generator=generator) * 2 - 1) * bound)

            self.weight_in, self.bias_in = uniform(1, 10, inputs=1), uniform(1, 10, inputs=1)
            self.weight_out, self.bias_out = uniform(10, 1, inputs=10), uniform(1, 1, inputs=10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Return the predictions."""
            hidden = torch.relu(x @ self.weight_in + self.bias_in)  # [seeds, B, 10]
            out: torch.Tensor = torch.baddbmm(self.bias_out, hidden, self.weight_out)
            return out

    return Networks()


def walk() -> Example:
    """Return the walk of the document as listed, with its index error, and with walls and exploration."""
    failure, visited = walk_as_listed()
    problem = open_problem("CounterWalk")
    assert problem.mdp is not None
    agent = QLearning.for_mdp(problem.mdp, QLearningConfig(), seed=0)
    agent.learn_mdp(problem.mdp, problem.weights, 100)
    values = agent.values[0, 0]
    exact = solve(problem.mdp.without_time_limit(), problem.weights, discount=0.9).value[0]
    return Example(
        "walk",
        "reinforcement: a counter, +1 where the next state is 1; Q-learning, step size 0.1, discount 0.9, 100 steps",
        f"always the greedy action in an unbounded state: {failure} at step {len(visited)}, after the states {visited}",
        "with walls and exploration the best action in state 0 is to add, and the values are 10/19, -10/19, 10/19",
        {
            "best_action_in_state_0": "add" if values[0, 0] > values[0, 1] else "take away",
            "exact_values": exact.tolist(),
        },
        [],
        None,
    )


def walk_as_listed(steps: int = 100) -> tuple[str, list[int]]:
    """Return the error of the listed walk and the states that it visited: 3 rows, no walls, no exploration."""
    table, state, visited = np.zeros((3, 2)), 0, [0]
    try:
        for _ in range(steps):
            action = int(np.argmax(table[state]))
            following = state + 1 if action == 0 else state - 1
            reward = 1.0 if following == 1 else -1.0
            table[state, action] += 0.1 * (reward + 0.9 * np.max(table[following]) - table[state, action])
            state = following
            visited.append(state)
    except IndexError as error:
        return f"IndexError ({error})", visited
    return "nothing", visited


def autoencoder() -> Example:
    """Return the autoencoder of two linear maps, 10 -> 5 -> 10, on standard normal data."""
    config = AutoencoderConfig(step_size=1.0, updates=1_000, batch_size=256)
    found = fit_autoencoder(lambda rng, count: rng.normal(size=(count, 10)), config)
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(10, 10))
    correlated = rng.normal(size=(2_000, 10)) @ mixing / 10**0.5
    moment = second_moment(correlated)
    step = 0.3 * 10 / (2 * float(np.linalg.eigvalsh(moment)[-1]))
    other = fit_autoencoder(correlated, AutoencoderConfig(step_size=step, updates=4_000, batch_size=None))
    return Example(
        "autoencoder",
        "self-supervision: two linear maps, 10 -> 5 -> 10, on standard normal data, mean squared error",
        "a decoder whose shape does not fit the code, and two updates of which neither is the gradient of the loss",
        "with the gradient the error reaches that of PCA: 0.5 per component on N(0, 1) data with 5 of 10 components",
        {
            "error": found.model.expected_error(np.eye(10)),
            "pca": pca_error(np.eye(10), 5),
            "correlated_error": other.model.expected_error(moment),
            "correlated_pca": pca_error(moment, 5),
        },
        _curve(found.losses),
        0.5,
    )


EXAMPLES: Mapping[str, Callable[[], Example]] = {
    "parameters": layer_parameters,
    "regression": regression,
    "network": small_network,
    "backpropagation": one_weight,
    "walk": walk,
    "autoencoder": autoencoder,
}


def run_examples(
    names: Iterable[str], run_dir: Path | None = None, on_progress: Callable[[str], None] | None = None
) -> tuple[list[Example], Path]:
    """Run the examples called ``names`` and log the losses of each, with the optimum, for TensorBoard.

    ``on_progress`` receives the name of each example before it runs.

    Raises:
        ValueError: an unknown name, or a folder that exists.
    """
    names = list(names)
    if unknown := [name for name in names if name not in EXAMPLES]:
        raise ValueError(f"no example is called {unknown[0]!r}: give {', '.join(EXAMPLES)}")
    folder = RunFolder.create(run_dir, "examples")
    found = []
    for name in names:
        if on_progress is not None:
            on_progress(name)
        started = time.perf_counter()
        example = EXAMPLES[name]()
        found.append(Example(**{**vars(example), "seconds": time.perf_counter() - started}))
        if example.curve and example.optimum is not None:
            _write_curve(folder.path / name, example)
    return found, folder.path


def _write_curve(path: Path, example: Example) -> None:
    path.mkdir()
    with Tracker(path, {"optimum": {"train/loss": float(example.optimum or 0.0)}}) as tracker:
        for update, value in example.curve:
            tracker.log(update, {"train/loss": value})


def _curve(losses: Any) -> list[tuple[int, float]]:
    """Return about 200 points of a loss curve [updates + 1], with the last one."""
    points = np.unique(np.linspace(0, len(losses) - 1, CURVE_POINTS).astype(int))
    return [(int(point), float(losses[point])) for point in points]


def as_json(example: Example) -> dict[str, Any]:
    """Return an example with its last loss instead of its curve, which is in TensorBoard."""
    report = asdict(example)
    curve = report.pop("curve")
    return {**report, "loss": curve[-1][1] if curve else None}
