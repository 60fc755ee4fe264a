"""The token-generation environment with a known optimum: the scalar environment."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from tokenwalk.envs.arrays import BoolArray, IntArray
from tokenwalk.envs.checks import (
    EpisodeEndedError,
    InvalidActionError,
    check_action,
    check_render_mode,
    check_seed,
)
from tokenwalk.envs.random_numbers import EpisodeClock, uniform
from tokenwalk.envs.rewards.source import Source, TokenBatch
from tokenwalk.envs.tabular import MAX_ENTRIES, TabularMDP
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import (
    Entry,
    RewardTerm,
    Row,
    Shaping,
    TokenModel,
    blank_tokens,
    compose,
    cumulative_weights,
    observation_space,
)
from tokenwalk.envs.token_text import format_episode


class TokenGenerationEnv(gym.Env[Any, np.int64]):
    """A text is generated token by token and scored by named reward functions; gold is the true objective.

    ## Description
    A prompt is sampled; each action appends a token to the completion, until ``<eos>`` or the H-th token.

    ## Action Space
    ``Discrete(V)``: the token's id; V - 1 is ``<eos>``. ``action_masks()`` (bool) and ``info["action_mask"]``
    (int8) give the available tokens: all of them in the catalog.

    ## Observation Space
    ``observation="tokens"``: ``MultiDiscrete`` of V + 1 values, small unsigned integers [P + H]: the prompt,
    padded on the left, then the completion so far, padded on the right; V is padding.
    ``observation="machine"``: ``Discrete(Q * (H + 1))``, for tabular agents: q + Q * t, where q is the state
    of the training reward's machine and t the number of generated tokens. Gold is in it only where it is a training
    reward.

    ## Starting State
    No token generated; the prompt is sampled by the task's weights.

    ## Reward
    The float64 sum of the weighted training reward components in their order, then of the shaping terms; no unit. The
    range follows from the ranges of the components.

    ## Episode End
    *Termination*: after ``<eos>`` or the H-th token (the horizon is part of the task). *Truncation*: never.

    ## Information
    ``step``: ``gold``; ``proxy`` where the task has one; ``reward/NAME`` of every reward function, unweighted;
    ``reward/NAME/weighted`` of each component of the reward; ``action_mask``; at the end ``text``, the completion.
    ``reset``: ``action_mask``.

    ## Optimal return
    By gold: Keyword 5, Password 1, Brackets 1, Arithmetic 1, Lexicon 6, LengthBias 1, Flattery 2.5, Delayed
    1.19. Flattery's proxy: 3.5, by a completion whose gold is -2.5.

    ## Arguments
    ``task="Keyword"``: a name of the catalog, a ``Task``, or ``FILE.py:NAME``. ``reward="gold"``: the
    training reward: "gold", "proxy", a reward function, or a list of these, each alone or as a pair with its weight.
    ``horizon``: replaces the task's. ``observation``: "tokens" or "machine". ``metrics``: further reward functions that
    are only logged. ``shaping``: terms added to the reward and not to the return, see
    ``tokenwalk.envs.rewards.potentials``. ``render_mode="ansi"``: prompt, completion with marks under the rewarded
    tokens, reward terms, the return so far.

    ## References
    Reward machines: see ``tokenwalk.envs.rewards.machine``.

    ## Version History
    v0: first version.

    Raises:
        InvalidActionError: ``step`` with an action that is not a token or is masked; the state is unchanged.
        EpisodeEndedError: ``step`` before ``reset`` or after termination; the state is unchanged.
        SourceContractError: a reward function that broke its contract, with its name and the text.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self,
        task: str | Task = "Keyword",
        reward: RewardTerm | Sequence[RewardTerm] = "gold",
        horizon: int | None = None,
        observation: Literal["tokens", "machine"] = "tokens",
        metrics: Iterable[Source] = (),
        shaping: Shaping | Sequence[Shaping] = (),
        render_mode: str | None = None,
    ) -> None:
        self.task = find_task(task, horizon)
        self.model = model = TokenModel(self.task, compose(self.task, reward, metrics, shaping))
        self.render_mode = check_render_mode(render_mode)
        self.observation_space = observation_space(model, observation)
        self.action_space = gym.spaces.Discrete(self.task.vocabulary.size)
        self._n_tokens, self._eos = self.task.vocabulary.size, self.task.vocabulary.eos
        self._horizon = self.task.horizon
        self._train_state = model.train_state.tolist() if observation == "machine" else None
        self._starts, self._blank = model.start.tolist(), blank_tokens(self.task)
        self._cumulative = cumulative_weights(self.task).tolist()
        # The step of each state and token, before the H-th token and at it; see _row.
        self._rows: tuple[dict[int, Row], dict[int, Row]] = ({}, {})
        self._others = bool(model.others)
        self._every_token = np.ones(self._n_tokens, dtype=np.int8) if model.available is None else None
        self._tokens = self._blank[0].copy()
        self._clock = EpisodeClock()
        self._state = 0
        self._time = 0  # number of generated tokens
        self._next: Row | None = None  # None: reset is needed

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; a ``seed`` restarts the count of episodes. ``options`` are not used."""
        seed = None if seed is None else check_seed(seed)
        super().reset(seed=seed)
        self._clock.begin(seed, self.np_random)
        prompt = 0
        if len(self._starts) > 1:
            prompt = bisect_right(self._cumulative, uniform(self._clock.stream, 0))
        self._tokens = self._blank[prompt].copy()
        self._state, self._time = self._starts[prompt], 0
        self._next = self._row()
        return self._observe(), {"action_mask": self._mask()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Append a token: (observation, reward, terminated, False, info)."""
        row = self._next
        if row is None:
            raise EpisodeEndedError("the episode has ended or was never started: call reset() before step()")
        if type(action) is not int or not 0 <= action < self._n_tokens:
            action = check_action(action, self._n_tokens)
        entry = row[action]
        if entry is None:
            raise InvalidActionError(
                f"action {action} is masked here: take an action that action_masks() allows"
            )
        time = self._time + 1
        self._tokens[time - self._horizon - 1] = action  # from the end: whatever the prompt's length
        terminated = action == self._eos or time == self._horizon
        if self._others:
            entry = self._ask_others(entry[0], action, time, terminated)
        state, reward, logged = entry
        self._state, self._time = state, time
        info: dict[str, Any] = logged.copy()
        if terminated:
            self._next = None
            info["text"] = self.task.vocabulary.decode(self._tokens[-self._horizon :])
        else:
            # The row is usually cached: one lookup, no call.
            self._next = self._rows[time + 1 == self._horizon].get(state) or self._row()
        info["action_mask"] = self._every_token.copy() if self._every_token is not None else self._mask()
        observation = self._tokens.copy() if self._train_state is None else self._observe()
        return observation, reward, terminated, False, info

    def _row(self) -> Row:
        """Return the step of each token in the current state; it is computed once."""
        at_horizon = self._time + 1 == self._horizon
        rows = self._rows[at_horizon]
        if self._state not in rows:
            rows[self._state] = self.model.row(self._state, at_horizon)
        return rows[self._state]

    def _ask_others(self, following: int, action: int, time: int, last: bool) -> Entry:
        """Return the next state, the reward and the logged terms, where a reward function is not a machine."""
        tokens = self._tokens[None].copy()
        prompt, completion = tokens[:, : -self._horizon], tokens[:, -self._horizon :]
        state, at_horizon = np.array([self._state]), np.array([time == self._horizon])
        reward_terms = self.model.transition(state, np.array([action]), at_horizon).reward_terms
        self.model.ask_others(
            reward_terms, TokenBatch(prompt, completion, np.array([time]), np.array([last]))
        )
        return following, *self.model.read(reward_terms[0])

    def _observe(self) -> Any:
        """Return a new observation: the tokens [P + H], or the machine's state and the time."""
        if self._train_state is None:
            return self._tokens.copy()
        return self._train_state[self._state] + self.model.n_train_states * self._time

    def _mask(self) -> npt.NDArray[np.int8]:
        """Return a new mask of the available tokens, int8 [V]."""
        available = self.model.available
        mask: npt.NDArray[np.int8] = (
            np.ones(self._n_tokens, np.int8) if available is None else available[self._state].astype(np.int8)
        )
        return mask

    def action_masks(self) -> BoolArray:
        """Return the mask of the available tokens, bool [V]; sb3-contrib reads this name."""
        return self._mask().astype(np.bool_)

    def render(self) -> str | None:
        """Return the episode so far as text (``render_mode="ansi"``), else None with Gymnasium's warning."""
        if self.render_mode is None:
            gym.logger.warn("render() needs render_mode='ansi': give it to gym.make")
            return None
        return format_episode(self.task, self.model.composition, self._tokens, self._time)

    def set_weight(self, name: str, weight: float) -> None:
        """Change the weight of a reward component, see ``TokenModel.set_weight``."""
        self.model.set_weight(name, weight)

    @property
    def train_weights(self) -> dict[str, float]:
        """Return the weight of each training reward component, by name."""
        return {source.name: weight for source, weight in self.model.composition.train}

    def tabular_mdp(self, max_entries: int = MAX_ENTRIES) -> TabularMDP:
        """Return the task as tables, see ``TokenModel.tabular_mdp``."""
        return self.model.tabular_mdp(max_entries)

    def machine_observations(self) -> IntArray:
        """Return the "machine" observation of each of the tables' states at each time, see ``TokenModel``."""
        return self.model.machine_observations()
