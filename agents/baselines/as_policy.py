"""The policy of an SB3 model in the form that the exact tools take: a table over states, or a policy over token ids."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN

from tokenwalk.agents.baselines.callbacks import Model
from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens
from tokenwalk.envs.arrays import BoolArray, FloatArray
from tokenwalk.envs.rewards.source import TokenBatch
from tokenwalk.envs.tasks import Task


def policy_table(model: Model, n_states: int, action_masks: BoolArray | None = None) -> FloatArray:
    """Return the greedy policy of ``model`` as a table of ones and zeros, float64 [1, S, A].

    All S states go through the network as one batch, as the observations 0..S-1 of a Discrete(S) space.
    ``action_masks`` bool [S, A] reach MaskablePPO; the other agents take no masks.
    """
    masks: dict[str, Any] = {"action_masks": action_masks} if isinstance(model, MaskablePPO) else {}
    assert isinstance(model.action_space, gym.spaces.Discrete)
    actions, _ = model.predict(np.arange(n_states), deterministic=True, **masks)
    return np.eye(int(model.action_space.n))[None, actions]


@dataclass(frozen=True)
class ModelPolicy:
    """A model that was trained on the token ids of ``task``, as a policy for ``evaluate_tokens``.

    Args:
        model: MaskablePPO gets the task's masks; the other agents take none.
        task: whose completions it generates.
        greedy: whether the best token is always taken, as ``predict(deterministic=True)`` does; else tokens are sampled
            as in training. DQN has no stochastic policy.

    Raises:
        ValueError: DQN that is not greedy.
    """

    model: Model
    task: Task
    greedy: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.model, DQN) and not self.greedy:
            raise ValueError("DQN learns values and no policy to sample from: score it with greedy=True")

    def log_probs(self, batch: TokenBatch) -> FloatArray:
        """Return the natural log-probability of each token after each prefix, float64 [B, V]."""
        observations, masks = np.hstack([batch.prompt, batch.completion]), self._masks(batch)
        if self.greedy:
            tokens, _ = self.model.predict(observations, deterministic=True, **masks)
            table = np.full((len(tokens), self.task.vocabulary.size), -np.inf)
            table[np.arange(len(tokens)), tokens] = 0.0
            return table
        policy: Any = self.model.policy
        with torch.no_grad():
            found = policy.get_distribution(policy.obs_to_tensor(observations)[0], **masks).distribution
            logs: FloatArray = found.logits.double().numpy()
        return np.where(masks["action_masks"], logs, -np.inf) if masks else logs

    def _masks(self, batch: TokenBatch) -> dict[str, Any]:
        """Return which tokens are available, bool [B, V], as sb3-contrib's keyword argument; empty without masks."""
        available = self.task.reference.available
        if available is None or not isinstance(self.model, MaskablePPO):
            return {}
        return {"action_masks": available[reference_on_tokens(self.task).states(batch)]}
