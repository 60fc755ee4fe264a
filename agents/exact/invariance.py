"""Whether an added reward changes the optimal policy, exactly and state by state."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tokenwalk.agents.exact.bellman import Outcomes
from tokenwalk.agents.exact.dynamic_programming import optimal_actions, solve
from tokenwalk.agents.exact.evaluation import evaluate
from tokenwalk.envs.arrays import BoolArray
from tokenwalk.envs.tabular import TabularMDP

GOLD_TOLERANCE = 1e-9  # of the largest value: smaller differences of gold are rounding


@dataclass(frozen=True)
class Invariance:
    """How the optimum of the training reward changes when another reward is added.

    Attributes:
        unchanged: whether every reachable state has the same optimal actions with and without the added reward.
        changed_states: reachable pairs of time and state (of states alone without a horizon) in which they differ.
        states: reachable pairs, or states.
        gold_before, gold_after: the gold of both optima, ties split per completion, from the start.
    """

    unchanged: bool
    changed_states: int
    states: int
    gold_before: float
    gold_after: float

    @property
    def gold_lost(self) -> float:
        """Return the gold of the optimum before minus the gold of the optimum after."""
        return self.gold_before - self.gold_after


def compare_optima(
    mdp: TabularMDP, train: Mapping[str, float], added: Mapping[str, float], *, discount: float
) -> Invariance:
    """Return how the optimum of ``train`` plus ``added`` differs from that of ``train``, each channel -> weight.

    Raises:
        ValueError, NoFiniteAnswerError, NotConvergedError: as ``solve``.
    """
    both = {**train, **{name: weight + train.get(name, 0.0) for name, weight in added.items()}}
    before, after = (solve(mdp, weights, discount=discount) for weights in (train, both))
    differ = (optimal_actions(mdp, before, train) != optimal_actions(mdp, after, both)).any(axis=2)
    reached = reachable(mdp)
    changed = int((differ & reached).sum())
    gold = [evaluate(mdp, one.policy, discount=discount).returns["gold"] for one in (before, after)]
    return Invariance(changed == 0, changed, int(reached.sum()), *gold)


def reachable(mdp: TabularMDP) -> BoolArray:
    """Return which states some policy reaches, bool [T, S] by time over a horizon, else [1, S]."""
    outcomes = Outcomes.of(mdp)
    everywhere = np.where(mdp.available, 1.0, 0.0)
    now, seen = mdp.start > 0, []
    if mdp.horizon is not None:
        for _ in range(mdp.horizon):
            seen.append(now)
            now = outcomes.push(everywhere * now[:, None]) > 0
        return np.stack(seen)
    while True:
        longer = now | (outcomes.push(everywhere * now[:, None]) > 0)
        if (longer == now).all():
            return now[None]
        now = longer
