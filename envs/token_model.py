"""A token task with its rewards, as one batched transition of all its reward machines."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray
from tokenwalk.envs.rewards.automaton import Product, partition, product
from tokenwalk.envs.rewards.composition import Composition
from tokenwalk.envs.rewards.function import FunctionSource
from tokenwalk.envs.rewards.machine import TokenArray
from tokenwalk.envs.rewards.source import MachineSource, Source, TokenBatch, score_strictly
from tokenwalk.envs.tabular import MAX_ENTRIES, TabularMDP, check_size
from tokenwalk.envs.tasks import Task

# A component of the training reward: a reward function, "gold" or "proxy", alone or with its weight.
RewardTerm = str | Source | tuple[str | Source, float]
# A shaping term: it is added to the reward and not to the return.
Shaping = Source | tuple[Source, float]
Entry = tuple[int, float, dict[str, float]]  # the step of a token: next state, reward, logged terms
Row = list[Entry | None]  # by token; None where it is masked


def compose(
    task: Task,
    reward: RewardTerm | Sequence[RewardTerm],
    metrics: Iterable[Source] = (),
    shaping: Shaping | Sequence[Shaping] = (),
) -> Composition:
    """Return the composition with ``reward`` as training reward, the task's gold, and its proxy and ``metrics`` as metrics.

    ``shaping`` is added to the learner's reward and not to the return.

    Raises:
        ValueError: an unknown name, "proxy" where the task has none, a machine over another horizon or vocabulary, or
            what ``Composition`` refuses.
    """
    parts: Sequence[RewardTerm] = reward if isinstance(reward, list) else [reward]  # type: ignore[list-item]
    train = []
    for source, weight in map(_weighted, parts):
        if isinstance(source, str):
            if source not in task.sources:
                raise ValueError(
                    f"{task.name} has no reward {source!r}: give {' or '.join(task.sources)}, or a reward function"
                )
            source = task.sources[source]
        elif callable(source) and not isinstance(source, Source):
            name = getattr(source, "__name__", "")
            source = FunctionSource(name if name.isidentifier() else "reward", source, task.vocabulary)
        train.append((source, weight))
    gold, proxy = task.sources["gold"], [one for name, one in task.sources.items() if name == "proxy"]
    added: Sequence[Any] = shaping if isinstance(shaping, list) or shaping == () else [shaping]
    composition = Composition(tuple(train), gold, (*proxy, *metrics), tuple(map(_weighted, added)))
    for source in composition.sources:
        if isinstance(source, MachineSource):
            _check_fits(source, task)
    return composition


def _weighted(part: Any) -> tuple[Any, float]:
    """Return ``part`` with its weight, 1 where none is given."""
    source, weight = part if isinstance(part, (tuple, list)) else (part, 1.0)
    return source, weight


def _check_fits(source: MachineSource, task: Task) -> None:
    """Raise ValueError unless the machine is over the vocabulary, the horizon and the prompts of ``task``."""
    machine, n_prompts = source.machine, len(task.prompts)
    fits = machine.n_tokens == task.vocabulary.size and source.horizon == task.horizon
    if not fits or machine.start.size not in (1, n_prompts):
        raise ValueError(
            f"source {source.name!r} is a machine over {machine.n_tokens} tokens, a horizon of "
            f"{source.horizon} and {machine.start.size} prompts: {task.name} has {task.vocabulary.size}, "
            f"{task.horizon} and {n_prompts}; build it with Task.machine_source"
        )


class TokenStep(NamedTuple):
    """One step of B sub-environments."""

    next_state: IntArray  # [B]
    terminated: BoolArray  # [B]
    reward_terms: FloatArray  # [B, K]: column 0 is the reward, TokenModel.logged names the others


class TokenModel:
    """The product of a task's reward machines, with S states, and the step of B sub-environments through it.

    The only randomness of a token task is its prompt; ``start`` holds the state of each of the N prompts. ``ask_others``
    scores the tokens by the reward functions that are not machines.

    Attributes:
        task, composition: as given.
        machines: the reward machines by name. others: the other reward functions.
        next_state: int64 [S, V]. start: int64 [N].
        available: bool [S, V], or None where every token may be taken.
        logged: the column of ``reward_terms`` of each entry of ``info``: "gold", "proxy", each term raw and weighted.
    """

    def __init__(self, task: Task, composition: Composition) -> None:
        self.task = task
        self.composition = composition
        sources = composition.sources
        self.machines = {one.name: one.machine for one in sources if isinstance(one, MachineSource)}
        self.others = tuple(one for one in sources if one.name not in self.machines)
        reference, n_tokens = task.reference, task.vocabulary.size
        parts = [(one.next_state, one.start) for one in self.machines.values()]
        # The mask's context comes last; without a mask it is an automaton of one state.
        silent = np.zeros((1, n_tokens), dtype=np.int64), np.zeros(1, dtype=np.int64)
        parts.append(silent if reference.available is None else (reference.next_context, reference.start))
        joint = product([table for table, _ in parts], [start for _, start in parts])
        self.next_state = joint.next_state
        self.start = np.broadcast_to(joint.start, len(task.prompts))
        self._members = dict(zip(self.machines, joint.members.T, strict=False))
        self.available = None if reference.available is None else reference.available[joint.members[:, -1]]
        self._raw = {one.name: 1 + column for column, one in enumerate(sources)}
        added = (*composition.train, *composition.shaping)
        self._weighted = {one.name: 1 + len(sources) + column for column, (one, _) in enumerate(added)}
        self.logged = {
            **{name: self._raw[name] for name in task.sources},
            **{f"reward/{name}": column for name, column in self._raw.items()},
            **{f"reward/{name}/weighted": column for name, column in self._weighted.items()},
        }
        self._has_horizon_reward = any(one.reward_at_horizon.any() for one in self.machines.values())
        self._following, self._entries = self.next_state.ravel(), self._tabulate()

    def _tabulate(self) -> FloatArray:
        """Return the reward terms of each state and token, [S * V, K], then of the H-th token if they differ."""
        size = self.next_state.size
        reward_terms = np.zeros(
            (size * (2 if self._has_horizon_reward else 1), 1 + len(self._raw) + len(self._weighted))
        )
        for name, machine in self.machines.items():
            reward_terms[:size, self._raw[name]] = machine.reward[self._members[name]].ravel()
            if self._has_horizon_reward:
                both = machine.reward + machine.reward_at_horizon
                reward_terms[size:, self._raw[name]] = both[self._members[name]].ravel()
        self._set_sums(reward_terms)
        return reward_terms

    def _set_sums(self, reward_terms: FloatArray) -> None:
        """Fill in the weighted columns of ``reward_terms`` [B, K], and their sum, from the raw ones."""
        weighted = self.composition.weighted(
            {name: reward_terms[:, column] for name, column in self._raw.items()}
        )
        for name, column in self._weighted.items():
            reward_terms[:, column] = weighted[name]
        reward_terms[:, 0] = self.composition.reward(weighted)

    def set_weight(self, name: str, weight: float) -> None:
        """Change the weight of the training reward component ``name`` from the next step on. A trainer must log it.

        Raises:
            ValueError: no component of that name, a weight that is not a finite number, or a machine: the states of the
                "machine" observation depend on the first weights.
        """
        composition = self.composition.with_weight(name, weight)
        if name in self.machines:
            raise ValueError(
                f"{name!r} is a machine, whose weight is fixed: anneal a reward function that is not a machine"
            )
        self.composition = composition
        self._set_sums(self._entries)

    @property
    def n_states(self) -> int:
        """Return S."""
        return len(self.next_state)

    def transition(self, state: IntArray, action: IntArray, at_horizon: BoolArray) -> TokenStep:
        """Return the step of B sub-environments: ``state`` [B], ``action`` [B], ``at_horizon`` [B] (the H-th token).

        Reward functions that are not machines are 0 in ``reward_terms``; ``ask_others`` fills them in.
        """
        index = state * self.task.vocabulary.size + action  # [B]
        next_state = self._following.take(index)
        if self._has_horizon_reward:
            index += at_horizon * self._following.size
        terminated = (action == self.task.vocabulary.eos) | at_horizon
        return TokenStep(next_state, terminated, self._entries.take(index, axis=0))

    def reward_terms_tables(self) -> tuple[FloatArray, ...]:
        """Return the reward terms of each state and token, [S, V, K], and those of the H-th token if they differ."""
        shape = (-1, *self.next_state.shape, self._entries.shape[1])
        return tuple(self._entries.reshape(shape))

    def ask_others(self, reward_terms: FloatArray, batch: TokenBatch) -> None:
        """Fill ``reward_terms`` [B, K] with the scores of ``others`` and the sums. Raises SourceContractError."""
        for source in self.others:
            reward_terms[:, self._raw[source.name]] = score_strictly(source, batch, self.task.vocabulary)
        self._set_sums(reward_terms)

    def row(self, state: int, at_horizon: bool) -> Row:
        """Return the step of each token in ``state``, None where it is masked: for the scalar environment."""
        n_tokens = self.task.vocabulary.size
        step = self.transition(np.full(n_tokens, state), np.arange(n_tokens), np.full(n_tokens, at_horizon))
        return [
            (int(step.next_state[token]), *self.read(step.reward_terms[token]))
            if self.available is None or self.available[state, token]
            else None
            for token in range(n_tokens)
        ]

    def read(self, reward_terms: FloatArray) -> tuple[float, dict[str, float]]:
        """Return the reward and the logged terms of one row of ``reward_terms``, [K]."""
        entries = reward_terms.tolist()
        return entries[0], {key: entries[column] for key, column in self.logged.items()}

    @cached_property
    def train_state(self) -> IntArray:
        """Return the state of the training reward's machine, int64 [S]: the coarsest one that predicts every reward.

        Shaping is included; gold, proxy and metrics are included only where they are training rewards.

        Raises:
            ValueError: a training reward or shaping term that is not a machine.
        """
        shaping = [source.name for source, _ in self.composition.shaping]
        for source, _ in (*self.composition.train, *self.composition.shaping):
            if source.name not in self.machines:
                raise ValueError(
                    f"observation='machine' needs every training reward to be a machine, and {source.name!r} is "
                    f"{type(source).__name__}: use observation='tokens'"
                )
        # The reward and each shaping term, before the H-th token and at it.
        columns = [0, *(self._weighted[name] for name in shaping)]
        outputs = [
            table
            for column in columns
            for table in self._entries[:, column].reshape(-1, *self.next_state.shape)
        ]
        if self.available is not None:
            outputs.append(self.available.astype(np.float64))
        return partition(self.next_state, np.hstack(outputs))

    @cached_property
    def n_train_states(self) -> int:
        """Return Q, the number of states of the training reward's machine."""
        return int(self.train_state.max()) + 1

    @cached_property
    def _with_contexts(self) -> Product:
        """Return the product of the machines and the reference policy's contexts: the states of ``tabular_mdp``."""
        reference = self.task.reference
        return product([self.next_state, reference.next_context], [self.start, reference.start])

    def tabular_mdp(self, max_entries: int = MAX_ENTRIES) -> TabularMDP:
        """Return the task as tables: machines x contexts of the reference policy, a channel for every reward function.

        The horizon is a field (a termination), so the tables are not expanded over time.

        Raises:
            ValueError: a reward function that is not a machine, or more than ``max_entries`` entries.
        """
        if self.others:
            raise ValueError(
                f"reward function {self.others[0].name!r} is {type(self.others[0]).__name__}, not a machine, so "
                f"{self.task.name} has no tables with it: evaluate on the prefix tree or by sampling"
            )
        joint, vocabulary = self._with_contexts, self.task.vocabulary
        shape = (len(joint.next_state), vocabulary.size, 1)
        check_size(*shape, max_entries)
        state, context = joint.members.T
        ends = np.zeros(shape, dtype=np.bool_)  # [S, V, 1]
        ends[:, vocabulary.eos] = True
        start = np.zeros(shape[0])  # [S]
        np.add.at(start, joint.start, self.task.prompt_weights)
        at_horizon = {name: one.reward_at_horizon for name, one in self.machines.items()}
        return TabularMDP(
            next_state=joint.next_state[:, :, None],
            probability=np.ones(shape),
            terminated=ends,
            rewards={n: one.reward[self._members[n][state]][:, :, None] for n, one in self.machines.items()},
            last_rewards={
                n: table[self._members[n][state]] for n, table in at_horizon.items() if table.any()
            },
            available=np.ones(shape[:2], dtype=np.bool_) if self.available is None else self.available[state],
            log_reference=self.task.reference.log_probability[context],
            start=start,
            horizon=self.task.horizon,
            horizon_terminates=True,
        )

    def machine_tables(self, with_contexts: bool = False) -> tuple[TabularMDP, IntArray]:
        """Return the tables over the states of the "machine" observation, and the index in them of each state of
        ``tabular_mdp``, int64 [S].

        The channels are "train", the training reward, and "shaping", which is added to it (``walk_weights`` has both).
        Gold is not part of the states unless it is a training reward. ``policy[:, label]`` turns a time-dependent policy
        of these tables into one of ``tabular_mdp``.

        Args:
            with_contexts: keep the reference policy and its contexts in the states, which a KL-regularized agent needs;
                else the reference is uniform over the available tokens.

        Raises:
            ValueError: a training reward that is not a machine.
        """
        full, (state, context) = self.tabular_mdp(), self._with_contexts.members.T
        seen = self.train_state[state]
        label: IntArray = seen
        if with_contexts:
            label = np.unique(np.stack([seen, context]), axis=1, return_inverse=True)[1].reshape(-1)
        first = np.unique(label, return_index=True)[1]
        terms = {"train": self.composition.train, "shaping": self.composition.shaping}
        channels = {
            name: full.reward({source.name: weight for source, weight in sources})
            for name, sources in terms.items()
            if sources
        }
        available = full.available[first]
        uniform = np.where(available, -np.log(available.sum(axis=1, keepdims=True)), -np.inf)
        tables = TabularMDP(
            next_state=label[full.next_state[first]],
            probability=full.probability[first],
            terminated=full.terminated[first],
            rewards={name: step[first] for name, (step, _) in channels.items()},
            last_rewards={name: last[first] for name, (_, last) in channels.items()},
            available=available,
            log_reference=full.log_reference[first] if with_contexts else uniform,
            start=np.asarray(np.bincount(label, full.start, len(first)), dtype=np.float64),
            horizon=full.horizon,
            horizon_terminates=True,
        )
        return tables, label

    @property
    def walk_weights(self) -> dict[str, float]:
        """Return the weight of each channel of ``machine_tables`` in the learner's reward: 1."""
        return {"train": 1.0, "shaping": 1.0} if self.composition.shaping else {"train": 1.0}

    def machine_observations(self) -> IntArray:
        """Return the "machine" observation of each state of ``tabular_mdp`` at each time, int64 [H + 1, S].

        Entry [t, s] is the observation of state s after t tokens. It indexes a table over observations.
        """
        time = np.arange(self.task.horizon + 1)[:, None]  # [H + 1, 1]
        return self.train_state[self._with_contexts.members[:, 0]] + self.n_train_states * time


