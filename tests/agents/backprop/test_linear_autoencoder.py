"""The linear autoencoder: its gradient against differences and autograd, its descent against PCA."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.decomposition import PCA, TruncatedSVD

from tokenwalk.agents.backprop.descent import NonFiniteLossError
from tokenwalk.agents.backprop.linear_autoencoder import (
    AutoencoderConfig,
    LinearAutoencoder,
    fit,
    gradient,
    largest_step_size,
    loss,
    pca,
    pca_error,
    second_moment,
)

Floats = NDArray[np.float64]
SPECTRUM = np.array([4.0, 3.0, 2.5, 2.0, 1.5, 0.6, 0.4, 0.3, 0.2, 0.1])
seeds = st.integers(0, 2**32 - 1)
problems = st.builds(
    lambda seed, rows, width, code: random_problem(seed, rows, width, code),
    seeds,
    st.integers(1, 8),
    st.integers(1, 6),
    st.integers(1, 6),
)


def random_problem(seed: int, rows: int, width: int, code: int) -> tuple[LinearAutoencoder, Floats]:
    rng = np.random.default_rng(seed)
    model = LinearAutoencoder(rng.normal(size=(code, width)), rng.normal(size=(width, code)))
    return model, rng.normal(size=(rows, width))


def axes(seed: int = 0) -> Floats:
    """Return random orthogonal directions, the columns of [10, 10], each times the root of its variance."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(10, 10)))[0] * SPECTRUM**0.5


def correlated(n_rows: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(n_rows, 10)) @ axes().T


def standard_normal(rng: np.random.Generator, batch_size: int) -> Floats:
    return rng.normal(size=(batch_size, 10))


def by_differences(model: LinearAutoencoder, x: Floats, width: float = 1e-4) -> list[Floats]:
    found = []
    for place, one in enumerate(model.parameters):
        slopes = np.empty(one.shape)
        for entry in np.ndindex(one.shape):
            sides = []
            for sign in (1, -1):
                moved = [p.copy() for p in model.parameters]
                moved[place][entry] += sign * width
                sides.append(loss(LinearAutoencoder(*moved), x))
            slopes[entry] = (sides[0] - sides[1]) / (2 * width)
        found.append(slopes)
    return found


def by_autograd(model: LinearAutoencoder, x: Floats) -> tuple[float, list[Floats]]:
    encoder, decoder = (torch.tensor(one, requires_grad=True) for one in model.parameters)
    code = torch.nn.functional.linear(torch.tensor(x), encoder)
    value = torch.nn.functional.mse_loss(torch.nn.functional.linear(code, decoder), torch.tensor(x))
    value.backward()
    return value.item(), [encoder.grad.numpy(), decoder.grad.numpy()]


@given(problems)
@settings(max_examples=40)
def test_the_gradient_by_hand_is_that_of_autograd(problem: tuple[LinearAutoencoder, Floats]) -> None:
    value, expected = by_autograd(*problem)
    assert loss(*problem) == pytest.approx(value, rel=1e-12)
    for one, other in zip(gradient(*problem), expected, strict=True):
        assert one.shape == other.shape
        assert one == pytest.approx(other, abs=1e-10, rel=1e-12)


@given(problems)
@settings(max_examples=20)
def test_the_gradient_by_hand_is_that_of_finite_differences(
    problem: tuple[LinearAutoencoder, Floats],
) -> None:
    for one, other in zip(gradient(*problem), by_differences(*problem), strict=True):
        assert one == pytest.approx(other, abs=1e-5, rel=1e-6)


