"""Evaluation of any policy over tokens: exact where its tables or prefix tree are small enough, else by sampling."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Literal

import numpy as np

from tokenwalk.agents.exact.dynamic_programming import check_coefficients
from tokenwalk.agents.exact.evaluation import DOMINANCE_TOLERANCE, DominanceError, evaluate
from tokenwalk.agents.exact.intervals import NORMAL_95, NORMAL_9999, half_width
from tokenwalk.agents.exact_tokens.completions import (
    MAX_PREFIXES,
    Completions,
    TreeTooLargeError,
    against,
    enumerate_completions,
    sample_completions,
)
from tokenwalk.agents.exact_tokens.exact_tables import optimal_value, train_weights
from tokenwalk.agents.exact_tokens.token_policy import AutomatonPolicy, Policy
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.automaton import product
from tokenwalk.envs.rewards.source import Source
from tokenwalk.envs.tabular import TabularMDP, check_size
from tokenwalk.envs.token_model import TokenModel

SAMPLES = 10_000
SHOWN, ALARM = (
    0.05,
    0.0001,
)  # probability outside the reported interval, and outside that of ``DominanceError``
QUANTILES = {SHOWN: NORMAL_95, ALARM: NORMAL_9999}


@dataclass(frozen=True)
class TokenEvaluation:
    """Returns, KL and entropy of a policy, over prompts by their weights; of whole completions, undiscounted.

    Attributes:
        method: "product" and "tree" are exact, "monte carlo" is an estimate.
        return_: the training return, the weighted sum of the trained sources.
        returns: of each source by name, unweighted.
        kl: to the task's reference policy, or to the ``reference`` of ``evaluate_tokens``, in nats; infinite where the
            reference gives a completion of the policy probability 0.
        entropy: of the completions, given their prompts, in nats.
        length: tokens, ``<eos>`` included.
        kl_coef: as asked.
        optimum: the largest ``regularized_return`` of any policy, exact; None if it is not known.
        size: the states of the product, the completions of the tree, or the samples.
        intervals: 95 % intervals of an estimate: "return", "regularized_return", "kl", "entropy", "length", "regret",
            and "reward/NAME" of each source; empty if the figures are exact.
    """

    method: Literal["product", "tree", "monte carlo"]
    return_: float
    returns: Mapping[str, float]
    kl: float
    entropy: float
    length: float
    kl_coef: float
    optimum: float | None
    size: int
    intervals: Mapping[str, tuple[float, float]]

    @property
    def exact(self) -> bool:
        """Return whether the figures are exact."""
        return self.method != "monte carlo"

    @property
    def gold(self) -> float:
        """Return the gold return."""
        return self.returns["gold"]

    @property
    def proxy(self) -> float | None:
        """Return the return by the task's proxy, None where it has none."""
        return self.returns.get("proxy")

    @property
    def regularized_return(self) -> float:
        """Return the training return minus ``kl_coef`` times the KL."""
        return self.return_ - self.kl_coef * self.kl if self.kl_coef > 0 else self.return_

    @property
    def regret(self) -> float | None:
        """Return by how much ``regularized_return`` falls short of the optimum; None where that is not known."""
        return None if self.optimum is None else self.optimum - self.regularized_return


