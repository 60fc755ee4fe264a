"""Linear regression by gradient descent, the gradient by hand, and the exact optimum that it descends to.

prediction = x W^T + b,   loss = mean of (prediction - y)^2 over all B * D_out entries,
d loss / d W = 2 / (B D_out) (prediction - y)^T x,   d loss / d b = 2 / (B D_out) sum over rows of (prediction - y).

Shape letters: B rows, D_in and D_out columns of x and y. Source: Bishop 2006, "Pattern Recognition and Machine
Learning", section 3.1.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenwalk.agents.backprop.descent import (
    DescentConfig,
    Fit,
    OnLoss,
    Parameters,
    batch_rows,
    check_finite,
    checked_rows,
    descend,
)
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.checks import check_count


@dataclass(frozen=True)
class LinearConfig(DescentConfig):
    """How to fit a linear model; the defaults are the documented step size and updates.

    Attributes:
        bias: whether there is one.
    """

    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.bias, bool):
            raise ValueError(f"bias is {self.bias!r}: give True or False")


@dataclass(frozen=True, eq=False)
class LinearModel:
    """prediction = x W^T + b.

    Attributes:
        weight: float64 [D_out, D_in], as torch's Linear stores it.
        bias: float64 [D_out], or None.

    Raises:
        ValueError: shapes that do not fit each other, or a number that is not finite.
    """

    weight: FloatArray
    bias: FloatArray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", checked_rows("weight", self.weight).copy())
        if self.bias is not None:
            bias, n_outputs = np.array(self.bias, dtype=np.float64), len(self.weight)
            if bias.shape != (n_outputs,):
                raise ValueError(f"bias has shape {bias.shape}: give {(n_outputs,)}, one number per output")
            check_finite("bias", bias)
            object.__setattr__(self, "bias", bias)

    @property
    def parameters(self) -> Parameters:
        """Return the weight and, where there is one, the bias."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def n_parameters(self) -> int:
        """Return the number of parameters."""
        return sum(one.size for one in self.parameters)

    def describe(self) -> dict[str, tuple[int, ...] | int]:
        """Return the shape of each parameter by its name, and their ``total``."""
        shapes = {name: one.shape for name, one in zip(("weight", "bias"), self.parameters, strict=False)}
        return {**shapes, "total": self.n_parameters}

    def predict(self, x: npt.ArrayLike) -> FloatArray:
        """Return the predictions [B, D_out] for ``x`` [B, D_in]; B may be 0.

        Raises:
            ValueError: another shape, or a number that is not finite.
        """
        return _predict(self.parameters, checked_rows("x", x, self.weight.shape[1], minimum=0))


def fit(
    x: npt.ArrayLike, y: npt.ArrayLike, config: LinearConfig, on_progress: OnLoss | None = None
) -> Fit[LinearModel]:
    """Return the linear model that gradient descent from zero finds, and its loss after every update.

    Full batches converge where the step size is below ``largest_step_size``: to the model of ``normal_equation``
    or, where several models fit equally well, to the one whose parameters, the bias among them, have the
    smallest norm. Mini batches need a smaller step size, and with it constant they keep hovering around the
    optimum unless it has no residual.

    Args:
        x: float [B, D_in].
        y: float [B, D_out].
        config: how.
        on_progress: called with the updates so far and the loss after them, ``updates`` + 1 times.

    Raises:
        ValueError: no rows, shapes that disagree, a number that is not finite (a missing label), or a batch
            larger than the data.
        NonFiniteLossError: the descent diverged.
    """
    x, y = checked_pairs(x, y)
    batches = ((x[rows], y[rows]) for rows in batch_rows(len(x), config.batch_size, config.seed))
    weight, bias = np.zeros((y.shape[1], x.shape[1])), np.zeros(y.shape[1])
    start = (weight, bias) if config.bias else (weight,)
    return descend(LinearModel, start, batches, _loss_and_gradient, config, on_progress)


