"""Does an added reward move the optimum? Decided exactly, state by state."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tokenwalk.agents.exact.bellman import Outcomes
from tokenwalk.agents.exact.dynamic_programming import optimal_actions, solve
from tokenwalk.agents.exact.evaluation import evaluate
from tokenwalk.envs.arrays import BoolArray
from tokenwalk.envs.tabular import TabularMDP

GOLD_TOLERANCE = 1e-9  # of the largest value: gold lost below this is rounding


@dataclass(frozen=True)
class Invariance:
    """What becomes of the optimum of ``paid`` when something is added to it.

    Attributes:
        unchanged: whether every reachable state has the same optimal actions with and without.
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
        """Return by how much the added reward's optimum earns less gold."""
        return self.gold_before - self.gold_after


def compare_optima(
    mdp: TabularMDP, paid: Mapping[str, float], added: Mapping[str, float], *, discount: float
) -> Invariance:
    """Return how the optimum of ``paid`` and ``added`` together differs from that of ``paid``, channel -> weight each.

    Raises:
        ValueError, NoFiniteAnswerError, NotConvergedError: as ``solve``.
    """
    both = {**paid, **{name: weight + paid.get(name, 0.0) for name, weight in added.items()}}
    before, after = (solve(mdp, weights, discount=discount) for weights in (paid, both))
    differ = (optimal_actions(mdp, before, paid) != optimal_actions(mdp, after, both)).any(axis=2)
    reached = reachable(mdp)
    changed = int((differ & reached).sum())
    gold = [evaluate(mdp, one.policy, discount=discount).returns["gold"] for one in (before, after)]
    return Invariance(changed == 0, changed, int(reached.sum()), *gold)


def reachable(mdp: TabularMDP) -> BoolArray:
    """Return which states some policy comes to, bool [T, S] by the time over a horizon, else [1, S]."""
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
