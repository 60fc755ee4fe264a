"""Linear regression: its gradient against differences and autograd, its descent against the normal equation."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression

from tokenwalk.agents.backprop.descent import NonFiniteLossError, batch_rows
from tokenwalk.agents.backprop.linear import (
    LinearConfig,
    LinearModel,
    fit,
    gradient,
    largest_step_size,
    loss,
    normal_equation,
)

Floats = NDArray[np.float64]
X = np.arange(1.0, 6.0)[:, None]
Y = np.array([2.0, 4.0, 5.0, 4.0, 5.0])[:, None]
problems = st.builds(
    lambda seed, rows, inputs, outputs, bias: random_problem(seed, rows, inputs, outputs, bias),
    st.integers(0, 2**32 - 1),
    st.integers(1, 8),
    st.integers(1, 5),
    st.integers(1, 4),
    st.booleans(),
)


def random_problem(
    seed: int, rows: int, inputs: int, outputs: int, bias: bool
) -> tuple[LinearModel, Floats, Floats]:
    rng = np.random.default_rng(seed)
    offset = rng.normal(size=outputs) if bias else None
    model = LinearModel(rng.normal(size=(outputs, inputs)), offset)
    return model, rng.normal(size=(rows, inputs)), rng.normal(size=(rows, outputs))


def by_differences(model: LinearModel, x: Floats, y: Floats, width: float = 1e-3) -> list[Floats]:
    """Return the gradient by each parameter; the loss is quadratic, so its central differences are exact."""
    found = []
    for place, one in enumerate(model.parameters):
        slopes = np.empty(one.shape)
        for entry in np.ndindex(one.shape):
            step = np.zeros(one.shape)
            step[entry] = width
            sides = [
                loss(LinearModel(*moved), x, y)
                for moved in (
                    [p + sign * step if place == i else p for i, p in enumerate(model.parameters)]
                    for sign in (1, -1)
                )
            ]
            slopes[entry] = (sides[0] - sides[1]) / (2 * width)
        found.append(slopes)
    return found


def by_autograd(model: LinearModel, x: Floats, y: Floats) -> tuple[float, list[Floats]]:
    parameters = [torch.tensor(one, requires_grad=True) for one in model.parameters]
    prediction = torch.nn.functional.linear(torch.tensor(x), *parameters)
    value = torch.nn.functional.mse_loss(prediction, torch.tensor(y))
    value.backward()
    return value.item(), [one.grad.numpy() for one in parameters]


def by_hand(model: LinearModel, x: Floats, y: Floats) -> list[Floats]:
    return [one for one in gradient(model, x, y) if one is not None]


@given(problems)
@settings(max_examples=40)
def test_the_gradient_by_hand_is_that_of_autograd(problem: tuple[LinearModel, Floats, Floats]) -> None:
    value, expected = by_autograd(*problem)
    found = by_hand(*problem)
    assert loss(*problem) == pytest.approx(value, abs=1e-12)
    assert [one.shape for one in found] == [one.shape for one in problem[0].parameters]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-10)


@given(problems)
@settings(max_examples=20)
def test_the_gradient_by_hand_is_that_of_finite_differences(
    problem: tuple[LinearModel, Floats, Floats],
) -> None:
    for one, other in zip(by_hand(*problem), by_differences(*problem), strict=True):
        assert one == pytest.approx(other, abs=1e-9)


def test_a_gradient_of_the_mean_over_rows_alone_is_another() -> None:
    model, x, y = random_problem(0, 6, 3, 2, bias=True)
    twin = 2 / len(x) * (model.predict(x) - y).T @ x  # the loss is divided by the outputs as well
    assert np.abs(twin - by_autograd(model, x, y)[1][0]).max() > 0.1
    assert np.abs(twin - by_differences(model, x, y)[0]).max() > 0.1
    assert twin / 2 == pytest.approx(gradient(model, x, y)[0], abs=1e-12)


def test_a_layer_from_10_to_5_has_55_parameters() -> None:
    model = LinearModel(np.zeros((5, 10)), np.zeros(5))
    layer = torch.nn.Linear(10, 5)
    assert model.describe() == {"weight": (5, 10), "bias": (5,), "total": 55}
    assert model.n_parameters == sum(one.numel() for one in layer.parameters()) == 55
    assert LinearModel(np.zeros((5, 10))).describe() == {"weight": (5, 10), "total": 50}


def test_one_weight_learns_that_y_is_twice_x() -> None:
    found = fit(X, 2 * X, LinearConfig(step_size=0.01, updates=1_000, bias=False))
    assert found.model.weight == pytest.approx(np.array([[2.0]]), abs=1e-12)
    assert found.model.bias is None
    # Every update multiplies the error of the weight by 1 - 0.01 * 22, and the loss by its square.
    assert found.losses[:3] == pytest.approx([44.0, 44.0 * 0.78**2, 44.0 * 0.78**4])


def test_two_weights_cannot_be_multiplied_with_five_data() -> None:
    with pytest.raises(ValueError, match="could not be broadcast"):
        X[:, 0] * np.zeros(2)
    with pytest.raises(ValueError, match="x has 1 columns: give 2"):
        LinearModel(np.zeros((1, 2))).predict(X)


def test_the_documented_regression_has_slope_three_fifths_and_intercept_2_2() -> None:
    exact = normal_equation(X, Y)
    step_size = 0.9 * largest_step_size(X)
    learned = fit(X, Y, LinearConfig(step_size=step_size, updates=2_000)).model
    for model in (exact, learned):
        assert model.weight.item() == pytest.approx(0.6, abs=1e-8)
        assert model.bias == pytest.approx([2.2], abs=1e-8)
        assert model.predict([[6.0]]).item() == pytest.approx(5.8, abs=1e-8)
    printed = LinearModel([[0.6]], [1.6])
    assert printed.predict([[6.0]]).item() == pytest.approx(5.2)
    assert loss(exact, X, Y) == pytest.approx(0.48)
    assert loss(printed, X, Y) == pytest.approx(0.48 + 0.6**2)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3), st.booleans())
@settings(max_examples=12)
def test_full_batches_descend_to_the_normal_equation(
    seed: int, inputs: int, outputs: int, bias: bool
) -> None:
    _, x, y = random_problem(seed, 30, inputs, outputs, bias)
    step_size = 0.9 * largest_step_size(x, bias, outputs)
    found = fit(x, y, LinearConfig(step_size=step_size, updates=600, bias=bias))
    exact = normal_equation(x, y, bias)
    for one, other in zip(found.model.parameters, exact.parameters, strict=True):
        assert one == pytest.approx(other, abs=1e-8)
    assert found.losses[-1] == loss(found.model, x, y)
    assert (found.losses >= loss(exact, x, y) - 1e-12).all()
    assert np.abs(by_hand(exact, x, y)[0]).max() < 1e-12


def test_a_descent_without_its_bias_misses_the_normal_equation() -> None:
    step_size = 0.9 * largest_step_size(X)
    twin = fit(X, Y, LinearConfig(step_size=step_size, updates=2_000, bias=False)).model
    assert twin.weight == pytest.approx(normal_equation(X, Y, bias=False).weight, abs=1e-8)
    assert loss(twin, X, Y) > loss(normal_equation(X, Y), X, Y) + 0.5


def test_mini_batches_reach_a_model_that_leaves_no_residual() -> None:
    truth, x, _ = random_problem(1, 40, 3, 2, bias=True)
    y = truth.predict(x)
    config = LinearConfig(step_size=0.3 * largest_step_size(x, n_outputs=2), updates=1_000, batch_size=8)
    model = fit(x, y, config).model
    for one, other in zip(model.parameters, normal_equation(x, y).parameters, strict=True):
        assert one == pytest.approx(other, abs=1e-8)


def test_mini_batches_hover_above_an_optimum_that_leaves_a_residual() -> None:
    _, x, y = random_problem(2, 200, 3, 1, bias=True)
    minimum = loss(normal_equation(x, y), x, y)
    gaps = [
        loss(fit(x, y, LinearConfig(step_size=step_size, updates=1_500, batch_size=10)).model, x, y) - minimum
        for step_size in (0.2, 0.005)
    ]
    assert 1e-3 * minimum < gaps[0] < 0.2 * minimum
    assert 0 < gaps[1] < 5e-3 * minimum


@given(problems)
@settings(max_examples=40)
def test_scikit_learn_finds_the_same_optimum(problem: tuple[LinearModel, Floats, Floats]) -> None:
    model, x, y = problem  # of 1 to 8 rows, so that often many models fit equally well
    bias = model.bias is not None
    other = LinearRegression(fit_intercept=bias).fit(x, y)
    found = normal_equation(x, y, bias)
    assert found.weight == pytest.approx(other.coef_, abs=1e-8)
    assert found.predict(x) == pytest.approx(other.predict(x), abs=1e-9)
    assert loss(found, x, y) <= loss(model, x, y)


@pytest.mark.parametrize("bias", [True, False])
def test_where_many_models_fit_descent_from_zero_finds_the_shortest(bias: bool) -> None:
    _, x, y = random_problem(3, 4, 6, 2, bias)
    columns = np.column_stack([x, np.ones(4)]) if bias else x
    shortest = (np.linalg.pinv(columns) @ y).T
    step_size = 0.9 * largest_step_size(x, bias, 2)
    found = fit(x, y, LinearConfig(step_size=step_size, updates=2_000, bias=bias)).model
    assert np.column_stack([one.reshape(2, -1) for one in found.parameters]) == pytest.approx(
        shortest, abs=1e-8
    )
    assert loss(normal_equation(x, y, bias), x, y) < 1e-20
    if not bias:
        assert found.weight == pytest.approx(normal_equation(x, y, bias=False).weight, abs=1e-8)


@given(problems, st.floats(0.01, 0.99))
@settings(max_examples=30)
def test_below_the_largest_step_size_the_loss_never_rises(
    problem: tuple[LinearModel, Floats, Floats], part: float
) -> None:
    model, x, y = problem
    bias = model.bias is not None
    step_size = part * largest_step_size(x, bias, y.shape[1])
    losses = fit(x, y, LinearConfig(step_size=step_size, updates=60, bias=bias)).losses
    assert (np.diff(losses) <= 1e-13 * losses[0]).all()
    assert losses[-1] < losses[0]


@given(problems)
@settings(max_examples=30)
def test_above_the_largest_step_size_the_loss_ends_by_rising(
    problem: tuple[LinearModel, Floats, Floats],
) -> None:
    model, x, _ = problem
    bias = model.bias is not None
    columns = np.column_stack([x, np.ones(len(x))]) if bias else x
    # Labels along the steepest direction, so that no digit of it has to come out of rounding.
    y = columns @ np.linalg.svd(columns)[2][:1].T
    step_size = 1.01 * largest_step_size(x, bias)
    losses = fit(x, y, LinearConfig(step_size=step_size, updates=20, bias=bias)).losses
    assert losses[1:] / losses[:-1] == pytest.approx(np.full(20, 1.02**2), rel=1e-6)


@given(problems)
@settings(max_examples=15)
def test_the_largest_step_size_is_that_of_the_hessian(problem: tuple[LinearModel, Floats, Floats]) -> None:
    model, x, y = problem

    def value(flat: torch.Tensor) -> torch.Tensor:
        parts = torch.split(flat, [one.size for one in model.parameters])
        shaped = [part.reshape(one.shape) for part, one in zip(parts, model.parameters, strict=True)]
        return torch.nn.functional.mse_loss(
            torch.nn.functional.linear(torch.tensor(x), *shaped), torch.tensor(y)
        )

    hessian = torch.autograd.functional.hessian(
        value, torch.zeros(model.n_parameters, dtype=torch.float64)
    ).numpy()
    bound = largest_step_size(x, model.bias is not None, y.shape[1])
    assert bound == pytest.approx(2 / np.linalg.eigvalsh(hessian)[-1], rel=1e-9)


def test_inputs_of_zero_allow_any_step_size() -> None:
    assert largest_step_size(np.zeros((3, 2)), bias=False) == np.inf
    assert largest_step_size(np.zeros((3, 2))) == pytest.approx(1.0)  # that of the bias alone
    assert (
        fit(np.zeros((3, 2)), np.ones((3, 1)), LinearConfig(updates=5, bias=False)).losses.tolist()
        == [1.0] * 6
    )


def test_a_descent_that_diverges_stops_with_its_last_finite_model() -> None:
    config = LinearConfig(step_size=1.5 * largest_step_size(X), updates=5_000)
    with pytest.raises(NonFiniteLossError, match=r"give a smaller one such as 0\.0127") as caught:
        fit(X, Y, config)
    error = caught.value
    assert f"the loss is inf after update {error.update}: step_size {config.step_size!r}" in str(error)
    shorter = LinearConfig(step_size=config.step_size, updates=error.update - 1)
    again = fit(X, Y, shorter)
    assert again.losses[-1] == loss(error.model, X, Y)
    assert 1e290 < again.losses[-1] < np.inf
    assert np.isfinite(again.losses).all()


def test_data_whose_squares_overflow_are_to_be_scaled() -> None:
    with pytest.raises(NonFiniteLossError, match="before any update: scale the data") as caught:
        fit(X, 1e200 * Y, LinearConfig())
    assert (caught.value.update, caught.value.model.weight.item()) == (0, 0.0)


def test_the_digits_of_a_line_far_from_the_origin_survive() -> None:
    x = 1e8 + np.arange(5.0)[:, None]
    found = normal_equation(x, Y)
    twin = np.linalg.solve(np.array([[(x**2).sum(), x.sum()], [x.sum(), 5.0]]), [(x * Y).sum(), Y.sum()])
    assert found.weight.item() == pytest.approx(0.6, abs=1e-12)
    assert found.predict(x) == pytest.approx(normal_equation(X, Y).predict(X), abs=1e-6)
    assert abs(twin[0] - 0.6) > 0.01


def test_columns_that_say_the_same_share_the_weight() -> None:
    years = 2010.0 + np.arange(5.0)
    found = normal_equation(np.column_stack([years, years + 1, np.full(5, 0.1)]), Y)
    assert found.weight[0] == pytest.approx([0.3, 0.3, 0.0], abs=1e-12)


def test_columns_that_say_nothing_have_no_weight() -> None:
    x, y = np.full((3, 2), 0.1), Y[:3]
    assert (x - x.mean(axis=0) != 0).all()  # rounding, of which a regression would make weights
    found = normal_equation(x, y)
    assert found.weight.tolist() == [[0.0, 0.0]]
    assert found.bias == pytest.approx([11 / 3])


def test_columns_that_say_nearly_the_same_are_told_apart() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(30, 1)) + 1e-6 * rng.normal(size=(30, 2))
    found = normal_equation(x, x @ [[1.0], [-2.0]] + 3.0)
    assert found.weight[0] == pytest.approx([1.0, -2.0], abs=1e-8)
    assert found.bias == pytest.approx([3.0], abs=1e-12)


def test_the_order_of_the_rows_is_indifferent_and_the_labels_scale() -> None:
    _, x, y = random_problem(5, 20, 3, 2, bias=True)
    config = LinearConfig(step_size=0.1, updates=50)
    found = fit(x, y, config).model
    order = np.random.default_rng(0).permutation(20)
    assert fit(x[order], y[order], config).model.weight == pytest.approx(found.weight, abs=1e-12)
    assert fit(x, 4 * y, config).model.bias == pytest.approx(4 * found.bias, abs=1e-12)


def test_the_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    _, x, y = random_problem(6, 20, 3, 1, bias=True)
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    weights = [
        fit(x, y, LinearConfig(updates=30, batch_size=4, seed=seed)).model.weight.tolist()
        for seed in (7, 7, 8)
    ]
    assert weights[0] == weights[1] != weights[2]
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_progress_is_told_the_curve() -> None:
    reported: list[tuple[int, float]] = []
    found = fit(X, Y, LinearConfig(updates=10), lambda update, value: reported.append((update, value)))
    assert reported == list(enumerate(found.losses.tolist()))
    assert len(reported) == 11


def test_a_pass_over_the_batches_has_no_row_twice() -> None:
    batches = batch_rows(7, 3, seed=0)
    passes = [np.concatenate([next(batches), next(batches)]) for _ in range(400)]
    assert {len(set(one.tolist())) for one in passes} == {6}
    counts = np.bincount(np.concatenate(passes), minlength=7)
    whole = batch_rows(6, 3, seed=0)
    assert sorted(np.concatenate([next(whole), next(whole)]).tolist()) == [0, 1, 2, 3, 4, 5]
    left_out = 400 - counts  # binomial of 400 and 1/7
    assert left_out == pytest.approx(np.full(7, 400 / 7), abs=4 * (400 * 6 / 49) ** 0.5)


def test_no_rows_have_no_predictions() -> None:
    assert LinearModel(np.ones((2, 3))).predict(np.empty((0, 3))).shape == (0, 2)


def test_a_model_keeps_its_numbers_when_those_it_was_made_of_change() -> None:
    weight, bias = np.ones((1, 1)), np.ones(1)
    model = LinearModel(weight, bias)
    weight[:], bias[:] = 5.0, 5.0
    assert model.predict([[1.0]]).item() == 2.0


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.empty((0, 2)), np.empty((0, 1)), r"x has shape \(0, 2\), which is empty: give at least one row"),
        (np.empty((3, 0)), np.ones((3, 1)), r"x has shape \(3, 0\), which is empty"),
        (X, np.empty((5, 0)), r"y has shape \(5, 0\), which is empty"),
        (X[:, 0], Y, r"x has shape \(5,\): give rows and columns, \[:, None\] makes a column"),
        (X, Y[:, 0], r"y has shape \(5,\): give rows and columns"),
        (X, Y[:4], r"x has 5 rows and y 4: give one row of labels per row of x"),
        (X, [[2.0], [None], [5.0], [4.0], [5.0]], r"y\[1, 0\] is nan: give finite numbers, or leave out"),
        (np.where(X == 3, np.inf, X), Y, r"x\[2, 0\] is inf: give finite numbers"),
    ],
)
def test_data_that_cannot_be_learned_from_are_refused_with_the_fix(x: Any, y: Any, message: str) -> None:
    for use in (
        lambda: fit(x, y, LinearConfig()),
        lambda: normal_equation(x, y),
        lambda: loss(LinearModel([[1.0]]), x, y),
    ):
        with pytest.raises(ValueError) as caught:
            use()
        if "columns" not in str(caught.value):  # loss knows its model's
            assert caught.match(message)


def test_data_of_another_width_than_the_models_are_refused() -> None:
    model = LinearModel(np.ones((2, 3)), np.ones(2))
    with pytest.raises(ValueError, match="x has 1 columns: give 3"):
        gradient(model, X, Y)
    with pytest.raises(ValueError, match="y has 1 columns: give 2"):
        loss(model, np.ones((5, 3)), Y)
    with pytest.raises(ValueError, match="batch_size is 6: give at most 5, the rows that there are, or None"):
        fit(X, Y, LinearConfig(batch_size=6))
    with pytest.raises(ValueError, match="n_outputs is 0: give an integer of 1 or more"):
        largest_step_size(X, n_outputs=0)


@pytest.mark.parametrize(
    ("weight", "bias", "message"),
    [
        (np.ones(3), None, r"weight has shape \(3,\)"),
        (np.ones((2, 3)), np.ones(3), r"bias has shape \(3,\): give \(2,\), one number per output"),
        ([[np.nan]], None, r"weight\[0, 0\] is nan"),
        ([[1.0]], [np.inf], r"bias\[0\] is inf"),
    ],
)
def test_parameters_that_make_no_model_are_refused(weight: Any, bias: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearModel(weight, bias)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_size": 0.0}, r"step_size is 0.0: give a finite number above 0"),
        ({"step_size": float("nan")}, r"step_size is nan: give a finite number above 0"),
        ({"step_size": float("inf")}, r"step_size is inf"),
        ({"step_size": True}, r"step_size is True"),
        ({"step_size": "0.1"}, r"step_size is '0.1'"),
        ({"updates": 0}, r"updates is 0: give an integer of 1 or more"),
        ({"updates": 1e3}, r"updates is 1000.0: give an integer"),
        ({"batch_size": 0}, r"batch_size is 0: give an integer of 1 or more"),
        ({"seed": -1}, r"seed is -1: give an integer of 0 or more"),
        ({"bias": 1}, r"bias is 1: give True or False"),
    ],
)
def test_a_field_out_of_range_is_named_with_its_value_and_its_range(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LinearConfig(**changes)
