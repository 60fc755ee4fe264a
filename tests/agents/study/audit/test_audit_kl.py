"""``tokenwalk audit kl``: what it says of placements and estimators, and of a person's choice."""

from dataclasses import replace
from typing import Any

import pytest

from tokenwalk.agents.exact_tokens.completions import TreeTooLargeError
from tokenwalk.agents.policy_gradient.config import PLACEMENTS
from tokenwalk.agents.study.audit.audit_kl import SMALL, Choice, audit_kl
from tokenwalk.envs.tasks import find_task

TINY = replace(SMALL, width=16)


def audit(agent: Any = "rloo", updates: int = 30, **fields: Any) -> dict[str, Any]:
    return audit_kl(find_task("Flattery"), Choice(agent, replace(TINY, **fields), updates=updates))


def test_the_table_is_that_of_the_formulas_and_the_default_climbs_what_is_meant() -> None:
    report = audit()
    errors = {row["placement"]: row["relative_error"] for row in report["placements"]}
    assert tuple(errors) == PLACEMENTS
    assert errors["k1-in-reward"] == errors["k2-loss"] == 0.0
    assert errors["k1-loss"] == pytest.approx(1.0)
    assert errors["k2-token-loss"] == pytest.approx(errors["full-loss"])
    assert 0.05 < errors["k2-token-loss"] < errors["k3-token-loss"] < errors["k3-in-reward"]
    assert next(row for row in report["placements"] if row["placement"] == "k1-loss")["cosine"] == 0.0
    assert report["verdict"] == "unbiased"
    assert 0.1 < report["kl"] < 6
    agents = [(row["agent"], row["normalization"]) for row in report["estimators"]]
    assert ("grpo", "constant") in agents
    assert ("rloo", None) in agents


@pytest.mark.slow
@pytest.mark.parametrize(
    ("agent", "fields", "verdict"),
    [
        ("grpo", {"kl": "k3-token-loss"}, "turned"),
        ("grpo", {"normalization": "constant"}, "shorter"),
        ("rloo", {"kl": "k3-in-reward", "kl_coef": 1.0}, "turned"),
        ("reinforce", {"kl": "k2-loss"}, "unbiased"),
    ],
)
def test_a_choice_is_judged(agent: str, fields: dict[str, Any], verdict: str) -> None:
    assert audit(agent, **fields)["verdict"] == verdict


def test_without_a_kl_there_are_no_placements() -> None:
    assert audit(kl_coef=0.0, updates=5)["placements"] == []


def test_a_task_of_too_many_texts_and_too_few_updates_are_refused() -> None:
    with pytest.raises(TreeTooLargeError, match="Keyword"):
        audit_kl(find_task("Keyword"), Choice())
    with pytest.raises(ValueError, match="updates is 1"):
        audit(updates=1)
    with pytest.raises(ValueError, match="the KL of a model to itself is 0"):
        audit(kl_to="model")