def test_updates_that_leave_out_the_decoder_are_not_the_gradient() -> None:
    model, x = random_problem(0, 20, 10, 5)
    encoder, decoder = model.parameters
    by_reconstruction = 2 / x.size * (model.reconstruct(x) - x)
    with pytest.raises(ValueError, match="could not be broadcast"):
        encoder - by_reconstruction.T @ x  # the error at the output times the input: no shape of a map
    back_through_the_encoder = (by_reconstruction @ encoder.T).T @ x  # a shape that fits by accident
    without_the_code = by_reconstruction.T @ (x @ decoder)
    true_encoder, true_decoder = by_autograd(model, x)[1]
    assert np.abs(back_through_the_encoder - true_encoder).max() > 0.1
    assert np.abs(without_the_code - true_decoder).max() > 0.1
    assert np.abs(back_through_the_encoder - by_differences(model, x)[0]).max() > 0.1


def test_the_layers_10_to_5_to_10_have_100_parameters() -> None:
    model, _ = random_problem(0, 1, 10, 5)
    assert model.describe() == {"encoder": (5, 10), "decoder": (10, 5), "total": 100}
    assert model.n_parameters == 100


@pytest.mark.parametrize(("batch_size", "excess"), [(64, 2e-3), (256, 1e-3)])
def test_on_fresh_standard_normal_rows_the_error_reaches_a_half(batch_size: int, excess: float) -> None:
    minimum = pca_error(np.eye(10), 5)
    assert minimum == 0.5
    for seed in range(3):
        found = fit(standard_normal, AutoencoderConfig(batch_size=batch_size, seed=seed))
        error = found.model.expected_error(np.eye(10))
        assert minimum <= error < minimum + excess
        # At the optimum a row's error is a tenth of a chi-squared of 5, of variance 0.1: five standard errors.
        assert abs(found.losses[-100:].mean() - error) < 5 * (0.1 / (100 * batch_size)) ** 0.5


def test_the_documented_step_size_is_on_its_way_after_1000_updates() -> None:
    config = AutoencoderConfig(step_size=0.01, updates=1_000, batch_size=256)
    found = fit(standard_normal, config)
    assert found.losses[0] > 1
    assert 0.501 < found.model.expected_error(np.eye(10)) < 0.6


def test_on_fresh_correlated_rows_the_error_reaches_that_of_pca() -> None:
    moment = axes() @ axes().T
    minimum = pca_error(moment, 5)
    assert minimum == pytest.approx(SPECTRUM[5:].sum() / 10)
    config = AutoencoderConfig(step_size=0.2, updates=1_500, batch_size=64)
    found = fit(lambda rng, n: rng.normal(size=(n, 10)) @ axes().T, config)
    assert minimum < found.model.expected_error(moment) < 1.01 * minimum


@pytest.mark.parametrize("seed", range(4))
def test_full_batches_descend_to_pca(seed: int) -> None:
    x = correlated(300)
    moment = second_moment(x)
    config = AutoencoderConfig(step_size=0.5 * largest_step_size(moment), updates=1_500, seed=seed)
    found = fit(x, config)
    best = pca(moment, 5)
    assert found.losses[-1] == loss(found.model, x)
    assert found.losses[-1] == pytest.approx(pca_error(moment, 5), abs=1e-12)
    assert found.model.decoder @ found.model.encoder == pytest.approx(best.decoder @ best.encoder, abs=1e-5)
    assert found.model.error(x) == pytest.approx(best.error(x), abs=1e-5)


def test_mini_batches_hover_above_pca() -> None:
    x = correlated(300)
    minimum = pca_error(second_moment(x), 5)
    gaps = [
        loss(fit(x, AutoencoderConfig(step_size, updates=1_500, batch_size=30)).model, x) - minimum
        for step_size in (0.5, 0.1)
    ]
    assert 0 < gaps[1] < gaps[0] < 0.05 * minimum


@given(seeds, st.integers(1, 12), st.integers(1, 6), st.integers(1, 6), st.floats(0.05, 0.5))
@settings(max_examples=30)
def test_the_loss_never_rises_nor_falls_below_that_of_pca(
    seed: int, rows: int, width: int, code: int, part: float
) -> None:
    x = random_problem(seed, rows, width, code)[1]
    moment = second_moment(x)
    step_size = part * largest_step_size(moment)
    losses = fit(x, AutoencoderConfig(step_size, updates=80, n_components=code, seed=seed)).losses
    assert (losses >= pca_error(moment, code) - 1e-13).all()
    assert (np.diff(losses) <= 1e-13).all()
    assert losses[-1] < losses[0]


