"""``tokenwalk audit kl``: the gradient of a policy-gradient algorithm and its KL beside the exact gradient."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tokenwalk.agents.backprop.lm import TokenLM
from tokenwalk.agents.exact_tokens.completions import MAX_PREFIXES, TreeTooLargeError, count_prefixes
from tokenwalk.agents.learners.language import begin, language_model_file
from tokenwalk.agents.learners.registry import find_agent
from tokenwalk.agents.policy_gradient.config import (
    ALGORITHMS,
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
from tokenwalk.envs.loading import is_place
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import TokenModel, compose

EXACT = 1e-6  # relative error below which an expected gradient counts as exact
SAMPLING_ERRORS = 3.0  # sampling errors within which a gradient counts as unbiased
WARM_UP = 30_000  # tokens of RLOO before the audit, so that the KL is above 0
# The estimators beside the choice: algorithm, and GRPO's normalization.
ESTIMATORS: tuple[tuple[Algorithm, Any], ...] = (
    ("reinforce", "length"),
    ("rloo", "length"),
    ("grpo", "length"),
    ("grpo", "constant"),
    ("ppo-lm", "length"),
)


SMALL = PolicyGradientConfig(n_layers=1, n_heads=2, width=32)  # of the model where none is given


@dataclass(frozen=True)
class Choice:
    """The algorithm to audit.

    Attributes:
        agent: the algorithm; of a custom class, the one that it starts from.
        config: its settings.
        seed: of the model and the samples.
        updates: gradients to sample.
        custom: a custom subclass of ``PolicyGradient``; None for the algorithm itself.
    """

    agent: Algorithm = "rloo"
    config: PolicyGradientConfig = SMALL
    seed: int = 0
    updates: int = 100
    custom: type[PolicyGradient] | None = None

    @property
    def name(self) -> str:
        """Return the algorithm's name, or the name of the custom class."""
        return self.agent if self.custom is None else self.custom.__name__


def find_choice(
    agent: str, config: PolicyGradientConfig = SMALL, *, seed: int = 0, updates: int = 100
) -> Choice:
    """Return the choice of the agent called ``agent``: an algorithm, or FILE.py:CLASS of a custom ``PolicyGradient``.

    Raises:
        ValueError: an unknown agent, or one that is no policy gradient.
    """
    custom = find_agent(agent).custom if is_place(agent) else None
    algorithm = agent if custom is None else custom.algorithm
    if algorithm not in ALGORITHMS:
        raise ValueError(
            f"agent is {agent!r}: give one of {', '.join(ALGORITHMS)}, or FILE.py:CLASS of a subclass of PolicyGradient"
        )
    return Choice(algorithm, config, seed, updates, None if custom is None else custom.type)


def audit_agent(task: str, agent: str = "rloo", *, updates: int = 100, seed: int = 0) -> dict[str, Any]:
    """Return ``audit_kl`` of the agent called ``agent`` with its default settings, on the task called ``task``.

    Raises:
        ValueError: an unknown task or agent, or a task of too many completions.
    """
    return audit_kl(find_task(task), find_choice(agent, seed=seed, updates=updates))


