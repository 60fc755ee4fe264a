"""A score says the same of a policy whether it is read off tables or off the tree of its texts."""

from dataclasses import replace

import numpy as np
import pytest

from tokenwalk.agents.evaluation.policies import TablePolicies, TokenPolicy
from tokenwalk.agents.evaluation.score import Score, score
from tokenwalk.agents.exact_tokens.token_policy import table_policy
from tokenwalk.agents.problem.problem import open_problem


def figures(score: Score) -> list[float | None]:
    return [score.gold, score.proxy, score.kl, score.entropy, score.regret]


@pytest.mark.parametrize("reward", ["gold", "proxy"])
def test_tables_and_the_tree_agree_on_every_figure_of_a_policy(reward: str) -> None:
    problem = open_problem("Flattery", reward=[reward])
    assert problem.tokens is not None
    policies = problem.best.policy[np.newaxis]
    by_tables = score(problem, TablePolicies(policies))
    by_tree = score(problem, TokenPolicy(table_policy(problem.tokens, policies[0])))
    assert by_tree.exact
    assert figures(by_tables) == pytest.approx(figures(by_tree), abs=1e-9)
    assert by_tables.regret == pytest.approx(0, abs=1e-9)


def test_the_kl_of_the_one_best_text_is_what_it_costs_to_write_it() -> None:
    # Two texts earn 2.5: "because evidence because evidence therefore" and "... therefore because evidence", of one chance.
    problem = open_problem("Flattery")
    found = score(problem, TablePolicies(problem.best.policy[np.newaxis]))
    of_one = np.log([0.30, 0.22, 0.30, 0.22, 0.22]).sum()
    assert found.kl == pytest.approx(-(of_one + np.log(2)))
    assert found.entropy == pytest.approx(np.log(2))


def test_a_policy_that_plays_what_the_reference_never_plays_has_no_finite_kl() -> None:
    problem = open_problem("CounterWalk")
    assert problem.mdp is not None
    never = np.where([True, False], 0.0, -np.inf) + np.zeros_like(problem.mdp.log_reference)
    held = replace(problem, mdp=replace(problem.mdp, log_reference=never))
    up_and_down = np.full((1, 1, 3, 2), 0.5)
    found = score(held, TablePolicies(up_and_down))
    assert found.kl is None
    assert "eval/kl" not in found.as_metrics()
