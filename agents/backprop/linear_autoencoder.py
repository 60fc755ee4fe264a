"""An autoencoder of two linear maps, D -> K -> D, the gradient by hand, and PCA, the optimum that it descends to.

code = x E^T,   reconstruction = code F^T,   loss = mean of (reconstruction - x)^2 over all B * D entries,
d loss / d F = g^T code,   d loss / d E = (g F)^T x,   where g = 2 / (B D) (reconstruction - x).

The maps have no bias, so the optimum projects on the K largest principal components about the origin, not about
the mean, and its loss is the sum of the other eigenvalues of E[x x^T], divided by D (Baldi and Hornik 1989,
"Neural networks and principal component analysis": every other stationary point is a saddle).

Shape letters: B rows, D components of a row, K of its code.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from tokenwalk.agents.backprop.descent import (
    DescentConfig,
    Fit,
    OnLoss,
    Parameters,
    batch_rows,
    checked_rows,
    descend,
    set_fields,
)
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.checks import check_count

START_SCALE = 0.5  # from larger maps the first errors are larger, and diverge at steps that would do later
# (generator, B) -> B fresh rows, float [B, D]
Sampler = Callable[[np.random.Generator, int], npt.ArrayLike]


@dataclass(frozen=True)
class AutoencoderConfig(DescentConfig):
    """How to fit a linear autoencoder; the defaults are for components of variance around 1.

    Attributes:
        n_components: K, the numbers in a code.
    """

    step_size: float = 1.0
    n_components: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        set_fields(self, {"n_components": _check_components(self.n_components)})


@dataclass(frozen=True, eq=False)
class LinearAutoencoder:
    """reconstruction = x E^T F^T.

    Attributes:
        encoder: E, float64 [K, D], as torch's Linear stores it.
        decoder: F, float64 [D, K].

    Raises:
        ValueError: shapes that do not fit each other, or a number that is not finite.
    """

    encoder: FloatArray
    decoder: FloatArray

    def __post_init__(self) -> None:
        for name in ("encoder", "decoder"):
            object.__setattr__(self, name, checked_rows(name, getattr(self, name)).copy())
        if self.decoder.shape != self.encoder.shape[::-1]:
            raise ValueError(
                f"decoder has shape {self.decoder.shape}: give {self.encoder.shape[::-1]}, "
                f"as encoder has {self.encoder.shape}"
            )

    @property
    def parameters(self) -> Parameters:
        """Return both maps."""
        return self.encoder, self.decoder

    @property
    def n_parameters(self) -> int:
        """Return the number of parameters."""
        return self.encoder.size + self.decoder.size

    def describe(self) -> dict[str, tuple[int, ...] | int]:
        """Return the shape of each map by its name, and the ``total`` of parameters."""
        return {
            "encoder": self.encoder.shape,
            "decoder": self.decoder.shape,
            "total": self.n_parameters,
        }

    def reconstruct(self, x: npt.ArrayLike) -> FloatArray:
        """Return the reconstruction of ``x`` [B, D] from its code, [B, D]; B may be 0.

        Raises:
            ValueError: another shape, or a number that is not finite.
        """
        rows = checked_rows("x", x, self.encoder.shape[1], minimum=0)
        reconstruction: FloatArray = rows @ self.encoder.T @ self.decoder.T
        return reconstruction

    def error(self, x: npt.ArrayLike) -> FloatArray:
        """Return the squared error of each row of ``x`` [B, D], the mean over its components, [B].

        Raises:
            ValueError: as ``reconstruct`` does.
        """
        mean: FloatArray = np.mean((self.reconstruct(x) - np.asarray(x, dtype=np.float64)) ** 2, axis=1)
        return mean

    def expected_error(self, moment: FloatArray) -> float:
        """Return the error that rows with E[x x^T] = ``moment`` [D, D] have on average, exactly.

        It is trace((F E - 1) moment (F E - 1)^T) / D.

        Raises:
            ValueError: a ``moment`` that is none, or of another size.
        """
        gap = self.decoder @ self.encoder - np.eye(len(self.decoder))
        return float(np.sum(gap @ checked_moment(moment, len(gap)) * gap)) / len(gap)


def fit(
    data: npt.ArrayLike | Sampler, config: AutoencoderConfig, on_progress: OnLoss | None = None
) -> Fit[LinearAutoencoder]:
    """Return the autoencoder that gradient descent from a random start finds, and its loss after every update.

    The loss is that of the batch which the next update reads. It nears ``pca_error``, from above on full batches;
    the closer the K-th eigenvalue is to the next, the longer that takes.

    Args:
        data: float [B, D], or a sampler that is asked for a batch of fresh rows at every update.
        config: how. A sampler needs a ``batch_size``.
        on_progress: called with the updates so far and the loss after them, ``updates`` + 1 times.

    Raises:
        ValueError: no rows, a number that is not finite, a batch larger than the data, or a sampler without a
            batch_size or whose batches change their shape.
        NonFiniteLossError: the descent diverged; ``largest_step_size`` gives the bound.
    """
    start_seed, batch_seed = (int(one) for one in np.random.SeedSequence(config.seed).generate_state(2))
    batches = _batches(data, config.batch_size, batch_seed)
    first = next(batches)  # gives D
    rng = np.random.default_rng(start_seed)
    shape = (config.n_components, first.shape[1])
    scale = START_SCALE / shape[1] ** 0.5
    start = (scale * rng.normal(size=shape), scale * rng.normal(size=shape[::-1]))
    return descend(LinearAutoencoder, start, chain([first], batches), _loss_and_gradient, config, on_progress)


def loss(model: LinearAutoencoder, x: npt.ArrayLike) -> float:
    """Return the mean squared error of ``model`` on ``x`` [B, D], over all B * D.

    Raises:
        ValueError: no rows, another shape, or a number that is not finite.
    """
    return _loss_and_gradient(model.parameters, checked_rows("x", x, model.encoder.shape[1]))[0]


def gradient(model: LinearAutoencoder, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return the gradient of ``loss`` by the encoder [K, D] and by the decoder [D, K].

    Raises:
        ValueError: as ``loss`` does.
    """
    by_encoder, by_decoder = _loss_and_gradient(
        model.parameters, checked_rows("x", x, model.encoder.shape[1])
    )[1]
    return by_encoder, by_decoder