def test_bounds_of_another_pca_are_undercut_or_never_reached() -> None:
    x = correlated(300) + 1.0
    moment = second_moment(x)
    config = AutoencoderConfig(step_size=0.5 * largest_step_size(moment), updates=3_000)
    reached = fit(x, config).losses[-1]
    assert reached == pytest.approx(pca_error(moment, 5), abs=1e-10)
    about_the_mean = pca_error(second_moment(x - x.mean(axis=0)), 5)
    assert reached > about_the_mean + 0.03
    assert reached < pca_error(moment, 4) - 0.03


@given(seeds, st.integers(1, 5))
@settings(max_examples=20)
def test_scikit_learn_finds_the_same_components(seed: int, code: int) -> None:
    half = random_problem(seed, 12, 6, code)[1] * np.arange(1.0, 7.0)
    x = np.concatenate([half, -half])  # its mean is the origin, so that PCA and ours mean the same
    other = PCA(code).fit(x)
    expected = other.inverse_transform(other.transform(x))
    best = pca(second_moment(x), code)
    assert best.reconstruct(x) == pytest.approx(expected, abs=1e-8)
    assert pca_error(second_moment(x), code) == pytest.approx(np.mean((x - expected) ** 2), abs=1e-10)


def test_scikit_learn_finds_the_same_components_about_the_origin() -> None:
    x = correlated(100) + 2.0
    other = TruncatedSVD(5, algorithm="arpack").fit(x)
    expected = other.inverse_transform(other.transform(x))
    assert pca(second_moment(x), 5).reconstruct(x) == pytest.approx(expected, abs=1e-8)
    centered = PCA(5).fit(x)
    about_the_mean = centered.inverse_transform(centered.transform(x))
    assert np.mean((x - about_the_mean) ** 2) < pca_error(second_moment(x), 5) - 1e-3


@given(problems)
@settings(max_examples=40)
def test_the_errors_of_the_rows_their_mean_and_their_expectation_agree(
    problem: tuple[LinearAutoencoder, Floats],
) -> None:
    model, x = problem
    moment = second_moment(x)
    residual = model.reconstruct(x) - x
    assert model.error(x) == pytest.approx([np.mean(one**2) for one in residual], rel=1e-12)
    assert model.error(x).mean() == pytest.approx(loss(model, x), rel=1e-12)
    assert model.expected_error(moment) == pytest.approx(loss(model, x), rel=1e-10)
    code = len(model.encoder)
    assert loss(pca(moment, code), x) == pytest.approx(pca_error(moment, code), abs=1e-12)
    assert pca_error(moment, code) <= loss(model, x)


def test_other_components_are_stationary_but_not_best() -> None:
    x = correlated(200)
    moment = second_moment(x)
    values, vectors = np.linalg.eigh(moment)
    others = vectors[:, [9, 8, 7, 6, 4]]  # the fifth is left out for the sixth
    saddle = LinearAutoencoder(others.T, others)
    assert np.abs(np.concatenate([one.ravel() for one in gradient(saddle, x)])).max() < 1e-12
    assert loss(saddle, x) == pytest.approx(pca_error(moment, 5) + (values[5] - values[4]) / 10)


