"""``tokenwalk audit kl``: the errors of placements and estimators, and the verdict on a choice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tokenwalk.agents.exact_tokens.completions import TreeTooLargeError
from tokenwalk.agents.policy_gradient.config import PLACEMENTS
from tokenwalk.agents.study.audit import audit_kl as module
from tokenwalk.agents.study.audit.audit_kl import SMALL, Choice, _verdict, audit_agent, audit_kl, find_choice
from tokenwalk.envs.tasks import find_task

TINY = replace(SMALL, width=16)


def audit(agent: Any = "rloo", updates: int = 30, **fields: Any) -> dict[str, Any]:
    return audit_kl(find_task("Flattery"), Choice(agent, replace(TINY, **fields), updates=updates))


def test_the_errors_follow_the_formulas_and_the_default_is_unbiased() -> None:
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
def test_a_choice_has_the_verdict_of_its_bias(agent: str, fields: dict[str, Any], verdict: str) -> None:
    assert audit(agent, **fields)["verdict"] == verdict


def test_without_a_kl_there_are_no_placements() -> None:
    report = audit(kl_coef=0.0, updates=5)
    assert report["placements"] == []
    assert report["kl_coef"] == 0.0


def test_an_audit_by_name_equals_that_of_its_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ESTIMATORS", ())
    report = audit_agent("Flattery", "reinforce", updates=3)
    assert report == audit_kl(find_task("Flattery"), Choice("reinforce", SMALL, updates=3))
    assert report["choice"]["agent"] == "reinforce"
    with pytest.raises(
        ValueError, match="agent is 'sarsa': give one of reinforce, rloo, grpo, ppo-lm, or FILE"
    ):
        audit_agent("Flattery", "sarsa")


def test_too_many_completions_too_few_updates_and_the_models_own_kl_are_errors() -> None:
    with pytest.raises(TreeTooLargeError, match="Keyword"):
        audit_kl(find_task("Keyword"), Choice())
    with pytest.raises(ValueError, match="updates is 1"):
        audit(updates=1)
    with pytest.raises(ValueError, match="the KL of a model to itself is 0"):
        audit(kl_to="model")


CUSTOM = """
import tokenwalk


class Half(tokenwalk.PolicyGradient):
    algorithm = "rloo"
    factor = 0.5

    def advantages(self, rollout, rewards):
        return self.factor * super().advantages(rollout, rewards)


class Flipped(Half):
    factor = -1.0


class WithoutKL(tokenwalk.PolicyGradient):
    algorithm = "rloo"

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.kl_coef = 0.0
"""


@pytest.fixture
def custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "ESTIMATORS", (("rloo", "length"),))
    file = tmp_path / "custom.py"
    file.write_text(CUSTOM)
    return file


def audit_custom(file: Path, name: str, **fields: Any) -> dict[str, Any]:
    choice = find_choice(f"{file}:{name}", replace(TINY, **fields), updates=30)
    return audit_kl(find_task("Flattery"), choice)


def test_a_custom_algorithm_of_half_advantages_has_half_the_gradient_of_rloo(custom: Path) -> None:
    report = audit_custom(custom, "Half")
    rloo = next(row for row in report["estimators"] if row["agent"] == "rloo")
    assert report["choice"]["agent"] == "Half"
    assert report["choice"]["scale"] == pytest.approx(rloo["scale"] / 2, rel=1e-9)
    assert report["choice"]["cosine"] == pytest.approx(rloo["cosine"], rel=1e-9)
    assert report["choice"]["sampling_error"] == pytest.approx(rloo["sampling_error"] / 2, rel=1e-6)
    assert report["verdict"] == "shorter"


def test_a_custom_algorithm_of_the_wrong_sign_is_turned(custom: Path) -> None:
    report = audit_custom(custom, "Flipped")
    rloo = next(row for row in report["estimators"] if row["agent"] == "rloo")
    assert report["choice"]["scale"] == pytest.approx(-rloo["scale"], rel=1e-9)
    assert report["choice"]["relative_error"] == pytest.approx(2.0, abs=0.2)
    assert report["verdict"] == "turned"


def test_a_custom_algorithm_that_drops_the_kl_is_compared_with_the_objective_that_has_it(
    custom: Path,
) -> None:
    report = audit_custom(custom, "WithoutKL", kl_coef=2.0)
    rloo = next(row for row in report["estimators"] if row["agent"] == "rloo")
    assert rloo["bias"] < 0.2
    assert report["choice"]["bias"] > 0.5
    assert report["verdict"] == "turned"


@pytest.mark.parametrize(
    ("chosen", "verdict"),
    [
        ({"relative_error": 0.3, "cosine": 0.99, "scale": 1.0}, "unbiased"),  # 3 sampling errors of 0.1
        ({"relative_error": 0.5, "cosine": 1.0, "scale": 0.5}, "shorter"),
        ({"relative_error": 1.0, "cosine": 1.0, "scale": 2.0}, "shorter"),  # or longer
        ({"relative_error": 0.7, "cosine": 0.8, "scale": 1.0}, "turned"),  # the sine is 0.6
        ({"relative_error": 2.0, "cosine": -1.0, "scale": -1.0}, "turned"),
    ],
)
def test_the_verdict_separates_sampling_length_and_direction(chosen: dict[str, float], verdict: str) -> None:
    assert _verdict({**chosen, "sampling_error": 0.1 if verdict != "unbiased" else 0.1 + 1e-12}) == verdict
