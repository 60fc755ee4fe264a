"""The report of ``solve``: its keys are fixed, its figures derived."""

from pathlib import Path

import numpy as np
import pytest

from tokenwalk.agents.evaluation.solve import solve_problem
from tokenwalk.agents.problem.problem import open_problem

KEYS = (
    "env horizon discount kl_coef optimal_return reference_return optimal_value optimal_values optimal_actions "
    "regularized_value kl states exact residual seconds note gold proxy best_text"
).split()


def test_the_walk_has_the_values_of_its_document() -> None:
    report = solve_problem(open_problem("CounterWalk")).report
    assert list(report) == KEYS
    assert report["optimal_value"] == pytest.approx(10 / 19, abs=1e-12)
    assert report["optimal_values"] == pytest.approx([10 / 19, -10 / 19, 10 / 19], abs=1e-12)
    assert report["optimal_actions"] == [[0], [0, 1], [1]]
    assert (report["horizon"], report["discount"], report["optimal_return"]) == (
        100,
        0.9,
        pytest.approx(0, abs=1e-12),
    )


def test_return_and_value_are_two_objectives() -> None:
    report = solve_problem(open_problem("CounterWalkLong")).report
    assert report["optimal_return"] == pytest.approx(-98.0)
    # 99 steps at -1 and then +1, each discounted by 0.99.
    assert report["optimal_value"] == pytest.approx(-(1 - 0.99**99) / 0.01 + 0.99**99)


def test_the_regularized_value_is_the_discounted_value_less_the_discounted_divergence() -> None:
    problem = open_problem("CounterWalk")
    plain = solve_problem(problem).report
    report = solve_problem(problem, kl_coef=0.5).report
    assert report["regularized_value"] < plain["optimal_value"]
    assert report["regularized_value"] + 0.5 * report["kl"] <= plain["optimal_value"] + 1e-9
    assert solve_problem(problem, kl_coef=1e-6).report["regularized_value"] == pytest.approx(
        10 / 19, abs=1e-4
    )
    assert solve_problem(problem, kl_coef=1e6).report["kl"] == pytest.approx(0, abs=1e-9)


def test_a_figure_that_does_not_exist_is_none_and_the_note_says_why() -> None:
    report = solve_problem(open_problem("CounterWalk"), discount=1.0).report
    assert list(report) == KEYS
    assert report["optimal_value"] is None
    assert report["optimal_return"] == pytest.approx(0, abs=1e-12)
    assert "discount 1 without a horizon" in report["note"]


def test_long_lists_are_left_to_the_file(tmp_path: Path) -> None:
    solved = solve_problem(open_problem("CounterWalk", {"n_states": 1001, "goal": 1000}))
    assert solved.report["states"] == 1001
    assert solved.report["optimal_values"] is None
    solved.write_arrays(tmp_path / "walk.npz")
    with np.load(tmp_path / "walk.npz", allow_pickle=False) as arrays:
        assert arrays["value"].shape == (1, 1001)
        assert arrays["optimal_actions"][0, :1000, 0].all()


def test_bad_numbers_and_environments_without_tables_are_refused() -> None:
    problem = open_problem("CounterWalk")
    with pytest.raises(ValueError, match="kl_coef is -1"):
        solve_problem(problem, kl_coef=-1)
    with pytest.raises(ValueError, match=r"discount is 1\.5"):
        solve_problem(problem, discount=1.5)
    with pytest.raises(ValueError, match="has no exact answer"):
        solve_problem(open_problem("Blackjack"))


def test_flatterys_proxy_has_its_optimum_where_gold_is_lost() -> None:
    report = solve_problem(open_problem("Flattery"), source="proxy").report
    assert report["optimal_return"] == pytest.approx(3.5)
    assert report["gold"] == pytest.approx(-2.5)
    assert set(report["best_text"].split()) <= {"great", "wonderful"}
    gold = solve_problem(open_problem("Flattery")).report
    assert (gold["optimal_return"], gold["proxy"]) == (pytest.approx(2.5), pytest.approx(2.5))
    assert gold["best_text"] == "because evidence because evidence therefore"  # 1 + 1 + 0.5


def test_the_proxys_regularized_optimum_passes_through_the_peak_of_gold() -> None:
    report = solve_problem(open_problem("Flattery"), source="proxy", kl_coef=0.3474).report
    assert report["gold"] == pytest.approx(0.4737, abs=1e-4)
    assert report["kl"] == pytest.approx(2.155, abs=1e-3)


def test_an_unknown_source_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no reward channel is called 'prox': there are gold, proxy"):
        solve_problem(open_problem("Flattery"), source="prox")
