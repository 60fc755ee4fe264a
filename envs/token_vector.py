"""The token-generation environment with a known optimum: B sub-environments stepped together."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray
from tokenwalk.envs.checks import (
    EpisodeEndedError,
    InvalidActionError,
    check_actions,
    check_num_envs,
    check_render_mode,
    check_time_limit,
)
from tokenwalk.envs.random_numbers import EpisodeClocks, env_seeds
from tokenwalk.envs.rewards.source import Source, TokenBatch
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import (
    RewardTerm,
    Shaping,
    TokenModel,
    blank_tokens,
    compose,
    cumulative_weights,
    observation_space,
)
from tokenwalk.envs.token_text import format_episode


class TokenGenerationVectorEnv(VectorEnv[Any, IntArray, Any]):
    """B token environments stepped together: sub-environment i equals the scalar one with the seed ``seed + i``.

    Autoreset is SAME_STEP: a sub-environment that ends is reset in the same step. Its last observation is in
    ``info["final_obs"]`` under the mask ``info["_final_obs"]``, and the info of its last step is in
    ``info["final_info"]``, as with Gymnasium's SyncVectorEnv. But entries with a False mask are not blanked: every
    logged array holds the last step of all sub-environments. Text is not decoded; use ``task.vocabulary.decode``.

    Args:
        num_envs: B, the number of sub-environments.
        max_episode_steps: steps after which a sub-environment is truncated; None (or -1, as in ``gym.make``) for no limit.
        task, reward, horizon, observation, metrics, shaping, render_mode: as for ``TokenGenerationEnv``.

    Raises:
        ValueError: arguments out of range. InvalidActionError and EpisodeEndedError from ``step``, state
            unchanged.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4, "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        task: str | Task = "Keyword",
        reward: RewardTerm | Sequence[RewardTerm] = "gold",
        horizon: int | None = None,
        observation: Literal["tokens", "machine"] = "tokens",
        metrics: Iterable[Source] = (),
        shaping: Shaping | Sequence[Shaping] = (),
        render_mode: str | None = None,
    ) -> None:
        super().__init__()
        self.task = find_task(task, horizon)
        self.model = TokenModel(self.task, compose(self.task, reward, metrics, shaping))
        self.num_envs = check_num_envs(num_envs)
        self.max_episode_steps = check_time_limit(max_episode_steps)
        self.render_mode = check_render_mode(render_mode)
        self.single_observation_space = observation_space(self.model, observation)
        self.single_action_space = gym.spaces.Discrete(self.task.vocabulary.size)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._train_state = self.model.train_state if observation == "machine" else None
        self._clocks = EpisodeClocks(num_envs, None)  # only for its samples; the time below ends an episode
        self._blank, self._cumulative = blank_tokens(self.task), cumulative_weights(self.task)
        width = self._blank.shape[1]
        # The index of each first token, in the flattened tokens of all sub-environments, [B].
        self._begin: IntArray = np.arange(num_envs, dtype=np.int64) * width + self.task.prompt_length
        self._end = self._begin + self.task.horizon
        self._every_env = np.ones(num_envs, dtype=np.bool_)
        self._every_token = np.ones((num_envs, self.task.vocabulary.size), dtype=np.int8)
        self._start_in(np.zeros(num_envs, dtype=np.int64))

    def _start_in(self, prompt: IntArray) -> None:
        """Start every sub-environment with the prompt of its index, int64 [B]."""
        self._tokens = self._blank[prompt]  # [B, P + H]
        self._place = self._begin.copy()  # [B], the index of each next token
        self._state = self.model.start[prompt]

    def _sample_prompts(self, rows: IntArray) -> IntArray:
        """Return the index of the prompt of each current episode, int64 [n], for the sub-environments ``rows`` [n]."""
        if len(self._blank) == 1:
            return np.zeros(len(rows), dtype=np.int64)
        prompt: IntArray = np.searchsorted(self._cumulative, self._clocks.sample(rows), side="right")
        return prompt

    @property
    def _time(self) -> IntArray:
        """Return the number of generated tokens in each sub-environment, int64 [B]."""
        return self._place - self._begin

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every sub-environment: (observations [B, ...], the masks). ``options`` are not used."""
        seeds = env_seeds(seed, self.num_envs)
        super().reset(seed=None if None in seeds else seeds[0])
        self._clocks.reset(seeds, self.np_random)
        self._start_in(self._sample_prompts(np.arange(self.num_envs)))
        return self._observe(), {"action_mask": self._masks(), "_action_mask": self._every_env.copy()}

    def step(self, actions: Any) -> tuple[Any, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Append a token in every sub-environment: (observations, rewards, terminated, truncated, info)."""
        model = self.model
        if not self._clocks.started:
            raise EpisodeEndedError("the sub-environments were never started: call reset() before step()")
        actions = check_actions(actions, self.num_envs, self.task.vocabulary.size)
        if model.available is not None:
            self._check_allowed(model.available[self._state, actions], actions)
        self._tokens.reshape(-1)[self._place] = actions.astype(self._tokens.dtype)
        self._place += 1
        self._state, terminated, reward_terms = model.transition(
            self._state, actions, self._place == self._end
        )
        if model.others:
            model.ask_others(reward_terms, self._batch(terminated))
        rewards = reward_terms[:, 0].copy()
        if self.max_episode_steps is None:
            truncated, ended = np.zeros(self.num_envs, dtype=np.bool_), terminated.copy()
        else:
            truncated = self._time >= self.max_episode_steps
            ended = terminated | truncated
        info: dict[str, Any] = {}
        rows = ended.nonzero()[0]
        if rows.size:
            info = self._final(reward_terms, rows, ended)
            self._restart(rows)
        went_on = ~ended
        for key, column in model.logged.items():
            info[key], info[f"_{key}"] = reward_terms[:, column], went_on
        info["action_mask"], info["_action_mask"] = self._masks(), self._every_env.copy()
        return self._observe(), rewards, terminated, truncated, info

    def _final(self, reward_terms: FloatArray, rows: IntArray, ended: BoolArray) -> dict[str, Any]:
        """Return the final observations and infos of the sub-environments ``rows`` [n], where ``ended`` [B]."""
        column, final_obs = np.empty(rows.size, dtype=object), np.empty(self.num_envs, dtype=object)
        column[:] = list(
            self._observe().take(rows, axis=0)
        )  # one object each: an array of tokens, or a number
        final_obs[rows] = column
        final_info: dict[str, Any] = {"action_mask": self._masks(), "_action_mask": ended}
        reward_terms = reward_terms.copy()
        for key, number in self.model.logged.items():
            final_info[key], final_info[f"_{key}"] = reward_terms[:, number], ended
        return {"final_obs": final_obs, "_final_obs": ended, "final_info": final_info, "_final_info": ended}

    def _check_allowed(self, allowed: BoolArray, actions: IntArray) -> None:
        """Raise InvalidActionError, naming the sub-environment, unless every action is allowed, [B]."""
        if not allowed.all():
            env_index = int(np.flatnonzero(~allowed)[0])
            raise InvalidActionError(
                f"action {actions[env_index]} of sub-environment {env_index} is masked: "
                "take an action that action_masks() allows"
            )

    def _batch(self, last: BoolArray) -> TokenBatch:
        """Return a copy of every sub-environment's tokens, for the reward functions that are not machines."""
        tokens, split = self._tokens.copy(), self.task.prompt_length
        return TokenBatch(tokens[:, :split], tokens[:, split:], self._time, last.copy())

    def _restart(self, rows: IntArray) -> None:
        """Start the next episode in the sub-environments ``rows`` [n], which ended."""
        self._place[rows] = self._begin.take(rows)
        if len(self._blank) == 1:
            self._tokens[rows], self._state[rows] = self._blank[0], self.model.start[0]
            return
        self._clocks.restart(rows)
        prompt = self._sample_prompts(rows)
        self._tokens[rows], self._state[rows] = (
            self._blank.take(prompt, axis=0),
            self.model.start.take(prompt),
        )

    def _observe(self) -> Any:
        """Return fresh observations: the tokens [B, P + H], or the machine's state and the time [B]."""
        if self._train_state is None:
            return self._tokens.copy()
        return self._train_state[self._state] + self.model.n_train_states * self._time

    def _masks(self) -> npt.NDArray[np.int8]:
        """Return a new mask of the available tokens, int8 [B, V]."""
        if self.model.available is None:
            return self._every_token.copy()
        return self.model.available[self._state].astype(np.int8)

    def action_masks(self) -> BoolArray:
        """Return the mask of the available tokens, bool [B, V]; sb3-contrib reads this name."""
        return self._masks().astype(np.bool_)

    def set_weight(self, name: str, weight: float) -> None:
        """Change the weight of a reward component in every sub-environment, see ``TokenModel.set_weight``."""
        self.model.set_weight(name, weight)

    def render(self) -> tuple[str, ...] | None:
        """Return each sub-environment's episode so far as text (``render_mode="ansi"``), else None."""
        if self.render_mode is None:
            return None
        composition = self.model.composition
        return tuple(
            format_episode(self.task, composition, *episode)
            for episode in zip(self._tokens, self._time.tolist(), strict=True)
        )
