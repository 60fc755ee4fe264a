"""The listings of the documents: the printed results are stated, the correct ones are reached."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from tokenwalk.agents.study.commands.examples import (
    EXAMPLES,
    X,
    Y,
    as_json,
    autoencoder,
    layer_parameters,
    one_weight,
    regression,
    run_examples,
    small_network,
    walk,
    walk_as_listed,
)


def test_a_layer_from_10_to_5_has_55_parameters() -> None:
    assert dict(layer_parameters().measured) == {"weight": "(5, 10)", "bias": "(5,)", "total": 55}


def test_one_weight_converges_to_2_and_the_listed_product_fails() -> None:
    found = one_weight()
    assert found.measured["weight"] == pytest.approx(2.0, abs=1e-9)
    assert "could not be broadcast together with shapes (5,) (2,)" in found.printed
    assert found.curve[-1][1] < 1e-20


def test_the_line_is_that_of_scikit_learn_and_not_the_printed_one() -> None:
    found, theirs = regression(), LinearRegression().fit(X, Y)
    assert found.measured["slope"] == pytest.approx(float(theirs.coef_[0, 0])) == pytest.approx(0.6)
    assert found.measured["intercept"] == pytest.approx(float(theirs.intercept_[0])) == pytest.approx(2.2)
    assert found.measured["prediction_at_6"] == pytest.approx(5.8)
    assert found.optimum == pytest.approx(0.48)
    assert found.curve[-1][1] == pytest.approx(0.48, abs=1e-9)
    printed = np.mean((0.6 * X + 1.6 - Y) ** 2)  # the loss with the document's intercept
    assert printed > found.optimum + 0.3


def test_a_hundred_passes_are_a_hundred_updates_and_do_not_reach_12() -> None:
    measured = small_network(updates=(100, 1_000)).measured
    early, late = (measured[f"prediction_at_6_after_{mark}"] for mark in (100, 1_000))
    assert early["maximum"] < 9
    assert early["median"] < 6
    assert 10.5 < late["median"] < 12


@pytest.mark.slow
def test_three_thousand_updates_come_near_12() -> None:
    late = small_network(updates=(3_000,)).measured["prediction_at_6_after_3000"]
    assert 11.5 < late["minimum"] <= late["maximum"] < 12.2


def test_the_listed_walk_leaves_its_table_at_the_third_step_and_with_walls_the_best_action_adds() -> None:
    failure, visited = walk_as_listed()
    assert failure.startswith("IndexError")
    assert visited == [0, 1, 2]
    found = walk()
    assert found.measured["best_action_in_state_0"] == "add"
    assert found.measured["exact_values"] == pytest.approx([10 / 19, -10 / 19, 10 / 19])


def test_the_autoencoder_reaches_the_error_of_pca() -> None:
    measured = autoencoder().measured
    assert measured["pca"] == pytest.approx(0.5)
    assert measured["error"] == pytest.approx(0.5, abs=2e-3)
    assert measured["correlated_error"] == pytest.approx(measured["correlated_pca"], rel=1e-3)


def test_examples_run_by_name_and_log_each_loss_with_its_optimum(tmp_path: Path) -> None:
    names = ["parameters", "regression", "backpropagation"]
    found, folder = run_examples(names, tmp_path / "run")
    assert [one.name for one in found] == names
    assert {path.name for path in folder.iterdir()} == {"regression", "backpropagation"}
    assert {"metrics.csv", "optimum"} <= {path.name for path in (folder / "regression").iterdir()}
    assert json.dumps([as_json(one) for one in found], allow_nan=False)
    with pytest.raises(ValueError, match="no example is called 'line': give parameters, regression"):
        run_examples(["line"], tmp_path / "other")
    assert set(EXAMPLES) == {"parameters", "regression", "network", "backpropagation", "walk", "autoencoder"}
