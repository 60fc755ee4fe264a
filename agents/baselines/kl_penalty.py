"""A wrapper that subtracts the KL to a task's reference policy from the reward of SB3's agents."""

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from tokenwalk.agents.baselines.callbacks import Model
from tokenwalk.agents.baselines.extractors import task_of
from tokenwalk.agents.runs.progress import EPISODE_WINDOW
from tokenwalk.envs.arrays import FloatArray, IntArray
from tokenwalk.envs.rewards.source import find_rows


class KLPenalty(VecEnvWrapper):
    """Adds -kl_coef (log pi(a|s) - log pi_ref(a|s)) to every reward, where pi is the policy that took the action.

    The penalty is a number, so no gradient flows through it, and it is part of the return: the policy gradient
    that results is exactly that of E[return] - kl_coef KL(pi || pi_ref), over whole completions at discount
    1 (below 1 the KL is discounted like the rewards). ``info["episode"]``, from which rollout/ep_rew_mean comes,
    stays the environment's own return.

    Args:
        vec_env: sub-environments that observe the token ids of a task, whose reference policy is pi_ref.
        kl_coef: 0 or more.

    Raises:
        ValueError: other observations, or a token that may be taken although the reference policy never takes it,
            so that the KL is infinite.

    Source: Ziegler et al. 2019, "Fine-tuning language models from human preferences".
    """

    def __init__(self, vec_env: VecEnv, kl_coef: float) -> None:
        super().__init__(vec_env)
        task = task_of(vec_env)
        if task is None:
            raise ValueError(
                f"kl_coef is {kl_coef}, and the environment observes {vec_env.observation_space}: the KL is to "
                "the reference policy of a token task, observed as tokens; give 0"
            )
        reference = task.reference
        allowed = np.ones(reference.probability.shape, np.bool_)
        allowed = allowed if reference.available is None else reference.available
        if (never := allowed & (reference.probability == 0)).any():
            context, token = np.argwhere(never)[0]
            raise ValueError(
                f"the reference policy of {task.name} never generates token {token} in context {context}, so the KL "
                "is infinite: mask the token, or smooth the policy"
            )
        self._task, self._kl_coef = task, kl_coef
        self._log_reference = reference.log_probability
        self._model: Model | None = None
        self._so_far = np.zeros(vec_env.num_envs)  # log pi / pi_ref of the tokens of each sub-environment
        self._ended: deque[float] = deque(maxlen=EPISODE_WINDOW)

    def hold(self, model: Model) -> None:
        """Take the policy of ``model``, which acts in these sub-environments. Raises ValueError for DQN, which has none."""
        if isinstance(model, DQN):
            raise ValueError(
                "DQN takes no kl_coef: it learns values and acts greedily, so there is no log-probability to "
                "penalize; take ppo, a2c or maskable-ppo, or soft-q"
            )
        self._model = model

    def reset(self) -> npt.NDArray[Any]:
        """Return the first observations, [B, L]."""
        self._observations: npt.NDArray[Any] = self.venv.reset()  # type: ignore[assignment]
        self._contexts = self._start(self._observations)
        self._so_far[:] = 0.0
        return self._observations

    @property
    def kl(self) -> float | None:
        """Return the KL that is penalized, in nats: the mean of the last 100 completions; None before the first."""
        return float(np.mean(self._ended)) if self._ended else None

    def _start(self, observations: npt.NDArray[Any]) -> IntArray:
        """Return the reference policy's context before the first token of each sub-environment, [B]."""
        start, prompts = self._task.reference.start, self._task.prompt_ids
        if start.size == 1:
            return np.full(len(observations), start[0])
        return start[find_rows(prompts, observations[:, : prompts.shape[1]])]

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Compute the penalty of the tokens [B] and step the sub-environments."""
        log_ratio = self._log_probs(actions) - self._log_reference[self._contexts, actions]
        self._penalty = self._kl_coef * log_ratio
        self._so_far += log_ratio
        self._contexts = self._task.reference.next_context[self._contexts, actions]
        self.venv.step_async(actions)

    def _log_probs(self, actions: npt.NDArray[Any]) -> FloatArray:
        """Return the log-probability that the policy gave each action, float64 [B]."""
        assert self._model is not None, "hold(model) comes before the first step"
        policy: Any = self._model.policy
        masks = {"action_masks": get_action_masks(self.venv)} if isinstance(self._model, MaskablePPO) else {}
        with torch.no_grad():
            distribution = policy.get_distribution(policy.obs_to_tensor(self._observations)[0], **masks)
            log_probs: FloatArray = distribution.log_prob(torch.as_tensor(actions)).double().numpy()
        return log_probs

    def step_wait(self) -> VecEnvStepReturn:
        """Return the step of the sub-environments, with the penalty subtracted from the rewards."""
        observations, rewards, ended, infos = self.venv.step_wait()
        assert isinstance(observations, np.ndarray)
        self._observations = observations
        if ended.any():
            self._contexts[ended] = self._start(observations[ended])
            self._ended.extend(self._so_far[ended].tolist())
            self._so_far[ended] = 0.0
        return observations, (rewards - self._penalty).astype(np.float32), ended, infos
