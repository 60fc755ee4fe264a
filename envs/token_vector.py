"""Writing one token at a time for a reward that knows its optimum: B lanes stepped as one."""

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
    Paid,
    Shaping,
    TokenModel,
    blank_tokens,
    compose,
    cumulative_weights,
    observation_space,
)
from tokenwalk.envs.token_text import draw_episode


class TokenGenerationVectorEnv(VectorEnv[Any, IntArray, Any]):
    """B token environments stepped as one: lane i is the scalar one of the seed ``seed + i``, step by step.

    Autoreset is SAME_STEP: a lane that ends is reset in the same step. Its last observation is in
    ``info["final_obs"]`` under the mask ``info["_final_obs"]``, and what its last step logged is in
    ``info["final_info"]``, as with Gymnasium's SyncVectorEnv; but where a mask is False nothing is blanked:
    every logged array holds the step just taken in all lanes. Text is never decoded:
    ``task.vocabulary.decode`` is there.

    Args:
        num_envs: B, the number of lanes.
        max_episode_steps: steps after which a lane is truncated; None (or -1, as in ``gym.make``) never.
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
        reward: Paid | Sequence[Paid] = "gold",
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
        self._clocks = EpisodeClocks(
            num_envs, None
        )  # for its draws alone; the time below is what ends an episode
        self._blank, self._cumulative = blank_tokens(self.task), cumulative_weights(self.task)
        width = self._blank.shape[1]
        # Where each lane writes its first token, in the tokens of all lanes laid end to end.
        self._begin: IntArray = np.arange(num_envs, dtype=np.int64) * width + self.task.prompt_length
        self._end = self._begin + self.task.horizon
        self._every_env = np.ones(num_envs, dtype=np.bool_)
        self._every_token = np.ones((num_envs, self.task.vocabulary.size), dtype=np.int8)
        self._start_in(np.zeros(num_envs, dtype=np.int64))

    def _start_in(self, prompt: IntArray) -> None:
        """Begin every lane anew with the prompt of its index, [B]."""
        self._tokens = self._blank[prompt]
        self._place = self._begin.copy()  # where each lane writes next
        self._state = self.model.start[prompt]

    def _draw_prompts(self, rows: IntArray) -> IntArray:
        """Return the prompt of the present episode in the lanes ``rows`` [n], by the draw of its reset, [n]."""
        if len(self._blank) == 1:
            return np.zeros(len(rows), dtype=np.int64)
        drawn: IntArray = np.searchsorted(self._cumulative, self._clocks.draw(rows), side="right")
        return drawn

    @property
    def _time(self) -> IntArray:
        """Return the tokens written in each lane, [B]."""
        return self._place - self._begin

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every lane: (observations [B, ...], the masks). ``options`` are not used."""
        seeds = env_seeds(seed, self.num_envs)
        super().reset(seed=None if None in seeds else seeds[0])
        self._clocks.reset(seeds, self.np_random)
        self._start_in(self._draw_prompts(np.arange(self.num_envs)))
        return self._observe(), {"action_mask": self._masks(), "_action_mask": self._every_env.copy()}

    def step(self, actions: Any) -> tuple[Any, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Write a token in every lane: (observations, rewards, terminated, truncated, info)."""
        model = self.model
        if not self._clocks.started:
            raise EpisodeEndedError("the lanes were never started: call reset() before step()")
        actions = check_actions(actions, self.num_envs, self.task.vocabulary.size)
        if model.available is not None:
            self._check_allowed(model.available[self._state, actions], actions)
        self._tokens.reshape(-1)[self._place] = actions.astype(self._tokens.dtype)
        self._place += 1
        self._state, terminated, ledger = model.transition(self._state, actions, self._place == self._end)
        if model.others:
            model.ask_others(ledger, self._batch(terminated))
        rewards = ledger[:, 0].copy()
        if self.max_episode_steps is None:
            truncated, ended = np.zeros(self.num_envs, dtype=np.bool_), terminated.copy()
        else:
            truncated = self._time >= self.max_episode_steps
            ended = terminated | truncated
        info: dict[str, Any] = {}
        rows = ended.nonzero()[0]
        if rows.size:
            info = self._final(ledger, rows, ended)
            self._restart(rows)
        went_on = ~ended
        for key, column in model.logged.items():
            info[key], info[f"_{key}"] = ledger[:, column], went_on
        info["action_mask"], info["_action_mask"] = self._masks(), self._every_env.copy()
        return self._observe(), rewards, terminated, truncated, info

    def _final(self, ledger: FloatArray, rows: IntArray, ended: BoolArray) -> dict[str, Any]:
        """Return what Gymnasium keeps apart for the lanes ``rows``, those which ``ended``."""
        column, final_obs = np.empty(rows.size, dtype=object), np.empty(self.num_envs, dtype=object)
        column[:] = list(self._observe().take(rows, axis=0))  # an object each: the tokens' array, or a number
        final_obs[rows] = column
        final_info: dict[str, Any] = {"action_mask": self._masks(), "_action_mask": ended}
        ledger = ledger.copy()
        for key, number in self.model.logged.items():
            final_info[key], final_info[f"_{key}"] = ledger[:, number], ended
        return {"final_obs": final_obs, "_final_obs": ended, "final_info": final_info, "_final_info": ended}

    def _check_allowed(self, allowed: BoolArray, actions: IntArray) -> None:
        """Raise InvalidActionError, naming the lane, unless every action is allowed, [B]."""
        if not allowed.all():
            lane = int(np.flatnonzero(~allowed)[0])
            raise InvalidActionError(
                f"action {actions[lane]} of lane {lane} is masked: action_masks() says what may be taken"
            )

    def _batch(self, last: BoolArray) -> TokenBatch:
        """Return a copy of every lane's tokens, for the sources that are no machines."""
        tokens, split = self._tokens.copy(), self.task.prompt_length
        return TokenBatch(tokens[:, :split], tokens[:, split:], self._time, last.copy())

    def _restart(self, rows: IntArray) -> None:
        """Start the next episode in the lanes ``rows``, those which ended."""
        self._place[rows] = self._begin.take(rows)
        if len(self._blank) == 1:
            self._tokens[rows], self._state[rows] = self._blank[0], self.model.start[0]
            return
        self._clocks.restart(rows)
        prompt = self._draw_prompts(rows)
        self._tokens[rows], self._state[rows] = (
            self._blank.take(prompt, axis=0),
            self.model.start.take(prompt),
        )

    def _observe(self) -> Any:
        """Return fresh observations: the tokens [B, P + H], or the paid machine and the time [B]."""
        if self._train_state is None:
            return self._tokens.copy()
        return self._train_state[self._state] + self.model.n_train_states * self._time

    def _masks(self) -> npt.NDArray[np.int8]:
        """Return a fresh mask of the tokens that may be taken, int8 [B, V]."""
        if self.model.available is None:
            return self._every_token.copy()
        return self.model.available[self._state].astype(np.int8)

    def action_masks(self) -> BoolArray:
        """Return which tokens may be taken now, bool [B, V], under the name that sb3-contrib asks for."""
        return self._masks().astype(np.bool_)

    def set_weight(self, name: str, weight: float) -> None:
        """Anneal a paid source in every lane, see ``TokenModel.set_weight``. For trainers, which log it."""
        self.model.set_weight(name, weight)

    def render(self) -> tuple[str, ...] | None:
        """Return each lane's episode so far as text (``render_mode="ansi"``), else None."""
        if self.render_mode is None:
            return None
        composition = self.model.composition
        return tuple(
            draw_episode(self.task, composition, *lane)
            for lane in zip(self._tokens, self._time.tolist(), strict=True)
        )
