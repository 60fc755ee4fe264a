"""Gradient descent on any gradient that is derived by hand: shared by the numpy models.

Source: Cauchy 1847; for mini batches Robbins and Monro 1951, "A stochastic approximation method".
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from tokenwalk.envs.arrays import FloatArray, IntArray
from tokenwalk.envs.checks import check_count, check_number

Parameters = tuple[FloatArray, ...]
OnLoss = Callable[[int, float], None]  # (updates so far, the loss after them)
Model = TypeVar("Model")
Batch = TypeVar("Batch")


class NonFiniteLossError(ArithmeticError):
    """The loss overflowed, so the descent stopped.

    Attributes:
        update: after how many updates.
        model: the last one whose loss was finite; the start where there was none.
    """

    def __init__(self, message: str, update: int, model: Any) -> None:
        super().__init__(message)
        self.update, self.model = update, model


@dataclass(frozen=True)
class DescentConfig:
    """How to descend.

    Attributes:
        step_size: an update subtracts it times the gradient; above 0.
        updates: how many.
        batch_size: rows of one update; None: all of them.
        seed: of the batches, and of a random start.

    Raises:
        ValueError: a field out of its range.
    """

    step_size: float = 0.01
    updates: int = 1_000
    batch_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        checked: dict[str, object] = {
            "step_size": check_number("step_size", self.step_size, 0, low_open=True),
            "updates": check_count("updates", self.updates),
            "seed": check_count("seed", self.seed, low=0),
        }
        if self.batch_size is not None:
            checked["batch_size"] = check_count("batch_size", self.batch_size)
        set_fields(self, checked)


class Fit(NamedTuple, Generic[Model]):
    """The result of a descent."""

    model: Model
    losses: FloatArray  # [updates + 1]: after 0, 1, ... updates, on the batch that the next one reads


def descend(
    build: Callable[..., Model],
    start: Parameters,
    batches: Iterator[Batch],
    loss_and_gradient: Callable[[Parameters, Batch], tuple[float, Parameters]],
    config: DescentConfig,
    on_progress: OnLoss | None = None,
) -> Fit[Model]:
    """Return the model that gradient descent from ``start`` reaches; ``build`` makes it from the parameters.

    Raises:
        NonFiniteLossError: the loss overflowed.
    """
    losses = np.empty(config.updates + 1)
    parameters = finite = start
    for update in range(config.updates + 1):
        with np.errstate(over="ignore", invalid="ignore"):  # found by the loss
            value, gradients = loss_and_gradient(parameters, next(batches))
        if not math.isfinite(value):
            raise NonFiniteLossError(_why(update, value, config.step_size), update, build(*finite))
        losses[update], finite = value, parameters
        if on_progress is not None:
            on_progress(update, value)
        with np.errstate(over="ignore", invalid="ignore"):
            parameters = tuple(p - config.step_size * g for p, g in zip(parameters, gradients, strict=True))
    return Fit(build(*finite), losses)


def _why(update: int, value: float, step_size: float) -> str:
    if update == 0:
        return f"the loss is {value} before any update: scale the data, whose squares are too large"
    return (
        f"the loss is {value} after update {update}: step_size {step_size!r} is too large, give a smaller one "
        f"such as {step_size / 10:.3g} (largest_step_size gives the bound of full batches)"
    )


def batch_rows(n_rows: int, batch_size: int | None, seed: int) -> Iterator[slice | IntArray]:
    """Yield the rows of one batch after the other, without end.

    Each pass is in a new order and leaves out the rows that do not fill a batch, so that batches are of one
    size and no row is used more often than another.

    Raises:
        ValueError: a batch larger than the data.
    """
    if batch_size is not None and batch_size > n_rows:
        raise ValueError(
            f"batch_size is {batch_size}: give at most {n_rows}, the rows that there are, or None for all"
        )
    rng = np.random.default_rng(seed)
    while True:
        if batch_size is None:
            yield slice(None)
            continue
        order = rng.permutation(n_rows)
        for first in range(0, n_rows - batch_size + 1, batch_size):
            yield order[first : first + batch_size]


def checked_rows(
    name: str, values: npt.ArrayLike, columns: int | None = None, minimum: int = 1
) -> FloatArray:
    """Return ``values`` as float64 [B, D].

    Raises:
        ValueError: another shape, fewer than ``minimum`` rows, other than ``columns`` columns where that is given,
            or a number that is not finite.
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"{name} has shape {rows.shape}: give rows and columns, [:, None] makes a column")
    if len(rows) < minimum or rows.shape[1] == 0:
        raise ValueError(f"{name} has shape {rows.shape}, which is empty: give at least one row and column")
    if columns is not None and rows.shape[1] != columns:
        raise ValueError(f"{name} has {rows.shape[1]} columns: give {columns}")
    check_finite(name, rows)
    return rows


def check_finite(name: str, values: FloatArray) -> None:
    """Raise ValueError at the first entry of ``values`` that is not a finite number."""
    if not np.isfinite(values).all():
        place = tuple(np.argwhere(~np.isfinite(values))[0].tolist())
        raise ValueError(
            f"{name}{list(place)} is {values[place]}: give finite numbers, or leave out the row where one is missing"
        )


def set_fields(config: object, values: Mapping[str, object]) -> None:
    """Set fields of a frozen dataclass by name: for ``__post_init__``, which converts what it has checked."""
    for name, value in values.items():
        object.__setattr__(config, name, value)