def audit_kl(
    task: Task, choice: Choice, on_stage: Callable[[str], object] = lambda text: None
) -> dict[str, Any]:
    """Return the error of each KL placement, each estimator and the choice against the exact gradient on ``task``.

    Placements: the expected gradient of the KL alone, by enumeration. Estimators and choice: the mean gradient of
    ``updates`` sampled updates that are not applied, of the whole objective, with its sampling error.

    Returns:
        task, model, kl (of the model to the task's reference policy, nats), kl_coef, placements (rows placement,
        relative_error, cosine, scale, optimizes; none where kl_coef is 0), estimators (rows agent, normalization, kl,
        group_size, relative_error, sampling_error, bias, cosine, scale), choice (one such
        row), verdict (unbiased, shorter or turned).

    Raises:
        TreeTooLargeError: too many completions for an exact gradient.
        ValueError: fewer than 2 updates, a group of one, a model of another task.
    """
    if choice.config.kl_to == "model":
        raise ValueError(
            "kl_to is 'model': the KL of a model to itself is 0 and has no gradient; give 'reference'"
        )
    if choice.updates < 2:
        raise ValueError(f"updates is {choice.updates}: the sampling error needs 2 or more")
    if (size := count_prefixes(task)) > MAX_PREFIXES:
        raise TreeTooLargeError(task.name, size, MAX_PREFIXES, at_least=False)
    model = TokenModel(task, compose(task, "gold"))
    on_stage("preparing the model")
    lm = in_double(_model_of(task, model, choice))
    on_stage("enumerating")
    placements = _placements(lm, model, choice.config) if choice.config.kl_coef > 0 else []
    rows = []
    for agent, normalization in ESTIMATORS:
        on_stage(f"sampling {agent}")
        config = replace(choice.config, kl="k1-in-reward", normalization=normalization)
        rows.append(_sampled(lm, model, replace(choice, agent=agent, config=config, custom=None)))
    on_stage(f"sampling the choice, {choice.name} with {choice.config.kl}")
    chosen = _sampled(lm, model, choice)
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
    PolicyGradient(lm, model, "rloo", warm, seed=choice.seed).learn(WARM_UP, lambda steps, metrics: None)
    return lm


def _placements(lm: TokenLM, model: TokenModel, config: PolicyGradientConfig) -> list[dict[str, Any]]:
    """Return the expected gradient of the KL alone, by placement, against the exact one."""
    no_kl = PolicyGradient(lm, model, "reinforce", replace(config, kl_coef=0.0), seed=0)
    everything = every_completion(no_kl)
    reward_found, reward_exact = expected_gradient(no_kl, *everything), exact_gradient(no_kl, *everything)
    rows = []
    for placement in PLACEMENTS:
        learner = PolicyGradient(lm, model, "reinforce", replace(config, kl=placement), seed=0)
        everything = every_completion(learner)
        found = expected_gradient(learner, *everything) - reward_found
        exact = exact_gradient(learner, *everything) - reward_exact
        if float(found.norm()) < EXACT * float(exact.norm()):
            found = torch.zeros_like(found)  # a rounding error has no direction
        metrics = compare(found, exact)
        rows.append(
            {
                "placement": placement,
                "relative_error": metrics.relative_error if metrics.relative_error > EXACT else 0.0,
                "cosine": metrics.cosine,
                "scale": metrics.scale,
                "optimizes": OPTIMIZES[placement],
            }
        )
    return rows


def _sampled(lm: TokenLM, model: TokenModel, choice: Choice) -> dict[str, Any]:
    """Return the row of the mean sampled gradient of ``choice`` against the exact gradient."""
    agent, config = choice.agent, choice.config
    # The objective is that of the algorithm itself: a custom class must not redefine what it is compared with.
    objective = PolicyGradient(lm, model, agent, config, seed=choice.seed)
    exact = exact_gradient(objective, *every_completion(objective))
    learner = (choice.custom or PolicyGradient)(lm, model, agent, config, seed=choice.seed)
    mean, error = sampled_gradient(learner, choice.updates)
    metrics = compare(mean, exact, error)
    return {
        "agent": choice.name,
        "normalization": config.normalization if agent == "grpo" else None,
        "kl": config.kl,
        "group_size": config.group_size,
        **asdict(metrics),
        "bias": metrics.bias,
    }


def _verdict(chosen: dict[str, Any]) -> str:
    """Return "unbiased", "shorter" (the right direction, shorter or longer) or "turned" (another direction)."""
    allowed = SAMPLING_ERRORS * chosen["sampling_error"]
    if chosen["relative_error"] <= allowed:
        return "unbiased"
    sine = (1 - min(1.0, chosen["cosine"]) ** 2) ** 0.5  # the error that no learning rate corrects
    return "shorter" if chosen["cosine"] > 0 and sine * abs(chosen["scale"]) <= allowed else "turned"