def second_moment(x: npt.ArrayLike) -> FloatArray:
    """Return the mean of x x^T over the rows of ``x`` [B, D], [D, D]: the covariance, but about the origin.

    Raises:
        ValueError: no rows, or a number that is not finite.
    """
    rows = checked_rows("x", x)
    moment: FloatArray = rows.T @ rows / len(rows)
    return moment


def pca_error(moment: FloatArray, n_components: int) -> float:
    """Return the smallest loss of a code of K numbers where E[x x^T] = ``moment`` [D, D].

    It is the sum of the D - K smallest eigenvalues, divided by D: 0 where K is D or more.

    Raises:
        ValueError: a ``moment`` that is none, or a bottleneck of 0.
    """
    n_components = _check_components(n_components)
    values, _ = _spectrum(moment)
    return float(values[n_components:].sum()) / len(values)


def pca(moment: FloatArray, n_components: int) -> LinearAutoencoder:
    """Return an autoencoder of that loss: the projection on the K largest components, at most D.

    Raises:
        ValueError: as ``pca_error`` does.
    """
    n_components = _check_components(n_components)
    components = _spectrum(moment)[1][:, :n_components]  # [D, K]
    return LinearAutoencoder(components.T, components)


def largest_step_size(moment: FloatArray) -> float:
    """Return D / (2 times the largest eigenvalue of ``moment`` [D, D]).

    The largest eigenvalue of the loss's Hessian at ``pca`` is 4 / D times that of ``moment``; with a step size
    above 2 / that, full batches cannot settle there. Away from the optimum the Hessian may be larger: stay below.

    Raises:
        ValueError: a ``moment`` that is none.
    """
    values, _ = _spectrum(moment)
    return len(values) / (2 * float(values[0])) if values[0] > 0 else math.inf


def checked_moment(moment: FloatArray, size: int | None = None) -> FloatArray:
    """Return ``moment`` as float64 [D, D].

    Raises:
        ValueError: it is not square (of ``size`` where that is given), finite, or to 1e-9 symmetric without
            negative eigenvalues.
    """
    matrix = checked_rows("moment", moment)
    if matrix.shape != (size or len(matrix),) * 2:
        wanted = "[D, D]" if size is None else f"({size}, {size})"
        raise ValueError(f"moment has shape {matrix.shape}: give {wanted}, as second_moment(x) does")
    rounding = 1e-9 * np.abs(matrix).max()
    if np.abs(matrix - matrix.T).max() > rounding or np.linalg.eigvalsh(matrix)[0] < -rounding:
        raise ValueError("moment is no mean of x x^T: give a symmetric matrix without negative eigenvalues")
    return matrix


def _spectrum(moment: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the eigenvalues [D] of ``moment``, the largest first, and their vectors, the columns of [D, D]."""
    values, vectors = np.linalg.eigh(checked_moment(moment))
    # Where rows are fewer than components, rounding makes some of the zeros negative.
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


def _loss_and_gradient(parameters: Parameters, x: FloatArray) -> tuple[float, Parameters]:
    encoder, decoder = parameters
    code = x @ encoder.T  # [B, K]
    error = code @ decoder.T - x  # [B, D]
    by_reconstruction = 2 / error.size * error
    by_code = by_reconstruction @ decoder  # [B, K]
    return float(np.mean(error**2)), (by_code.T @ x, by_reconstruction.T @ code)


def _batches(data: npt.ArrayLike | Sampler, batch_size: int | None, seed: int) -> Iterator[FloatArray]:
    if not callable(data):
        rows = checked_rows("x", data)
        return (rows[chosen] for chosen in batch_rows(len(rows), batch_size, seed))
    if batch_size is None:
        raise ValueError("batch_size is None: a sampler has no last row, give an integer of 1 or more")
    return _fresh(data, batch_size, np.random.default_rng(seed))


def _fresh(sampler: Sampler, batch_size: int, rng: np.random.Generator) -> Iterator[FloatArray]:
    columns = None
    while True:
        rows = checked_rows("the sampler's batch", sampler(rng, batch_size), columns)
        if len(rows) != batch_size:
            raise ValueError(f"the sampler's batch has {len(rows)} rows: give the {batch_size} asked for")
        columns = rows.shape[1]
        yield rows


def _check_components(n_components: object) -> int:
    if n_components == 0 and not isinstance(n_components, bool):
        raise ValueError(
            "n_components is 0, a bottleneck of 0, a code of no numbers: give an integer of 1 or more"
        )
    return check_count("n_components", n_components)
