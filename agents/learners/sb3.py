"""Stable-Baselines3's agents as learners."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from sb3_contrib import MaskablePPO

from tokenwalk.agents.baselines.as_policy import ModelPolicy, policy_table
from tokenwalk.agents.baselines.parameters import load, save
from tokenwalk.agents.baselines.sb3 import build, make_vec_env, train
from tokenwalk.agents.evaluation.policies import AnyPolicy, PlayedPolicy, TablePolicies, TokenPolicy
from tokenwalk.agents.evaluation.score import score
from tokenwalk.agents.learners.protocol import Saved, Setup
from tokenwalk.agents.problem.saved_models import MODEL_FILE
from tokenwalk.agents.runs.progress import OnMetrics


class SB3Learner:
    """PPO, A2C, DQN or MaskablePPO. torch and SB3 are imported here, when one is asked for."""

    runs, can_resume = 1, False

    @classmethod
    def build(cls, setup: Setup) -> "SB3Learner":
        """Return a fresh learner."""
        return cls(setup)

    @classmethod
    def load(cls, saved: Saved) -> "SB3Learner":
        """Return the learner that a run holds. Raises FileNotFoundError or DamagedFileError."""
        return cls(Setup(saved.agent, saved.problem, None), saved.folder / MODEL_FILE)

    def __init__(self, setup: Setup, model_file: Path | None = None) -> None:
        agent, problem, config = setup.agent, setup.problem, setup.config
        torch.set_num_threads(setup.threads)
        available = None if problem.tokens is None else problem.tokens.task.reference.available
        if agent != "maskable-ppo" and available is not None and not available.all():
            raise ValueError(
                f"{agent} does not respect masks, and some tokens of {problem.env_id} are masked: take maskable-ppo, a "
                "tabular agent or a language model's"
            )
        self._problem, self._config = problem, config
        vec_env = make_vec_env(problem.env_id, 1 if model_file else config.num_envs, problem.make_args)
        if model_file:
            self._model, _ = load(model_file, vec_env)
        else:
            self._model = build(agent, vec_env, config, seed=setup.seed)

    @property
    def steps(self) -> int:
        """Return the steps taken, of all sub-environments together."""
        return int(self._model.num_timesteps)

    def learn(self, steps: int, report: OnMetrics) -> None:
        """Train by SB3's own loop, in whole updates."""
        if steps > 0:
            train(
                self._model,
                steps=steps,
                on_progress=report,
                evaluate=self._evaluate,
            )

    def set_weight(self, name: str, weight: float) -> None:
        """Give the reward component ``name`` another weight in all sub-environments."""
        self._model.env.unwrapped.vector_env.unwrapped.set_weight(name, weight)  # type: ignore[union-attr]

    def _evaluate(self, model: Any) -> Mapping[str, float]:
        """Return the exact figures of the greedy policy where there are any, by tag; ``model`` is the one held."""
        if self._problem.mdp is None and self._problem.tokens is None:
            return {}
        return score(self._problem, self.policy()).as_metrics()

    def policy(self) -> AnyPolicy:
        """Return the greedy policy: a table where the observations are states of tables, else over tokens, else played."""
        mdp, space, tokens = self._problem.mdp, self._model.observation_space, self._problem.tokens
        if mdp is not None and isinstance(space, gym.spaces.Discrete):
            if tokens is None:
                return TablePolicies(policy_table(self._model, mdp.n_states, mdp.available)[None])
            seen = tokens.machine_observations()[: tokens.task.horizon]  # [H, S]
            return TablePolicies(policy_table(self._model, int(space.n))[:, seen])
        if tokens is not None:
            return TokenPolicy(ModelPolicy(self._model, tokens.task))
        return PlayedPolicy(lambda rng: GreedyModelActor(self._model))

    def save(self, folder: Path) -> None:
        """Write model.safetensors."""
        save(self._model, self._config, folder / MODEL_FILE)


@dataclass(frozen=True)
class GreedyModelActor:
    """Plays an SB3 model without exploring; its log-probability is 0."""

    model: Any

    def act(self, observation: Any, time: int, info: Mapping[str, Any]) -> tuple[int, float]:
        """Return the model's best available action."""
        masks = {"action_masks": info.get("action_mask")} if isinstance(self.model, MaskablePPO) else {}
        action, _ = self.model.predict(observation, deterministic=True, **masks)
        return int(action), 0.0
