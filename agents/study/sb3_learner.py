"""Stable-Baselines3's agents as learners."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from tokenwalk.agents.exact.token_policy import Policy
from tokenwalk.agents.study.learner import MODEL_FILE, Report, play_table, score_learner
from tokenwalk.agents.study.problem import Problem
from tokenwalk.agents.study.rollout import Actor, TokenActor
from tokenwalk.envs.transition import FloatArray


class SB3Learner:
    """PPO, A2C, DQN or MaskablePPO. torch and SB3 are imported here, when one is asked for."""

    runs, can_resume, charge = 1, False, None

    def __init__(
        self,
        agent: str,
        problem: Problem,
        config: Any,
        *,
        seed: int,
        threads: int,
        model_file: Path | None = None,
    ) -> None:
        import torch

        from tokenwalk.agents.baselines.parameters import load
        from tokenwalk.agents.baselines.sb3 import build, make_vec_env

        torch.set_num_threads(threads)
        available = None if problem.tokens is None else problem.tokens.task.reference.available
        if agent != "maskable-ppo" and available is not None and not available.all():
            raise ValueError(
                f"{agent} does not heed masks, and some tokens of {problem.env_id} are masked: take maskable-ppo, a tabular "
                "agent or a language model's"
            )
        self._problem, self._config = problem, config
        vec_env = make_vec_env(problem.env_id, 1 if model_file else config.num_envs, problem.make_args)
        if model_file:
            self._model, _ = load(model_file, vec_env)
        else:
            self._model = build(agent, vec_env, config, seed=seed)

    @property
    def steps(self) -> int:
        """Return the steps taken, of all lanes together."""
        return int(self._model.num_timesteps)

    def learn(self, steps: int, report: Report) -> None:
        """Train by SB3's own loop, in whole updates."""
        from tokenwalk.agents.baselines.sb3 import train

        if steps > 0:
            train(
                self._model,
                steps=steps,
                on_progress=report,
                evaluate=self._evaluate,
            )

    def set_weight(self, name: str, weight: float) -> None:
        """Give the paid source ``name`` another weight in all lanes."""
        self._model.env.unwrapped.vector_env.unwrapped.set_weight(name, weight)  # type: ignore[union-attr]

    def _evaluate(self, model: Any) -> Mapping[str, float]:
        """Return the exact figures of the greedy policy where there are any, by tag; ``model`` is the one held."""
        if self._problem.mdp is None and self._problem.tokens is None:
            return {}
        return score_learner(self._problem, self, seed=0).as_metrics()

    def policies(self) -> FloatArray | None:
        """Return the greedy policy as a table, [1, T or 1, S, A], where the observations are states of tables."""
        from tokenwalk.agents.baselines.policies import policy_table

        mdp, space, tokens = self._problem.mdp, self._model.observation_space, self._problem.tokens
        if mdp is None or not isinstance(space, gym.spaces.Discrete):
            return None
        if tokens is None:
            return policy_table(self._model, mdp.n_states, mdp.available)[None]
        seen = tokens.machine_observations()[: tokens.task.horizon]  # [H, S]
        return policy_table(self._model, int(space.n))[:, seen]

    def token_policy(self, run: int) -> Policy:
        """Return the greedy policy over token ids."""
        assert self._problem.tokens is not None
        from tokenwalk.agents.baselines.policies import ModelPolicy

        return ModelPolicy(self._model, self._problem.tokens.task)

    def actor(self, run: int, rng: np.random.Generator) -> Actor:
        """Return an actor that plays the greedy policy, by its table where there is one: a network is slow step by step."""
        if (policies := self.policies()) is not None:
            return play_table(self._problem, policies[run], rng)
        if self._problem.tokens is not None:
            return TokenActor(self.token_policy(run), self._problem.tokens.task, rng)
        return GreedyModelActor(self._model)

    def save(self, folder: Path) -> None:
        """Write model.safetensors."""
        from tokenwalk.agents.baselines.parameters import save

        save(self._model, self._config, folder / MODEL_FILE)


@dataclass(frozen=True)
class GreedyModelActor:
    """Plays an SB3 model without exploring; its log-probability is 0."""

    model: Any

    def act(self, observation: Any, time: int, info: Mapping[str, Any]) -> tuple[int, float]:
        """Return the model's best available action."""
        from sb3_contrib import MaskablePPO

        masks = {"action_masks": info.get("action_mask")} if isinstance(self.model, MaskablePPO) else {}
        action, _ = self.model.predict(observation, deterministic=True, **masks)
        return int(action), 0.0
