"""``tokenwalk audit kl``: what a policy gradient and its KL really climb, against the exact gradient of the same model."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tokenwalk.agents.backprop.lm import TokenLM
from tokenwalk.agents.exact_tokens.completions import MAX_PREFIXES, TreeTooLargeError, count_prefixes
from tokenwalk.agents.learners.language import begin, language_model_file
from tokenwalk.agents.policy_gradient.config import (
    OPTIMIZES,
    PLACEMENTS,
    Algorithm,
    PolicyGradientConfig,
)
from tokenwalk.agents.policy_gradient.gradients import (
    compare,
    every_completion,
    exact_gradient,
    expected_gradient,
    in_double,
    sampled_gradient,
)
from tokenwalk.agents.policy_gradient.trainer import PolicyGradient
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.token_model import TokenModel, compose

EXACT = 1e-6  # a relative error below which an expectation is called exact
EXPLAINED = 3.0  # times the sampling error that is still called sampling
WARM_UP = 30_000  # tokens that RLOO writes before, so that the KL is not nothing
# What is compared beside the choice: agent, and of GRPO how it normalises.
ESTIMATORS: tuple[tuple[Algorithm, Any], ...] = (
    ("reinforce", "length"),
    ("rloo", "length"),
    ("grpo", "length"),
    ("grpo", "constant"),
    ("ppo-lm", "length"),
)


SMALL = PolicyGradientConfig(n_layers=1, n_heads=2, width=32)  # of a model that is not given


@dataclass(frozen=True)
class Choice:
    """What a person means to train with."""

    agent: Algorithm = "rloo"
    config: PolicyGradientConfig = SMALL
    seed: int = 0
    updates: int = 100


def audit_kl(task: Task, choice: Choice, told: Callable[[str], object] = lambda text: None) -> dict[str, Any]:
    """Return what each placement of the KL and each estimator climbs on ``task``, and what the choice does.

    Placements by enumeration, without sampling: their expected gradient of the KL alone. Estimators, and the choice, by
    ``updates`` updates that are written and not applied, of the whole objective; what sampling explains stands beside.

    Returns:
        task, model, kl (of the model to the task's reference policy, nats), kl_coef, placements (rows placement,
        relative_error, cosine, scale, optimizes; none where kl_coef is 0), estimators (rows agent, normalization, kl,
        group_size, relative_error, sampling_error, bias, cosine, scale), choice (one such
        row), verdict (unbiased, shorter or turned).

    Raises:
        TreeTooLargeError: there are too many completions for an exact gradient.
        ValueError: fewer than 2 updates, a group of one, a model of another task.
    """
    if choice.config.kl_to == "model":
        raise ValueError(
            "kl_to is 'model': the KL of a model to itself is 0 and has no gradient; give 'reference'"
        )
    if choice.updates < 2:
        raise ValueError(f"updates is {choice.updates}: an error needs 2 or more")
    if (size := count_prefixes(task)) > MAX_PREFIXES:
        raise TreeTooLargeError(task.name, size, MAX_PREFIXES, at_least=False)
    model = TokenModel(task, compose(task, "gold"))
    told("preparing the model")
    lm = in_double(_model_of(task, model, choice))
    told("enumerating")
    placements = _placements(lm, model, choice.config) if choice.config.kl_coef > 0 else []
    rows = []
    for agent, normalization in ESTIMATORS:
        told(f"sampling {agent}")
        config = replace(choice.config, kl="k1-in-reward", normalization=normalization)
        rows.append(_sampled(lm, model, agent, config, choice))
    told(f"sampling the choice, {choice.agent} with {choice.config.kl}")
    chosen = _sampled(lm, model, choice.agent, choice.config, choice)
    learner = PolicyGradient(lm, model, "reinforce", choice.config, seed=0)
    rollout, weight = every_completion(learner)
    kl = float((weight * (rollout.log_probs - rollout.reference).sum(dim=1)).sum())
    return {
        "task": task.name,
        "model": choice.config.model or f"the reference policy, after {WARM_UP:,} tokens of RLOO",
        "kl": kl,
        "kl_coef": choice.config.kl_coef,
        "placements": placements,
        "estimators": rows,
        "choice": chosen,
        "verdict": _verdict(chosen),
    }


def _model_of(task: Task, model: TokenModel, choice: Choice) -> TokenLM:
    config = choice.config
    if config.model is not None:
        return TokenLM.load(language_model_file(Path(config.model)), task)
    lm = begin(task, config, torch.device("cpu"), choice.seed)
    warm = replace(config, kl="k1-in-reward", kl_to="reference", learning_rate=3e-3, groups=16, group_size=16)
    PolicyGradient(lm, model, "rloo", warm, seed=choice.seed).learn(WARM_UP, lambda steps, figures: None)
    return lm


def _placements(lm: TokenLM, model: TokenModel, config: PolicyGradientConfig) -> list[dict[str, Any]]:
    """Return the expected gradient of the KL alone, by placement, against the exact one."""
    free = PolicyGradient(lm, model, "reinforce", replace(config, kl_coef=0.0), seed=0)
    everything = every_completion(free)
    paid, rewarded_exactly = expected_gradient(free, *everything), exact_gradient(free, *everything)
    rows = []
    for placement in PLACEMENTS:
        learner = PolicyGradient(lm, model, "reinforce", replace(config, kl=placement), seed=0)
        everything = every_completion(learner)
        found = expected_gradient(learner, *everything) - paid
        exact = exact_gradient(learner, *everything) - rewarded_exactly
        if float(found.norm()) < EXACT * float(exact.norm()):
            found = torch.zeros_like(found)  # rounding has no direction
        figures = compare(found, exact)
        rows.append(
            {
                "placement": placement,
                "relative_error": figures.relative_error if figures.relative_error > EXACT else 0.0,
                "cosine": figures.cosine,
                "scale": figures.scale,
                "optimizes": OPTIMIZES[placement],
            }
        )
    return rows


def _sampled(
    lm: TokenLM, model: TokenModel, agent: Algorithm, config: PolicyGradientConfig, choice: Choice
) -> dict[str, Any]:
    learner = PolicyGradient(lm, model, agent, config, seed=choice.seed)
    exact = exact_gradient(learner, *every_completion(learner))
    mean, error = sampled_gradient(learner, choice.updates)
    figures = compare(mean, exact, error)
    return {
        "agent": agent,
        "normalization": config.normalization if agent == "grpo" else None,
        "kl": config.kl,
        "group_size": config.group_size,
        **asdict(figures),
        "bias": figures.bias,
    }


def _verdict(chosen: dict[str, Any]) -> str:
    """Return "unbiased", "shorter" (or longer: the right direction at another length) or "turned"."""
    allowed = EXPLAINED * chosen["sampling_error"]
    if chosen["relative_error"] <= allowed:
        return "unbiased"
    away = (1 - min(1.0, chosen["cosine"]) ** 2) ** 0.5  # the sine: what no length mends
    return "shorter" if chosen["cosine"] > 0 and away * abs(chosen["scale"]) <= allowed else "turned"