def evaluate_tokens(
    model: TokenModel,
    policy: Policy,
    *,
    kl_coef: float = 0.0,
    optimum: float | None = None,
    reference: Policy | None = None,
    limit: int = MAX_PREFIXES,
    samples: int = SAMPLES,
    rng: np.random.Generator | None = None,
) -> TokenEvaluation:
    """Return every figure of ``policy``, in the first of three ways that is possible.

    On the product of the policy's automaton and the machines, where it has one and every source is a machine; on
    the prefix tree of the policy's completions, up to ``limit`` prefixes; else by Monte Carlo.

    Args:
        model: the task and its sources: ``env.unwrapped.model``.
        policy: see ``Policy``.
        kl_coef: the weight of the KL in the regularized return.
        optimum: ``optimal_value`` of the same model and ``kl_coef``; None: it is computed here.
        reference: the policy that the KL is to; the task's reference policy if None.
        limit: prefixes, complete ones included, of a tree.
        samples: completions to sample where neither is possible, 2 or more.
        rng: of the samples; ``np.random.default_rng(0)`` if None.

    Raises:
        ValueError: invalid probabilities, or a ``kl_coef``, ``limit`` or ``samples`` out of range.
        SourceContractError: a source that returned invalid rewards.
        DominanceError: the policy was evaluated above the optimum (an estimate: with its whole 99.99 % interval).
    """
    check_coefficients(1.0, kl_coef)
    if optimum is None:
        optimum = optimal_value(model, kl_coef=kl_coef, limit=limit, reference=reference)
    if isinstance(policy, AutomatonPolicy) and not model.others and reference is None:
        result = _on_product(model, policy, kl_coef, optimum)
    else:
        try:
            completions = against(
                model.task, reference, enumerate_completions(model.task, policy, limit=limit)
            )
            result = _on_tree(model, completions, kl_coef, optimum)
        except TreeTooLargeError:
            if samples < 2:
                raise ValueError(f"samples is {samples}: an interval needs 2 or more") from None
            rng = np.random.default_rng(0) if rng is None else rng
            sampled = against(model.task, reference, sample_completions(model.task, policy, samples, rng))
            return _from_samples(model, sampled, kl_coef, optimum)
    if result.regret is not None:
        _check_dominance(result.regularized_return, result)
    return result


def _on_product(
    model: TokenModel, policy: AutomatonPolicy, kl_coef: float, optimum: float | None
) -> TokenEvaluation:
    """Return the figures of an automaton policy, over the product of its states and those of the machines."""
    reference = model.task.reference
    joint = product(
        [model.next_state, reference.next_context, policy.next_state],
        [model.start, reference.start, policy.start],
    )
    state, context, own = joint.members.T
    shape = (*joint.next_state.shape, 1)
    check_size(*shape)
    step, last = (
        model.transition(
            np.repeat(state, shape[1]),
            np.tile(np.arange(shape[1]), shape[0]),
            np.full(shape[0] * shape[1], at_horizon),
        ).reward_terms
        for at_horizon in (False, True)
    )
    columns = {one.name: model.logged[f"reward/{one.name}"] for one in model.composition.sources}
    ends = np.zeros(shape, dtype=np.bool_)
    ends[:, model.task.vocabulary.eos] = True
    weights = model.task.prompt_weights
    with np.errstate(divide="ignore"):
        log_reference = np.log(reference.probability[context])
    mdp = TabularMDP(
        next_state=joint.next_state[:, :, None],
        probability=np.ones(shape),
        terminated=ends,
        rewards={name: step[:, column].reshape(shape) for name, column in columns.items()},
        last_rewards={n: (last - step)[:, column].reshape(shape[:2]) for n, column in columns.items()},
        available=np.ones(shape[:2], np.bool_)
        if reference.available is None
        else reference.available[context],
        log_reference=log_reference,
        start=np.bincount(np.broadcast_to(joint.start, weights.shape), weights, shape[0]).astype(np.float64),
        horizon=model.task.horizon,
        horizon_terminates=True,
    )
    found = evaluate(mdp, policy.table[:, own])
    return_ = found.value(train_weights(model.composition))
    return TokenEvaluation(
        "product",
        return_,
        found.returns,
        found.kl,
        found.entropy,
        found.length,
        kl_coef,
        optimum,
        shape[0],
        {},
    )


def _figures(model: TokenModel, completions: Completions) -> dict[str, FloatArray]:
    """Return every figure of each completion, float64 [B]; their expectations are those of the policy."""
    scores = completions.scores(model.task, model.composition.sources)
    return {
        "return": model.composition.train_reward(model.composition.weighted(scores)),
        "kl": completions.log_prob - completions.log_reference,
        "entropy": -completions.log_prob,
        "length": completions.length.astype(np.float64),
        **{f"reward/{name}": score for name, score in scores.items()},
    }


