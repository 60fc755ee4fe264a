"""A named environment is made, read and measured."""

import pytest

from tokenwalk.agents.problem.problem import Lines, open_problem, parse_env_args


def test_the_lines_of_the_walk_are_its_exact_optimum_and_its_uniform_policy() -> None:
    lines = open_problem("CounterWalk").lines
    assert lines.optimal_return == pytest.approx(0.0, abs=1e-12)
    # The uniform walk over three states is in state 1 with 1/2 at odd times and 1/4, 1/2, 1/4 mixes at even ones;
    # the stationary share of state 1 is 1/3, so about 100 * (1/3 - 2/3), a little more from starting at 0.
    assert lines.reference_return == pytest.approx(-33.111111111, abs=1e-8)
    assert lines.charts["optimum"] == {"eval/return": 0.0, "eval/gold": 0.0, "rollout/ep_rew_mean": 0.0}


def test_a_score_is_one_at_the_optimum_zero_at_the_reference_and_may_be_negative() -> None:
    lines = Lines(10.0, 2.0, 10.0, 2.0, None)
    assert [lines.normalized_score(gold) for gold in (10.0, 2.0, -6.0)] == [1.0, 0.0, -1.0]
    assert lines.normalized_score(None) is None
    assert Lines(2.0, 2.0, 2.0, 2.0, None).normalized_score(2.0) is None


def test_without_a_time_limit_the_returns_are_those_until_termination() -> None:
    lines = open_problem("CliffWalking").lines
    assert lines.optimal_return == pytest.approx(-13.0)
    assert lines.reference_return is not None
    assert lines.reference_return < -10_000


def test_a_missing_line_has_its_reason_and_is_left_out_of_the_charts() -> None:
    problem = open_problem("CounterWalk", {"max_episode_steps": -1})
    assert problem.lines.optimal_return is None
    assert "discount" in str(problem.lines.note)
    assert problem.lines.charts == {}


def test_an_environment_without_tables_says_what_would_have_them() -> None:
    problem = open_problem("Blackjack")
    assert problem.mdp is None
    assert "has no tables" in problem.reason
    assert problem.lines.charts == {}


def test_environment_arguments_are_python_values_where_they_can_be() -> None:
    assert parse_env_args(["a=1", "b=0.5", "c=True", "d=Keyword", "e=[1, 2]"]) == {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": "Keyword",
        "e": [1, 2],
    }
    with pytest.raises(ValueError, match="key=value"):
        parse_env_args(["n_states"])


def test_wrong_names_and_arguments_are_told_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="did you mean CounterWalk"):
        open_problem("CountWalk")
    with pytest.raises(ValueError, match=r"does not take these arguments.*bogus"):
        open_problem("CounterWalk", {"bogus": 1})
    with pytest.raises(ValueError, match="n_states is 1: give an integer of 2 or more"):
        open_problem("CounterWalk", {"n_states": 1})