@pytest.mark.parametrize("code", [1, 2, 4])
def test_the_largest_step_size_is_that_of_the_hessian_at_pca(code: int) -> None:
    x = random_problem(1, 30, 4, code)[1] * np.arange(1.0, 5.0)
    moment = second_moment(x)
    rows, split = torch.tensor(x), 4 * code

    def value(flat: torch.Tensor) -> torch.Tensor:
        encoder, decoder = flat[:split].reshape(code, 4), flat[split:].reshape(4, code)
        return torch.nn.functional.mse_loss(rows @ encoder.T @ decoder.T, rows)

    optimum = torch.tensor(np.concatenate([one.ravel() for one in pca(moment, code).parameters]))
    hessian = torch.autograd.functional.hessian(value, optimum).numpy()
    assert largest_step_size(moment) == pytest.approx(2 / np.linalg.eigvalsh(hessian)[-1], rel=1e-9)
    assert largest_step_size(np.zeros((2, 2))) == np.inf


def test_above_the_largest_step_size_the_descent_does_not_settle_and_far_above_it_stops() -> None:
    x = correlated(300)
    moment = second_moment(x)
    bound = largest_step_size(moment)
    restless = fit(x, AutoencoderConfig(step_size=1.05 * bound, updates=1_500)).losses
    assert restless[-200:].min() > pca_error(moment, 5) + 1e-3
    with pytest.raises(NonFiniteLossError, match="is too large, give a smaller one such as") as caught:
        fit(x, AutoencoderConfig(step_size=5 * bound))
    error = caught.value
    again = fit(x, AutoencoderConfig(step_size=5 * bound, updates=error.update - 1))
    assert error.model.encoder.tolist() == again.model.encoder.tolist()
    assert again.losses[-1] == loss(error.model, x) > 1.0


def test_few_rows_are_learned_by_heart() -> None:
    x = correlated(8)
    moment, true_moment = second_moment(x), axes() @ axes().T
    found = fit(x, AutoencoderConfig(step_size=0.5 * largest_step_size(moment), updates=2_000)).model
    assert loss(found, x) < 0.5 * pca_error(true_moment, 5)
    assert found.expected_error(true_moment) > 1.2 * pca_error(true_moment, 5)


@pytest.mark.parametrize("code", [10, 12])
def test_a_bottleneck_as_wide_as_its_input_lets_everything_through(code: int) -> None:
    x = np.random.default_rng(0).normal(size=(100, 10))
    model = fit(x, AutoencoderConfig(n_components=code)).model
    assert model.error(correlated(50)).max() < 1e-6
    assert pca_error(second_moment(x), code) == 0.0
    assert pca(second_moment(x), code).n_parameters == 200


def test_the_same_seed_gives_the_same_maps_and_another_seed_others() -> None:
    maps = [
        fit(standard_normal, AutoencoderConfig(updates=20, batch_size=4, seed=seed)).model.encoder.tolist()
        for seed in (7, 7, 8)
    ]
    assert maps[0] == maps[1] != maps[2]
    x = correlated(20)
    for config in (AutoencoderConfig(0.1, 20), AutoencoderConfig(0.1, 20, batch_size=4)):
        assert fit(x, config).losses.tolist() == fit(x, config).losses.tolist()


def test_every_update_reads_fresh_rows_and_progress_is_told_the_curve() -> None:
    seen: list[float] = []
    reported: list[tuple[int, float]] = []

    def sampler(rng: np.random.Generator, batch_size: int) -> Floats:
        rows = standard_normal(rng, batch_size)
        seen.append(float(rows[0, 0]))
        return rows

    config = AutoencoderConfig(updates=10, batch_size=4)
    found = fit(sampler, config, lambda update, value: reported.append((update, value)))
    assert len(set(seen)) == len(seen) == 11
    assert reported == list(enumerate(found.losses.tolist()))


def test_no_rows_have_no_errors() -> None:
    model, _ = random_problem(0, 1, 3, 2)
    assert model.reconstruct(np.empty((0, 3))).shape == (0, 3)
    assert model.error(np.empty((0, 3))).tolist() == []


