"""The algorithm of the tabular agent, once: plain functions that Python runs and that numba compiles.

Read ``textbook`` first: Q-learning in one short class. The tests compare it with these functions, bit for bit.

Every function here is ordinary Python. ``walk_tables`` is the only entry into numba, which then compiles all
that it calls; there a ``Learner`` holds arrays. The Python driver calls the same functions without numba, with a
``Learner`` of views on the same arrays, which Python reads faster. The same functions and the same random numbers
give the same tables, bit for bit.

Shapes: N tables (double Q-learning: its two and their mean; else 1), X state indices (the S states; T * S of them
where the agent also sees the time), S states, A actions, K outcomes, L = n_step.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numba.extending import register_jitable

from tokenwalk.agents.runs.progress import EPISODE_WINDOW
from tokenwalk.agents.tabular.config import Rule
from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray

Q_LEARNING, SARSA, EXPECTED_SARSA, DOUBLE_Q, SOFT_Q = range(5)  # in the order of the names in the config
NO_EPISODE, IN_TABLES, IN_ENVIRONMENT = range(3)  # values of StepState.episode_in
WINDOW = EPISODE_WINDOW  # a global of this file, as the compiled loop needs it
NEVER = -math.inf  # log-probability of an action that is not available

Function = TypeVar("Function", bound=Callable[..., Any])
# numpy's division, no fastmath: the same numbers as Python's. Without counting references to the arrays
# (_nrt), which the caller holds anyway, the compiled loop is five times as fast.
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}


def jitable(function: Function) -> Function:
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


STEP_STATE_FIELDS = (
    "step",
    "state_index",
    "action",
    "buffered",
    "episode_steps",
    "episodes",
    "episode_in",
    "mdp_state",
    "episode_return",
)


class StepState:
    """The state of one run between two steps.

    The Python driver reads and writes this class. The compiled driver reads and writes one element of an array
    of dtype ``STEP_STATE``, which has the same fields.
    """

    __slots__ = STEP_STATE_FIELDS
    step: int  # steps taken so far
    state_index: int  # of the current state in the tables of the learner
    action: int  # chosen there, not yet taken
    buffered: int  # steps in the n-step buffer
    episode_steps: int  # steps since the episode began
    episodes: int  # finished so far
    episode_in: int  # where the open episode is: NO_EPISODE, IN_TABLES or IN_ENVIRONMENT
    mdp_state: int  # the current state of the TabularMDP, in 0..S-1; used IN_TABLES
    episode_return: float  # undiscounted sum of rewards since the episode began

    def __init__(self, *values: float) -> None:
        for name, value in zip(STEP_STATE_FIELDS, values, strict=True):
            setattr(self, name, value)

    def as_tuple(self) -> tuple[float, ...]:
        """Return the fields in the order of ``STEP_STATE``."""
        return tuple(getattr(self, name) for name in STEP_STATE_FIELDS)


# np.record: Python too reads an element's fields as attributes.
_FIELDS = [(name, np.float64 if name == "episode_return" else np.int64) for name in STEP_STATE_FIELDS]
STEP_STATE = np.dtype((np.record, _FIELDS))


class Learner(NamedTuple):
    """Everything that one run has learned and its step state, without its generator. Changed in place.

    A memory of R runs is the same with a first axis R before every field but ``log_reference``.
    """

    q: FloatArray  # [N, X, A]; the last table ranks the actions
    visits: IntArray  # [N, X, A], or empty where the step size is constant
    log_reference: FloatArray  # [X, A], natural log; -inf where an action is not available
    # The n-step buffer: the steps whose n-step return is not known yet, oldest first. The KL penalty is
    # kl_coef * log(policy / reference) of the action in soft Q-learning, else 0.
    buffer_state_index: IntArray  # [L]
    buffer_action: IntArray  # [L]
    buffer_reward: FloatArray  # [L]
    buffer_kl_penalty: FloatArray  # [L]
    step_state: Any  # [] of dtype STEP_STATE in the compiled driver, a StepState in the Python driver
    recent: FloatArray  # [2, WINDOW] ring buffer: returns and lengths of the last finished episodes


class CompiledMDP(NamedTuple):
    """A ``TabularMDP`` under fixed reward weights, in the arrays that the compiled loop reads."""

    next_state: IntArray  # [S, A, K]
    cumulative: FloatArray  # [S, A, K] cumulated probabilities; inf from the last possible outcome on
    terminated: BoolArray  # [S, A, K]
    reward: FloatArray  # [S, A, K]
    last_reward: FloatArray  # [S, A]
    start: FloatArray  # [S] cumulated probabilities; inf from the last possible start on
    horizon: int  # the largest int64 where there is none
    horizon_terminates: bool


@jitable
def epsilon_at(rule: Rule, step: int) -> float:
    """Return the probability of exploring: linear in ``step`` from epsilon to final_epsilon."""
    if step >= rule.epsilon_steps:
        return rule.final_epsilon
    return rule.epsilon + (rule.final_epsilon - rule.epsilon) * (step / rule.epsilon_steps)


@jitable
def maximum(values: FloatArray, log_reference: FloatArray) -> float:
    """Return the greatest of ``values`` [A] among the available actions."""
    best = NEVER
    for action in range(len(values)):
        if values[action] > best and log_reference[action] > NEVER:
            best = values[action]
    return best


@jitable
def soft_maximum(values: FloatArray, log_reference: FloatArray, kl_coef: float) -> float:
    """Return kl_coef * log sum over a of reference(a) exp(values(a) / kl_coef), without overflow."""
    largest = NEVER
    for action in range(len(values)):
        largest = max(largest, log_reference[action] + values[action] / kl_coef)
    total = 0.0
    for action in range(len(values)):
        total += math.exp(log_reference[action] + values[action] / kl_coef - largest)
    return kl_coef * (largest + math.log(total))


@jitable
def explore(log_reference: FloatArray, uniform: float) -> int:
    """Return an available action, each with the same probability. ``uniform`` is a random number in [0, 1)."""
    count, chosen = 0, -1
    for action in range(len(log_reference)):
        if log_reference[action] > NEVER:
            count += 1
    nth = int(uniform * count)
    for action in range(len(log_reference)):
        if nth >= 0 and log_reference[action] > NEVER:
            nth -= 1
            chosen = action
    return chosen


@jitable
def greedy(values: FloatArray, log_reference: FloatArray, best: float, uniform: float) -> int:
    """Return the available action whose value is ``best``; ``uniform`` in [0, 1) breaks ties at random."""
    ties, chosen = 0, -1
    for action in range(len(values)):
        if values[action] == best and log_reference[action] > NEVER:
            ties += 1
            chosen = action
    if ties > 1:
        nth = int(uniform * ties)
        for action in range(len(values)):
            if nth >= 0 and values[action] == best and log_reference[action] > NEVER:
                nth -= 1
                chosen = action
    return chosen


@jitable
def sample_soft(
    values: FloatArray, log_reference: FloatArray, best: float, kl_coef: float, uniform: float
) -> int:
    """Sample from the policy reference(a) * exp((values(a) - best) / kl_coef); ``uniform`` is in [0, 1)."""
    chosen = -1
    for action in range(len(values)):
        probability = math.exp(log_reference[action] + (values[action] - best) / kl_coef)
        if uniform >= 0 and probability > 0:
            uniform -= probability
            chosen = action
    return chosen


@jitable
def choose(
    learner: Learner, rule: Rule, state_index: int, epsilon: float, uniform: float
) -> tuple[int, bool, float]:
    """Return (action, whether it explores, the hard or soft maximum of the action values).

    With probability epsilon any available action, else the greedy action or one of the soft policy. One random
    number ``uniform`` in [0, 1) decides everything. Below epsilon it selects the action to explore. Above epsilon,
    rescaled to [0, 1), it selects among the tied best actions, or samples from the soft policy.
    """
    values, log_reference = learner.q[-1][state_index], learner.log_reference[state_index]
    soft = rule.backup == SOFT_Q
    best = soft_maximum(values, log_reference, rule.kl_coef) if soft else maximum(values, log_reference)
    if uniform < epsilon:
        return explore(log_reference, uniform / epsilon), True, best
    uniform = (uniform - epsilon) / (1 - epsilon)
    if soft:
        return sample_soft(values, log_reference, best, rule.kl_coef, uniform), False, best
    return greedy(values, log_reference, best, uniform), False, best


@jitable
def mean_value(values: FloatArray, log_reference: FloatArray) -> float:
    """Return the mean of ``values`` [A] over the available actions."""
    total, count = 0.0, 0
    for action in range(len(values)):
        if log_reference[action] > NEVER:
            total += values[action]
            count += 1
    return total / count


@jitable
def cross_value(selecting: FloatArray, evaluating: FloatArray, log_reference: FloatArray) -> float:
    """Return the value in ``evaluating`` [A] of the best action of ``selecting`` [A]; the mean over tied ones."""
    best = maximum(selecting, log_reference)
    total, count = 0.0, 0
    for action in range(len(selecting)):
        if selecting[action] == best and log_reference[action] > NEVER:
            total += evaluating[action]
            count += 1
    return total / count


@jitable
def update(learner: Learner, rule: Rule, table: int, state_index: int, action: int, target: float) -> None:
    """Move one entry towards ``target``: q += step_size / (1 + earlier visits / half_life) * (target - q)."""
    step_size = rule.step_size
    if rule.half_life > 0:
        step_size /= 1 + learner.visits[table][state_index][action] / rule.half_life
        learner.visits[table][state_index][action] += 1
    values = learner.q[table][state_index]
    values[action] += step_size * (target - values[action])
    if rule.backup == DOUBLE_Q:
        learner.q[2][state_index][action] = (
            learner.q[0][state_index][action] + learner.q[1][state_index][action]
        ) / 2


@jitable
def advance(
    learner: Learner,
    rule: Rule,
    reward: float,
    state_index: int,
    terminated: bool,
    truncated: bool,
    rng: np.random.Generator,
) -> None:
    """Learn from the step of ``step_state`` that led to ``state_index``, and choose the next action there.

    The next action is chosen before the update, because SARSA needs it; the backups differ only in the value that
    they bootstrap from. A truncated episode bootstraps from its last state. A terminated one has value 0 there
    (``state_index`` is not read). An n-step return ends early where the episode ends. For an off-policy backup it
    also ends before an exploratory action (Watkins 1989).
    """
    now: StepState = learner.step_state
    backup = rule.backup
    now.episode_return += reward
    now.episode_steps += 1
    now.step += 1
    table = 0
    if backup == DOUBLE_Q and rng.random() < 0.5:
        table = 1
    action, explored, value, kl_penalty = 0, False, 0.0, 0.0
    if not terminated:
        epsilon = epsilon_at(rule, now.step)
        action, explored, value = choose(learner, rule, state_index, epsilon, rng.random())
        if backup == SARSA:
            value = learner.q[0][state_index][action]
        elif backup == EXPECTED_SARSA:
            value = (1 - epsilon) * value + epsilon * mean_value(
                learner.q[0][state_index], learner.log_reference[state_index]
            )
        elif backup == DOUBLE_Q:
            value = cross_value(
                learner.q[table][state_index],
                learner.q[1 - table][state_index],
                learner.log_reference[state_index],
            )
        elif backup == SOFT_Q:
            kl_penalty = learner.q[0][state_index][action] - value
    if rule.n_step == 1:
        update(learner, rule, table, now.state_index, now.action, reward + rule.discount * value)
    else:
        on_policy = backup in (SARSA, EXPECTED_SARSA)
        update_n_step(
            learner, rule, table, reward, value, terminated or truncated or (explored and not on_policy)
        )
        learner.buffer_kl_penalty[now.buffered] = kl_penalty
    now.state_index = state_index
    now.action = action


@jitable
def update_n_step(learner: Learner, rule: Rule, table: int, reward: float, value: float, ends: bool) -> None:
    """Append the last step to the n-step buffer; update the step that is n_step old, or all if the return ``ends``.

    Return of step k: G(k) = reward(k) + discount * (G(k+1) - kl_penalty(k+1)). In soft Q-learning kl_penalty(k+1)
    is kl_coef * log(policy / reference) of the action of step k+1, else 0. After the last step G is ``value``.
    """
    newest = learner.step_state.buffered
    learner.buffer_state_index[newest] = learner.step_state.state_index
    learner.buffer_action[newest] = learner.step_state.action
    learner.buffer_reward[newest] = reward
    oldest = newest + 1 - rule.n_step
    return_ = value
    for k in range(newest, -1, -1):
        return_ = learner.buffer_reward[k] + rule.discount * return_
        if ends or k == oldest:
            update(learner, rule, table, learner.buffer_state_index[k], learner.buffer_action[k], return_)
        return_ -= learner.buffer_kl_penalty[k]
    learner.step_state.buffered = 0 if ends else newest + 1
    if oldest == 0 and not ends:
        for k in range(newest):
            learner.buffer_state_index[k] = learner.buffer_state_index[k + 1]
            learner.buffer_action[k] = learner.buffer_action[k + 1]
            learner.buffer_reward[k] = learner.buffer_reward[k + 1]
            learner.buffer_kl_penalty[k] = learner.buffer_kl_penalty[k + 1]
        learner.step_state.buffered = newest


@jitable
def begin(learner: Learner, rule: Rule, state_index: int, rng: np.random.Generator) -> None:
    """Start an episode at ``state_index`` and choose its first action."""
    now: StepState = learner.step_state
    now.episode_return = 0.0
    now.episode_steps = 0
    now.buffered = 0
    now.state_index = state_index
    now.action = choose(learner, rule, state_index, epsilon_at(rule, now.step), rng.random())[0]


@jitable
def record_episode(learner: Learner) -> None:
    """Write the return and the length of the episode that has just ended into the ring buffer."""
    slot = learner.step_state.episodes % WINDOW
    learner.recent[0, slot] = learner.step_state.episode_return
    learner.recent[1, slot] = learner.step_state.episode_steps
    learner.step_state.episodes += 1


@jitable
def begin_in_tables(learner: Learner, rule: Rule, mdp: CompiledMDP, rng: np.random.Generator) -> None:
    """Start an episode in a state sampled from the start distribution of ``mdp``."""
    state = int(np.searchsorted(mdp.start, rng.random(), side="right"))
    learner.step_state.mdp_state = state
    begin(learner, rule, state, rng)


@compiled
def walk_tables(learner: Learner, rule: Rule, mdp: CompiledMDP, rng: np.random.Generator, steps: int) -> None:
    """Take ``steps`` steps in the tables, episode after episode, and learn from each."""
    now: StepState = learner.step_state
    n_states, _, n_outcomes = mdp.next_state.shape
    if now.episode_in != IN_TABLES:
        begin_in_tables(learner, rule, mdp, rng)
        now.episode_in = IN_TABLES
    for _ in range(steps):
        state, action, outcome = now.mdp_state, now.action, 0
        if n_outcomes > 1:
            uniform = rng.random()
            for k in range(n_outcomes - 1):
                outcome += uniform >= mdp.cumulative[state, action, k]
        reward = mdp.reward[state, action, outcome]
        terminated = mdp.terminated[state, action, outcome]
        elapsed = now.episode_steps + 1
        at_horizon = elapsed >= mdp.horizon
        if at_horizon:
            reward += mdp.last_reward[state, action]
            terminated = terminated or mdp.horizon_terminates
        next_state = mdp.next_state[state, action, outcome]
        next_index = next_state + elapsed * n_states if mdp.horizon_terminates else next_state
        advance(learner, rule, reward, next_index, terminated, at_horizon, rng)
        now.mdp_state = next_state
        if terminated or at_horizon:
            record_episode(learner)
            begin_in_tables(learner, rule, mdp, rng)
