"""Any reward function as a machine of the task's prefix tree, where that is small: then it is as exact as machines."""

import numpy as np

from tokenwalk.agents.exact_tokens.completions import (
    MAX_PREFIXES,
    TreeTooLargeError,
    blank_prefixes,
    concatenate,
    count_prefixes,
)
from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens
from tokenwalk.envs.rewards.machine import RewardMachine
from tokenwalk.envs.rewards.source import MachineSource, Source, score_strictly
from tokenwalk.envs.tasks import Task

PREFIXES_AT_ONCE = 1_024  # unfinished ones, whose V extensions are scored at once


def unfolded(source: Source, task: Task, *, limit: int = MAX_PREFIXES) -> MachineSource:
    """Return the machine with the rewards of ``source`` whose states are the unfinished completions of ``task``.

    Every prefix that the mask allows is scored once; later calls need no network. Prefixes with the same rewards after
    every continuation are one state.

    Raises:
        TreeTooLargeError: more than ``limit`` prefixes, complete ones included.
        SourceContractError: a source that returned invalid rewards.
    """
    if isinstance(source, MachineSource):
        return source
    if (size := count_prefixes(task)) > limit:
        raise TreeTooLargeError(task.name, size, limit, at_least=False)
    vocabulary, available = task.vocabulary, task.reference.available
    contexts, eos = reference_on_tokens(task), task.vocabulary.eos
    prompts = np.flatnonzero(task.prompt_weights > 0)
    start = np.zeros(len(task.prompts), dtype=np.int64)
    start[prompts] = np.arange(len(prompts))
    front, n_states = blank_prefixes(task, prompts), len(prompts)
    following, rewards = [], []
    while len(front):
        next_front = []
        for first in range(0, len(front), PREFIXES_AT_ONCE):
            part = front[first : first + PREFIXES_AT_ONCE]
            allowed = np.ones((len(part), vocabulary.size), dtype=np.bool_)
            if available is not None:
                allowed = available[contexts.states(part.batch(task))]
            rows, token = np.nonzero(allowed)
            none = np.zeros(len(rows))
            longer = part.extended(rows, token, none, none)
            reward, state = np.zeros(allowed.shape), np.zeros(allowed.shape, dtype=np.int64)
            reward[rows, token] = score_strictly(source, longer.batch(task), vocabulary)
            goes_on = ~longer.ended(task)
            count = int(goes_on.sum())
            state[rows[goes_on], token[goes_on]] = n_states + np.arange(count)
            n_states += count
            rewards.append(reward)
            following.append(state)
            if count:
                next_front.append(longer[goes_on])
        front = concatenate(next_front) if next_front else front[:0]
    next_state = np.concatenate(following)
    next_state[:, eos] = 0
    zeros = np.zeros(next_state.shape)
    machine = RewardMachine(next_state, np.concatenate(rewards), zeros, start).minimized()
    return MachineSource(source.name, machine, task.horizon, task.prompt_ids)
