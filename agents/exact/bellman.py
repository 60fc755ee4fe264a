"""The parts of every exact answer: the outcomes of a step, a policy's Markov chain and its linear equations."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray
from tokenwalk.envs.tabular import TabularMDP

DENSE_STATES = 2_000  # up to here a chain is solved by np.linalg.solve: 32 MB a matrix, 0.2 s
MAX_SWEEPS = 100_000
RESIDUAL_TOLERANCE = 1e-10  # of an equation, relative to its largest value
ERROR_TOLERANCE = 1e-8  # of an answer, relative to its largest value
# Two values tie where they differ by less than this, relative to the largest absolute value. Sums of the same rewards
# in another order differ by about 1e-15 a term, and a linear solve may err by more. Rewards that differ on purpose
# differ by far more.
TIE_TOLERANCE = 1e-9


class NoFiniteAnswerError(ValueError):
    """The problem has no finite answer: an episode may never end and the discount is 1."""


class NotConvergedError(ArithmeticError):
    """The answer is not exact enough to be returned.

    Attributes:
        residual: the largest violation of the equation, in the unit of the answer.
    """

    def __init__(self, message: str, residual: float = float("nan")) -> None:
        super().__init__(message)
        self.residual = residual


@dataclass(frozen=True)
class Outcomes:
    """The K outcomes of every state and action; the value after the end of an episode is 0.

    Two states are added. S is the state after the end of an episode. Outcomes of probability 0 lead to S + 1. A
    gather then needs no mask, and a value of -inf is never multiplied by a probability of 0.
    """

    following: IntArray  # [K, S, A], in 0..S+1
    probability: FloatArray  # [K, S, A]

    @classmethod
    def of(cls, mdp: TabularMDP) -> "Outcomes":
        """Return the outcomes of ``mdp``."""
        following = np.where(mdp.terminated, mdp.n_states, mdp.next_state)
        following[mdp.probability <= 0] = mdp.n_states + 1
        probability = np.ascontiguousarray(np.moveaxis(mdp.probability, 2, 0))
        if len(probability) == 1:  # exactly 1 without rounding: ``average`` and ``expect`` need no product
            probability = np.ones_like(probability)
        return cls(np.ascontiguousarray(np.moveaxis(following, 2, 0)), probability)

    @property
    def n_states(self) -> int:
        """Return S."""
        return int(self.following.shape[1])

    def ended_in(self, states: BoolArray) -> "Outcomes":
        """Return the same with every step out of ``states`` [S] ending the episode."""
        return replace(self, following=np.where(states[:, None], self.n_states, self.following))

    def average(self, table: FloatArray) -> FloatArray:
        """Return E[table | s, a], [S, A], for a reward ``table`` [S, A, K]."""
        if len(self.probability) == 1:
            return table[:, :, 0]
        mean: FloatArray = np.einsum("kij,ijk->ij", self.probability, table)
        return mean

    def expect(self, value: FloatArray) -> FloatArray:
        """Return E[value of the next state | s, a], [S, A], for ``value`` [S]."""
        extended = np.append(value, (0.0, 0.0))
        if len(self.following) == 1:
            single: FloatArray = extended.take(self.following[0])
            return single
        total = np.zeros(self.following.shape[1:])
        for following, probability in zip(self.following, self.probability, strict=True):
            total += probability * extended.take(following)
        return total

    def push(self, mass: FloatArray) -> FloatArray:
        """Return the distribution of ``mass`` [S, A] after one step, [S]; ended episodes are left out."""
        arrived = np.zeros(self.n_states + 2)
        for following, probability in zip(self.following, self.probability, strict=True):
            arrived += np.bincount(following.ravel(), (mass * probability).ravel(), len(arrived))
        return arrived[: self.n_states]

    def may_enter(self, target: BoolArray, ended: bool) -> BoolArray:
        """Return which actions may lead into ``target`` [S] (or, if ``ended``, to the end), bool [S, A]."""
        return np.asarray(np.append(target, (ended, False)).take(self.following).any(axis=0))

    def way_to(self, target: BoolArray, allowed: BoolArray, ended: bool) -> IntArray:
        """Return the first ``allowed`` [S, A] action of a shortest way to ``target`` (or the end), int64 [S].

        It is -1 in ``target`` itself and where there is no way.
        """
        action = np.full(self.n_states, -1, dtype=np.int64)
        reached = target.copy()
        while True:
            leads = allowed & self.may_enter(reached, ended)
            new = leads.any(axis=1) & ~reached
            if not new.any():
                return action
            action[new] = leads[new].argmax(axis=1)
            reached |= new

    def way_out(self, allowed: BoolArray) -> IntArray:
        """Return the first ``allowed`` [S, A] action of a shortest way to the end, else -1, int64 [S]."""
        return self.way_to(np.zeros(self.n_states, dtype=np.bool_), allowed, ended=True)

    def sure_to_end(self, support: BoolArray) -> BoolArray:
        """Return the states, bool [S], from which a policy of that ``support`` [S, A] ends almost surely."""
        stuck = self.way_out(support) < 0
        return ~stuck & (self.way_to(stuck, support, ended=False) < 0)

    def able_to_end(self, allowed: BoolArray) -> tuple[BoolArray, BoolArray]:
        """Return the states, bool [S], from which some policy over ``allowed`` [S, A] ends almost surely.

        The second array, [S, A], is the part of ``allowed`` that never leaves those states: a policy that plays
        all of its actions ends almost surely.
        """
        while True:
            able = self.way_out(allowed) >= 0
            kept = allowed & able[:, None] & ~self.may_enter(~able, ended=False)
            if (kept == allowed).all():
                return able, kept
            allowed = kept

    def chain(self, policy: FloatArray) -> "Chain":
        """Return the chain of states under ``policy`` [S, A]."""
        rows, columns, weights = [], [], []
        for following, probability in zip(self.following, self.probability, strict=True):
            weight = policy * probability
            row, action = np.nonzero((weight > 0) & (following < self.n_states))
            rows.append(row)
            columns.append(following[row, action])
            weights.append(weight[row, action])
        return Chain(self.n_states, np.concatenate(rows), np.concatenate(columns), np.concatenate(weights))


@dataclass(frozen=True)
class Chain:
    """A Markov chain: P[row, column] is the sum of its ``weight``; a row lacks the probability of the end."""

    n_states: int
    row: IntArray  # [N]
    column: IntArray  # [N]
    weight: FloatArray  # [N]

    def pull(self, value: FloatArray) -> FloatArray:
        """Return P value, [S]: the expectation of ``value`` [S] after one step."""
        return _sum_at(self.row, self.weight * value.take(self.column), self.n_states)

    def push(self, mass: FloatArray) -> FloatArray:
        """Return P^T mass, [S]: the distribution of ``mass`` [S] after one step."""
        return _sum_at(self.column, self.weight * mass.take(self.row), self.n_states)

    def solve(
        self, right: FloatArray, discount: float, guess: FloatArray | None = None
    ) -> tuple[FloatArray, float]:
        """Return v = right + discount P v, [S], and a bound on its error; ``guess`` [S] may save sweeps.

        The bound is the error of one step times the largest expected (discounted) number of steps, which is the
        norm of (I - discount P)^-1.

        Raises:
            NotConvergedError: the residual exceeds 1e-10 or the bound 1e-8 of the largest value.
        """
        if self.n_states <= DENSE_STATES:
            both = _solve_dense(self._system(discount), np.stack([right, np.ones(self.n_states)], axis=1))
            value, longest = both[:, 0], float(np.abs(both[:, 1]).max())
        else:
            first = np.zeros(self.n_states) if guess is None else guess
            value = _sweep(lambda v: right + discount * self.pull(v), first)
            longest = self._longest(discount)
        residual = float(np.abs(right + discount * self.pull(value) - value).max())
        return value, _check(residual, longest, float(np.abs(value).max()))

    def solve_occupancy(self, start: FloatArray, discount: float) -> FloatArray:
        """Return mu = start + discount P^T mu, [S]: the expected (discounted) visits of an episode.

        Raises:
            NotConvergedError: as ``solve``, with sums over the states instead of maxima.
        """
        if self.n_states <= DENSE_STATES:
            system = self._system(discount)
            visits = _solve_dense(system.T, start)
            longest = float(np.abs(_solve_dense(system, np.ones(self.n_states))).max())
        else:
            visits = _sweep(lambda mu: start + discount * self.push(mu), start)
            longest = self._longest(discount)
        residual = float(np.abs(start + discount * self.push(visits) - visits).sum())
        _check(residual, longest, float(np.abs(visits).sum()))
        return visits

    def _longest(self, discount: float) -> float:
        """Return the largest expected number of steps, or with a discount its bound 1 / (1 - discount)."""
        if discount < 1:
            return 1 / (1 - discount)
        return float(_sweep(lambda steps: 1.0 + self.pull(steps), np.ones(self.n_states)).max())

    def _system(self, discount: float) -> FloatArray:
        """Return I - discount P, [S, S]."""
        n = self.n_states
        matrix = -discount * _sum_at(self.row * n + self.column, self.weight, n * n).reshape(n, n)
        matrix[np.diag_indices(n)] += 1.0
        return matrix


def _sum_at(index: IntArray, weight: FloatArray, size: int) -> FloatArray:
    """Return the sums of ``weight`` [N] by ``index`` [N], [size]."""
    return np.bincount(index, weight, size).astype(np.float64, copy=False)


def _check(residual: float, longest: float, scale: float) -> float:
    """Return a bound on the error of values up to ``scale``: the error of one step times ``longest`` steps.

    The error of one step is the residual plus the rounding of the probabilities.

    Raises:
        NotConvergedError: the residual or the bound is too large, or not a number.
    """
    error = (residual + np.finfo(np.float64).eps * scale) * longest
    if residual <= RESIDUAL_TOLERANCE * scale and error <= ERROR_TOLERANCE * scale:
        return error
    raise NotConvergedError(
        f"the linear equations have a residual of {residual:.3g} over {longest:.3g} expected "
        f"steps, where values reach {scale:.3g}: lower the discount or set a horizon",
        residual,
    )


def _solve_dense(system: FloatArray, right: FloatArray) -> FloatArray:
    """Return ``system``^-1 ``right``. Raises NotConvergedError for a system that is singular in float64."""
    try:
        return np.linalg.solve(system, right).astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        raise NotConvergedError(
            "the linear equations are singular in float64: the policy ends too rarely for any digit of its "
            "value to be right; lower the discount or set a horizon",
            float("inf"),
        ) from None


def _sweep(step: Callable[[FloatArray], FloatArray], first: FloatArray) -> FloatArray:
    """Return the fixed point of ``step``, [S], by repetition until only rounding changes it.

    Raises:
        NotConvergedError: it still changes after 100,000 repetitions.
    """
    now = first
    for _ in range(MAX_SWEEPS):
        before, now = now, step(now)
        change = float(np.abs(now - before).max())
        if change <= 2e-15 * float(np.abs(now).max()):
            return now
    raise NotConvergedError(
        f"{len(first):,} states did not converge in {MAX_SWEEPS:,} sweeps; the last changed a value by "
        f"{change:.3g}: lower the discount or set a horizon",
        change,
    )