def observation_space(model: TokenModel, observation: str) -> gym.Space[Any]:
    """Return the space of "tokens" or "machine". Raises ValueError for another name, or without a machine."""
    task = model.task
    if observation == "machine":
        return gym.spaces.Discrete(model.n_train_states * (task.horizon + 1))
    if observation != "tokens":
        raise ValueError(f"observation is {observation!r}: give 'tokens' or 'machine'")
    nvec = np.full(task.prompt_length + task.horizon, task.vocabulary.size + 1)
    space = gym.spaces.MultiDiscrete(nvec, dtype=task.vocabulary.dtype)
    space.nvec = nvec  # Gymnasium gives it the small dtype, whose sums overflow in SB3's one-hot encoding
    return space


def blank_tokens(task: Task) -> TokenArray:
    """Return the tokens that an episode starts with, for each prompt: small unsigned integers [N, P + H]."""
    blank = np.full((len(task.prompts), task.horizon), task.vocabulary.pad, dtype=task.vocabulary.dtype)
    return np.hstack([task.prompt_ids, blank])


def cumulative_weights(task: Task) -> FloatArray:
    """Return the cumulative probability of the prompts, float64 [N], ending with exactly 1."""
    cumulative = np.cumsum(task.prompt_weights)
    return np.asarray(cumulative / cumulative[-1])