def test_a_model_keeps_its_numbers_when_those_it_was_made_of_change() -> None:
    components = np.eye(2)
    model = LinearAutoencoder(components.T, components)
    components[:] = 7.0
    assert model.error([[1.0, 2.0]]).tolist() == [0.0]
    best = pca(np.eye(2), 1)
    assert not np.shares_memory(best.encoder, best.decoder)


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        (np.empty((0, 3)), {}, r"x has shape \(0, 3\), which is empty: give at least one row"),
        (np.ones(3), {}, r"x has shape \(3,\): give rows and columns"),
        ([[1.0, np.nan]], {}, r"x\[0, 1\] is nan: give finite numbers"),
        (np.ones((3, 2)), {"batch_size": 4}, r"batch_size is 4: give at most 3, the rows that there are"),
        (standard_normal, {}, r"batch_size is None: a sampler has no last row, give an integer of 1 or more"),
        (
            lambda _, n: np.ones((n + 1, 2)),
            {"batch_size": 4},
            r"the sampler's batch has 5 rows: give the 4 asked for",
        ),
        (
            lambda rng, n: np.ones((n, rng.integers(1, 100))),
            {"batch_size": 4},
            r"the sampler's batch has \d+ columns: give \d+",
        ),
        (lambda _, n: np.full((n, 2), np.inf), {"batch_size": 4}, r"the sampler's batch\[0, 0\] is inf"),
    ],
)
def test_data_that_cannot_be_learned_from_are_refused_with_the_fix(
    data: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(data, AutoencoderConfig(**changes))


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        (np.ones((2, 3)), r"moment has shape \(2, 3\): give \[D, D\], as second_moment\(x\) does"),
        ([[1.0, 0.5], [0.0, 1.0]], r"moment is no mean of x x\^T: give a symmetric matrix"),
        ([[1.0, 2.0], [2.0, 1.0]], r"without negative eigenvalues"),
        ([[np.nan]], r"moment\[0, 0\] is nan"),
    ],
)
def test_a_matrix_that_is_no_second_moment_is_refused(moment: Any, message: str) -> None:
    for use in (lambda: pca_error(moment, 1), lambda: pca(moment, 1), lambda: largest_step_size(moment)):
        with pytest.raises(ValueError, match=message):
            use()


def test_maps_that_do_not_fit_each_other_or_the_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"decoder has shape \(5, 10\): give \(10, 5\), as encoder has"):
        LinearAutoencoder(np.ones((5, 10)), np.ones((5, 10)))
    with pytest.raises(ValueError, match=r"encoder\[1, 1\] is inf"):
        LinearAutoencoder(np.array([[1.0, 1.0], [1.0, np.inf]]), np.ones((2, 2)))
    model, _ = random_problem(0, 1, 3, 2)
    for use in (model.error, model.reconstruct, lambda x: loss(model, x), lambda x: gradient(model, x)):
        with pytest.raises(ValueError, match="x has 4 columns: give 3"):
            use(np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"moment has shape \(4, 4\): give \(3, 3\)"):
        model.expected_error(np.eye(4))


@pytest.mark.parametrize("code", [0, -1, 2.0, True])
def test_a_bottleneck_of_0_or_of_no_whole_number_is_refused(code: Any) -> None:
    message = "a bottleneck of 0" if code == 0 else "give an integer of 1 or more"
    uses = (
        lambda: AutoencoderConfig(n_components=code),
        lambda: pca_error(np.eye(3), code),
        lambda: pca(np.eye(3), code),
    )
    for use in uses:
        with pytest.raises(ValueError, match=f"n_components is {code}.*{message}"):
            use()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_size": -1.0}, r"step_size is -1.0: give a finite number above 0"),
        ({"updates": 0}, r"updates is 0: give an integer of 1 or more"),
        ({"batch_size": 2.5}, r"batch_size is 2.5: give an integer"),
        ({"seed": None}, r"seed is None: give an integer of 0 or more"),
    ],
)
def test_a_field_out_of_range_is_named_with_its_value_and_its_range(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        AutoencoderConfig(**changes)