def loss(model: LinearModel, x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return the mean squared error of ``model`` on ``x`` [B, D_in] and ``y`` [B, D_out], over all B * D_out.

    Raises:
        ValueError: as ``fit`` does.
    """
    return _loss_and_gradient(model.parameters, checked_pairs(x, y, model))[0]


def gradient(model: LinearModel, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[FloatArray, FloatArray | None]:
    """Return the gradient of ``loss`` by the weight [D_out, D_in] and by the bias [D_out], None without one.

    Raises:
        ValueError: as ``fit`` does.
    """
    by_weight, *by_bias = _loss_and_gradient(model.parameters, checked_pairs(x, y, model))[1]
    return by_weight, by_bias[0] if by_bias else None


def normal_equation(x: npt.ArrayLike, y: npt.ArrayLike, bias: bool = True) -> LinearModel:
    """Return the model with the smallest mean squared error: W solves x^T x W^T = x^T y, by singular values, not by x^T x.

    The bias is solved for first: b = mean(y) - mean(x) W^T leaves a regression on what differs from the means.
    Where several weights fit equally well it is the one of smallest norm (the bias does not count).

    Raises:
        ValueError: as ``fit`` does.
    """
    x, y = checked_pairs(x, y)
    if not bias:
        return LinearModel(_least_squares(x, y))
    weight = _least_squares(_minus_mean(x), _minus_mean(y))
    return LinearModel(weight, y.mean(axis=0) - weight @ x.mean(axis=0))


def largest_step_size(x: npt.ArrayLike, bias: bool = True, n_outputs: int = 1) -> float:
    """Return 2 / the largest eigenvalue of the loss's Hessian: with a larger step size full batches diverge.

    The Hessian is 2 / (B D_out) x^T x for each output's weights, x with a column of ones where there is a bias.
    Infinite where the loss is the same for all models.

    Args:
        x: float [B, D_in].
        bias: whether the model has one.
        n_outputs: D_out, by which the loss is divided.

    Raises:
        ValueError: no rows, a number that is not finite, or no outputs.
    """
    n_outputs = check_count("n_outputs", n_outputs)
    x = checked_rows("x", x)
    columns = np.column_stack([x, np.ones(len(x))]) if bias else x
    largest = 2 / n_outputs * float(np.linalg.norm(columns / len(x) ** 0.5, 2)) ** 2
    return 2 / largest if largest > 0 else math.inf


def _predict(parameters: Parameters, x: FloatArray) -> FloatArray:
    prediction: FloatArray = x @ parameters[0].T  # [B, D_out]
    return prediction + parameters[1] if len(parameters) > 1 else prediction


def _loss_and_gradient(
    parameters: Parameters, batch: tuple[FloatArray, FloatArray]
) -> tuple[float, Parameters]:
    x, y = batch
    error = _predict(parameters, x) - y  # [B, D_out]
    by_prediction = 2 / error.size * error
    gradients = (by_prediction.T @ x, by_prediction.sum(axis=0))  # [D_out, D_in], [D_out]
    return float(np.mean(error**2)), gradients[: len(parameters)]


def _least_squares(x: FloatArray, y: FloatArray) -> FloatArray:
    """Return the shortest of the weights [D_out, D_in] that fit best."""
    return np.asarray(np.linalg.lstsq(x, y, rcond=None)[0].T, dtype=np.float64)


def _minus_mean(rows: FloatArray) -> FloatArray:
    """Return ``rows`` [B, D] minus the mean of each column, where a constant column is exactly 0."""
    rest: FloatArray = rows - rows.mean(axis=0)
    rest[:, np.ptp(rows, axis=0) == 0] = 0.0  # the mean of equal numbers may be off in the last digit
    return rest


def checked_pairs(
    x: npt.ArrayLike, y: npt.ArrayLike, model: LinearModel | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return ``x`` [B, D_in] and ``y`` [B, D_out] as float64.

    Raises:
        ValueError: no rows, shapes that disagree with each other or with ``model``, or a number that is not
            finite.
    """
    n_outputs, n_inputs = (None, None) if model is None else model.weight.shape
    inputs, labels = checked_rows("x", x, n_inputs), checked_rows("y", y, n_outputs)
    if len(inputs) != len(labels):
        raise ValueError(f"x has {len(inputs)} rows and y {len(labels)}: give one row of labels per row of x")
    return inputs, labels