def _on_tree(
    model: TokenModel, completions: Completions, kl_coef: float, optimum: float | None
) -> TokenEvaluation:
    """Return the figures of a policy from all of its completions."""
    weight = completions.weights(model.task)
    seen = weight > 0  # a probability that underflowed to 0, times an infinite KL, is NaN
    means = {
        name: float(weight[seen] @ values[seen]) for name, values in _figures(model, completions).items()
    }
    return _result(model, means, kl_coef, optimum, len(completions))


def _from_samples(
    model: TokenModel, sampled: Completions, kl_coef: float, optimum: float | None
) -> TokenEvaluation:
    """Return the figures of a policy estimated from samples of it, with intervals."""
    figures = _figures(model, sampled)
    means = {name: float(values.mean()) for name, values in figures.items()}
    ranges = {f"reward/{one.name}": _range(one, model.task.horizon) for one in model.composition.sources}
    ends = [
        sorted(weight * end for end in ranges[f"reward/{one.name}"])
        for one, weight in model.composition.train
    ]
    ranges["return"] = sum(low for low, _ in ends), sum(high for _, high in ends)
    figures["regularized_return"] = figures["return"] - (kl_coef * figures["kl"] if kl_coef > 0 else 0.0)
    if kl_coef == 0:
        ranges["regularized_return"] = ranges["return"]
    intervals = {name: _interval(values, SHOWN, ranges.get(name)) for name, values in figures.items()}
    if optimum is not None:
        low, high = intervals["regularized_return"]
        intervals["regret"] = optimum - high, optimum - low
    result = _result(model, means, kl_coef, optimum, len(sampled), intervals)
    if optimum is not None:
        regularized = figures["regularized_return"]
        _check_dominance(_interval(regularized, ALARM, ranges.get("regularized_return"))[0], result)
    return result


def _range(source: Source, horizon: int) -> tuple[float, float]:
    """Return the bounds of the sum of the source's scores over a completion."""
    times = 1 if source.timing == "end" else horizon
    return min(source.low, source.low * times), max(source.high, source.high * times)


def _interval(values: FloatArray, outside: float, span: tuple[float, float] | None) -> tuple[float, float]:
    """Return the interval of the mean of ``values`` [n] that misses it with probability ``outside``.

    If all samples agree, the normal interval is a point, although unseen completions may differ. Then the rule of three
    is used: an event not seen in n samples has a probability below log(1 / outside) / n, and may have a return at
    either end of ``span``.
    """
    mean = float(values.mean())
    if not np.isfinite(mean):
        return mean, mean
    half = half_width(values, QUANTILES[outside])
    if half == 0 and span is not None:
        unseen = min(1.0, -log(outside) / len(values))
        return mean - unseen * (mean - span[0]), mean + unseen * (span[1] - mean)
    return mean - half, mean + half


def _result(
    model: TokenModel,
    means: Mapping[str, float],
    kl_coef: float,
    optimum: float | None,
    size: int,
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> TokenEvaluation:
    """Return the evaluation whose figures are ``means``: of samples where there are intervals, else of the tree."""
    method: Literal["tree", "monte carlo"] = "tree" if intervals is None else "monte carlo"
    returns = {one.name: means[f"reward/{one.name}"] for one in model.composition.sources}
    kl, entropy, length = (means[name] for name in ("kl", "entropy", "length"))
    return TokenEvaluation(
        method, means["return"], returns, kl, entropy, length, kl_coef, optimum, size, intervals or {}
    )


def _check_dominance(reached: float, result: TokenEvaluation) -> None:
    """Raise DominanceError where ``reached`` exceeds the optimum by more than 1e-9 of the larger one."""
    assert result.optimum is not None
    if reached - result.optimum > DOMINANCE_TOLERANCE * max(1.0, abs(result.optimum), abs(reached)):
        raise DominanceError(
            f"the policy was evaluated ({result.method}) at {reached!r}, above the optimum {result.optimum!r} "
            f"(kl_coef {result.kl_coef}): they are not of the same task and sources, or one is wrong"
        )
