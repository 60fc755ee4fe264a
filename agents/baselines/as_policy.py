"""What an SB3 model would do, as the exact tools ask for it: a table over states, or a policy over token ids."""

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
    ``action_masks`` bool [S, A] reach MaskablePPO; the other agents know no masks.
    """
    masks: dict[str, Any] = {"action_masks": action_masks} if isinstance(model, MaskablePPO) else {}
    assert isinstance(model.action_space, gym.spaces.Discrete)
    actions, _ = model.predict(np.arange(n_states), deterministic=True, **masks)
    return np.eye(int(model.action_space.n))[None, actions]


@dataclass(frozen=True)
class ModelPolicy:
    """A model that learned on the token ids of ``task``, as a policy for ``evaluate_tokens``.

    Args:
        model: MaskablePPO is told the task's masks; the other agents know none.
        task: the one that it writes.
        greedy: whether the best token is always taken, as ``predict(deterministic=True)`` takes it; else
            tokens are drawn as while learning, which DQN (epsilon-greedy, falling) has no policy for.

    Raises:
        ValueError: DQN that is not greedy.
    """

    model: Model
    task: Task
    greedy: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.model, DQN) and not self.greedy:
            raise ValueError("DQN learns values and no policy to draw from: score it with greedy=True")

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
            drawn = policy.get_distribution(policy.obs_to_tensor(observations)[0], **masks).distribution
            logs: FloatArray = drawn.logits.double().numpy()
        return np.where(masks["action_masks"], logs, -np.inf) if masks else logs

    def _masks(self, batch: TokenBatch) -> dict[str, Any]:
        """Return which tokens may follow, bool [B, V], under the name that sb3-contrib has for it, if any may not."""
        available = self.task.reference.available
        if available is None or not isinstance(self.model, MaskablePPO):
            return {}
        return {"action_masks": available[reference_on_tokens(self.task).states(batch)]}
