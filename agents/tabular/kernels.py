"""The algorithm text of the tabular agent, once: plain functions that Python runs and that numba compiles.

Every function here is ordinary Python. ``walk_tables`` is the only entry into numba, which then compiles all
that it calls; there a ``Learner`` holds arrays. The Python driver calls the same functions as they stand,
with a ``Learner`` of views on the same arrays, row by row, which Python reads faster. The same text and the
same draws give the same tables, bit for bit.

Shapes: N tables (double Q-learning: its two and their mean; else 1), X rows (a state, or a state at a time),
S states, A actions, K outcomes, L = n_step.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numba.extending import register_jitable

from tokenwalk.agents.tabular.config import Rule
from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray

Q_LEARNING, SARSA, EXPECTED_SARSA, DOUBLE_Q, SOFT_Q = range(5)  # in the order of the names in the config
# What the cursor holds: where a run stands between two steps. STATE is the tables' own, ROW the learner's.
STEP, ROW, ACTION, WAITING, ELAPSED, EPISODES, PLACE, STATE = range(8)
NOWHERE, IN_TABLES, IN_ENVIRONMENT = range(3)  # values of cursor[PLACE]: whose episode is in progress
WINDOW = 100  # finished episodes that the averages look back on
NEVER = -math.inf  # log-probability of an action that is not available

Function = TypeVar("Function", bound=Callable[..., Any])
# numpy's division, no fastmath: the same numbers as Python's. Without counting references to the arrays
# (_nrt), which the caller holds anyway, the compiled loop is five times as fast.
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}


def either_way(function: Function) -> Function:
    """Return ``function`` itself, and let compiled functions call it too."""
    return register_jitable(**_OPTIONS, forceinline=True)(function)


def compiled(function: Function) -> Function:
    """Return ``function`` compiled, once for all processes; it releases the interpreter's lock while it runs.

    The cache looks at the file of ``function`` alone, so whatever it calls must be in the same file.
    """
    try:
        return cast(Function, numba.njit(**_OPTIONS, nogil=True, cache=True)(function))
    except RuntimeError:  # no folder that numba could write its cache to
        return cast(Function, numba.njit(**_OPTIONS, nogil=True)(function))


class Learner(NamedTuple):
    """All that one run knows, apart from its generator. The functions below change it in place.

    (A memory of R runs is the same with a first axis R before every field but ``log_reference``.)
    """

    q: FloatArray  # [N, X, A]; the last table ranks the actions
    visits: IntArray  # [N, X, A], or empty where the step size is constant
    log_reference: FloatArray  # [X, A], natural log; -inf where an action is not available
    waiting_row: IntArray  # [L] steps whose n-step return is not yet known, oldest first
    waiting_action: IntArray  # [L]
    waiting_reward: FloatArray  # [L]
    waiting_excess: FloatArray  # [L] soft Q-learning: kl_coef * log(policy / reference) of the action, else 0
    cursor: IntArray  # [8] see STEP ... STATE
    return_so_far: FloatArray  # [1] undiscounted, of the episode in progress
    recent: FloatArray  # [2, WINDOW] returns and lengths of the last finished episodes, in a ring


class World(NamedTuple):
    """A ``TabularMDP`` under fixed weights, as the compiled loop walks it."""

    next_state: IntArray  # [S, A, K]
    cumulative: FloatArray  # [S, A, K] cumulated probabilities; inf from the last possible outcome on
    terminated: BoolArray  # [S, A, K]
    reward: FloatArray  # [S, A, K]
    last_reward: FloatArray  # [S, A]
    start: FloatArray  # [S] cumulated, inf from the last possible start on
    horizon: int  # the greatest integer where there is none
    horizon_terminates: bool


@either_way
def epsilon_at(rule: Rule, step: int) -> float:
    """Return the probability of exploring: linear in ``step`` from epsilon to final_epsilon."""
    if step >= rule.epsilon_steps:
        return rule.final_epsilon
    return rule.epsilon + (rule.final_epsilon - rule.epsilon) * (step / rule.epsilon_steps)


@either_way
def maximum(values: FloatArray, log_reference: FloatArray) -> float:
    """Return the greatest of ``values`` [A] among the available actions."""
    best = NEVER
    for action in range(len(values)):
        if values[action] > best and log_reference[action] > NEVER:
            best = values[action]
    return best


@either_way
def soft_maximum(values: FloatArray, log_reference: FloatArray, kl_coef: float) -> float:
    """Return kl_coef * log sum over a of reference(a) exp(values(a) / kl_coef), without overflow."""
    largest = NEVER
    for action in range(len(values)):
        largest = max(largest, log_reference[action] + values[action] / kl_coef)
    total = 0.0
    for action in range(len(values)):
        total += math.exp(log_reference[action] + values[action] / kl_coef - largest)
    return kl_coef * (largest + math.log(total))


@either_way
def explore(log_reference: FloatArray, draw: float) -> int:
    """Return the available action at ``draw`` in [0, 1), all alike."""
    count, chosen = 0, -1
    for action in range(len(log_reference)):
        if log_reference[action] > NEVER:
            count += 1
    nth = int(draw * count)
    for action in range(len(log_reference)):
        if nth >= 0 and log_reference[action] > NEVER:
            nth -= 1
            chosen = action
    return chosen


@either_way
def greedy(values: FloatArray, log_reference: FloatArray, top: float, draw: float) -> int:
    """Return the available action whose value is ``top``; among several the one at ``draw`` in [0, 1)."""
    ties, chosen = 0, -1
    for action in range(len(values)):
        if values[action] == top and log_reference[action] > NEVER:
            ties += 1
            chosen = action
    if ties > 1:
        nth = int(draw * ties)
        for action in range(len(values)):
            if nth >= 0 and values[action] == top and log_reference[action] > NEVER:
                nth -= 1
                chosen = action
    return chosen


@either_way
def sample_soft(
    values: FloatArray, log_reference: FloatArray, top: float, kl_coef: float, draw: float
) -> int:
    """Return the action at ``draw`` in [0, 1) of the policy reference(a) exp((values(a) - top) / kl_coef)."""
    chosen = -1
    for action in range(len(values)):
        probability = math.exp(log_reference[action] + (values[action] - top) / kl_coef)
        if draw >= 0 and probability > 0:
            draw -= probability
            chosen = action
    return chosen


@either_way
def choose(learner: Learner, rule: Rule, row: int, epsilon: float, draw: float) -> tuple[int, bool, float]:
    """Return (action, whether it explores, the row's hard or soft maximum).

    With probability epsilon any available action, else the greedy one or the soft policy's. One ``draw`` in
    [0, 1) serves for everything: below epsilon it says which action to explore, above it (rescaled to [0, 1))
    which of the tied best actions to take, or which action of the soft policy.
    """
    values, log_reference = learner.q[-1][row], learner.log_reference[row]
    soft = rule.backup == SOFT_Q
    top = soft_maximum(values, log_reference, rule.kl_coef) if soft else maximum(values, log_reference)
    if draw < epsilon:
        return explore(log_reference, draw / epsilon), True, top
    draw = (draw - epsilon) / (1 - epsilon)
    if soft:
        return sample_soft(values, log_reference, top, rule.kl_coef, draw), False, top
    return greedy(values, log_reference, top, draw), False, top


@either_way
def mean_value(values: FloatArray, log_reference: FloatArray) -> float:
    """Return the mean of ``values`` [A] over the available actions."""
    total, count = 0.0, 0
    for action in range(len(values)):
        if log_reference[action] > NEVER:
            total += values[action]
            count += 1
    return total / count


@either_way
def cross_value(ranked: FloatArray, judged: FloatArray, log_reference: FloatArray) -> float:
    """Return what ``judged`` [A] says the best action of ``ranked`` [A] is worth, tied ones on average."""
    best = maximum(ranked, log_reference)
    total, count = 0.0, 0
    for action in range(len(ranked)):
        if ranked[action] == best and log_reference[action] > NEVER:
            total += judged[action]
            count += 1
    return total / count


@either_way
def update(learner: Learner, rule: Rule, table: int, row: int, action: int, target: float) -> None:
    """Move an entry towards ``target``: q += step_size / (1 + earlier visits / half_life) * (target - q)."""
    step_size = rule.step_size
    if rule.half_life > 0:
        step_size /= 1 + learner.visits[table][row][action] / rule.half_life
        learner.visits[table][row][action] += 1
    values = learner.q[table][row]
    values[action] += step_size * (target - values[action])
    if rule.backup == DOUBLE_Q:
        learner.q[2][row][action] = (learner.q[0][row][action] + learner.q[1][row][action]) / 2


@either_way
def advance(
    learner: Learner,
    rule: Rule,
    reward: float,
    row: int,
    terminated: bool,
    truncated: bool,
    rng: np.random.Generator,
) -> None:
    """Learn from the step that led from where the cursor stands to ``row``, and choose the next action there.

    The next action is chosen before the update, as SARSA must; so the backups differ in what they bootstrap
    from alone. A truncated episode bootstraps from its last row, a terminated one is worth nothing further
    (its ``row`` is not read). An n-step return ends early where the episode does, and before an exploratory
    action where the backup is not about the policy that explores (Watkins 1989).
    """
    cursor, backup = learner.cursor, rule.backup
    learner.return_so_far[0] += reward
    cursor[ELAPSED] += 1
    cursor[STEP] += 1
    table = 0
    if backup == DOUBLE_Q and rng.random() < 0.5:
        table = 1
    action, explored, value, excess = 0, False, 0.0, 0.0
    if not terminated:
        epsilon = epsilon_at(rule, cursor[STEP])
        action, explored, value = choose(learner, rule, row, epsilon, rng.random())
        if backup == SARSA:
            value = learner.q[0][row][action]
        elif backup == EXPECTED_SARSA:
            value = (1 - epsilon) * value + epsilon * mean_value(
                learner.q[0][row], learner.log_reference[row]
            )
        elif backup == DOUBLE_Q:
            value = cross_value(learner.q[table][row], learner.q[1 - table][row], learner.log_reference[row])
        elif backup == SOFT_Q:
            excess = learner.q[0][row][action] - value
    if rule.n_step == 1:
        update(learner, rule, table, cursor[ROW], cursor[ACTION], reward + rule.discount * value)
    else:
        on_policy = backup in (SARSA, EXPECTED_SARSA)
        settle(learner, rule, table, reward, value, terminated or truncated or (explored and not on_policy))
        learner.waiting_excess[cursor[WAITING]] = excess
    cursor[ROW] = row
    cursor[ACTION] = action


@either_way
def settle(learner: Learner, rule: Rule, table: int, reward: float, value: float, ends: bool) -> None:
    """Let the step just taken wait; update the one that is n_step old, or all if their return ``ends``.

    Return of step k: G(k) = reward(k) + discount (G(k+1) - excess(k+1)), where excess is what soft Q-learning
    pays for the action of step k+1, kl_coef log(policy / reference); after the last step G is ``value``.
    """
    newest = learner.cursor[WAITING]
    learner.waiting_row[newest] = learner.cursor[ROW]
    learner.waiting_action[newest] = learner.cursor[ACTION]
    learner.waiting_reward[newest] = reward
    oldest = newest + 1 - rule.n_step
    return_ = value
    for k in range(newest, -1, -1):
        return_ = learner.waiting_reward[k] + rule.discount * return_
        if ends or k == oldest:
            update(learner, rule, table, learner.waiting_row[k], learner.waiting_action[k], return_)
        return_ -= learner.waiting_excess[k]
    learner.cursor[WAITING] = 0 if ends else newest + 1
    if oldest == 0 and not ends:
        for k in range(newest):
            learner.waiting_row[k] = learner.waiting_row[k + 1]
            learner.waiting_action[k] = learner.waiting_action[k + 1]
            learner.waiting_reward[k] = learner.waiting_reward[k + 1]
            learner.waiting_excess[k] = learner.waiting_excess[k + 1]
        learner.cursor[WAITING] = newest


@either_way
def begin(learner: Learner, rule: Rule, row: int, rng: np.random.Generator) -> None:
    """Start an episode at ``row`` and choose its first action."""
    cursor = learner.cursor
    learner.return_so_far[0] = 0.0
    cursor[ELAPSED] = 0
    cursor[WAITING] = 0
    cursor[ROW] = row
    cursor[ACTION] = choose(learner, rule, row, epsilon_at(rule, cursor[STEP]), rng.random())[0]


@either_way
def record_episode(learner: Learner) -> None:
    """Write the return and the length of the episode that has just ended into the ring."""
    slot = learner.cursor[EPISODES] % WINDOW
    learner.recent[0, slot] = learner.return_so_far[0]
    learner.recent[1, slot] = learner.cursor[ELAPSED]
    learner.cursor[EPISODES] += 1


@either_way
def begin_in_tables(learner: Learner, rule: Rule, world: World, rng: np.random.Generator) -> None:
    """Start an episode in a state drawn from the process's start distribution."""
    state = int(np.searchsorted(world.start, rng.random(), side="right"))
    learner.cursor[STATE] = state
    begin(learner, rule, state, rng)


@compiled
def walk_tables(learner: Learner, rule: Rule, world: World, rng: np.random.Generator, steps: int) -> None:
    """Take ``steps`` steps in the tables, episode after episode, and learn from each."""
    cursor = learner.cursor
    n_states, _, n_outcomes = world.next_state.shape
    if cursor[PLACE] != IN_TABLES:
        begin_in_tables(learner, rule, world, rng)
        cursor[PLACE] = IN_TABLES
    for _ in range(steps):
        state, action, outcome = cursor[STATE], cursor[ACTION], 0
        if n_outcomes > 1:
            draw = rng.random()
            for k in range(n_outcomes - 1):
                outcome += draw >= world.cumulative[state, action, k]
        reward = world.reward[state, action, outcome]
        terminated = world.terminated[state, action, outcome]
        elapsed = cursor[ELAPSED] + 1
        at_horizon = elapsed >= world.horizon
        if at_horizon:
            reward += world.last_reward[state, action]
            terminated = terminated or world.horizon_terminates
        next_state = world.next_state[state, action, outcome]
        next_row = next_state + elapsed * n_states if world.horizon_terminates else next_state
        advance(learner, rule, reward, next_row, terminated, at_horizon, rng)
        cursor[STATE] = next_state
        if terminated or at_horizon:
            record_episode(learner)
            begin_in_tables(learner, rule, world, rng)
