"""What an SB3 agent tells while it learns: SB3's own figures, and the exact value of its greedy policy."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from tokenwalk.agents.exact.dynamic_programming import NoFiniteAnswerError, solve
from tokenwalk.agents.exact.evaluation import evaluate, reference_policy
from tokenwalk.envs.tabular import TabularMDP
from tokenwalk.envs.transition import BoolArray, FloatArray

Model = OnPolicyAlgorithm | DQN
OnProgress = Callable[[int, Mapping[str, float]], None]


def policy_table(model: Model, n_states: int, action_masks: BoolArray | None = None) -> FloatArray:
    """Return the greedy policy of ``model`` as a table of ones and zeros, float64 [1, S, A].

    All S states go through the network as one batch, as the observations 0..S-1 of a Discrete(S) space.
    ``action_masks`` bool [S, A] reach MaskablePPO; the other agents know no masks.
    """
    masks: dict[str, Any] = {"action_masks": action_masks} if isinstance(model, MaskablePPO) else {}
    assert isinstance(model.action_space, gym.spaces.Discrete)
    actions, _ = model.predict(np.arange(n_states), deterministic=True, **masks)
    return np.eye(int(model.action_space.n))[None, actions]


class GreedyEvaluation:
    """The exact figures of a model's greedy policy, undiscounted over the environment's own horizon.

    Args:
        mdp: the environment's tables.
        weights: channel -> weight of what the agent is paid.

    Raises:
        ValueError: the model's spaces are not Discrete(S) and Discrete(A), those of the tables.
    """

    def __init__(self, mdp: TabularMDP, weights: Mapping[str, float], model: Model) -> None:
        expected = (gym.spaces.Discrete(mdp.n_states), gym.spaces.Discrete(mdp.n_actions))
        if (model.observation_space, model.action_space) != expected:
            raise ValueError(
                f"the tables have {mdp.n_states} states and {mdp.n_actions} actions, but the agent "
                f"observes {model.observation_space} and acts in {model.action_space}: give its own tables"
            )
        self._mdp, self._weights, self._model = mdp, weights, model
        self._reference: float | None = None
        try:
            self._optimum = solve(mdp, {"gold": 1.0}, discount=1.0).start_value(mdp)
            self._reference = evaluate(mdp, reference_policy(mdp)).returns["gold"]
        except NoFiniteAnswerError:
            pass  # without the two ends there is no score; the returns may still exist

    def measure(self) -> dict[str, float]:
        """Return eval/return (paid), eval/gold, eval/normalized_score and eval/exact = 1.

        Without a time limit, a policy that may never end has no return: then the dictionary is empty.
        """
        table = policy_table(self._model, self._mdp.n_states, self._mdp.available)
        try:
            returns = evaluate(self._mdp, table).returns
        except NoFiniteAnswerError:
            return {}
        gold, paid = returns["gold"], sum(weight * returns[name] for name, weight in self._weights.items())
        metrics = {"eval/return": paid, "eval/gold": gold, "eval/exact": 1.0}
        if self._reference is not None and self._optimum > self._reference:
            metrics["eval/normalized_score"] = (gold - self._reference) / (self._optimum - self._reference)
        return metrics


class ProgressCallback(BaseCallback):
    """Dumps the log with an evaluation: before the first step, every ``every`` steps, at the end."""

    model: Model

    def __init__(self, steps: int, every: int, evaluation: GreedyEvaluation | None) -> None:
        super().__init__()
        self._steps, self._every, self._evaluation = steps, every, evaluation
        self._next = every

    def _on_training_start(self) -> None:
        self._evaluate()
        self.logger.dump(0)

    def _on_step(self) -> bool:
        if self._next <= self.num_timesteps < self._steps:
            self._next = self.num_timesteps + self._every
            self._evaluate()
            self.model.dump_logs()
        return True

    def _on_training_end(self) -> None:
        self._evaluate()
        self.model.dump_logs()

    def _evaluate(self) -> None:
        if self._evaluation is not None:
            for tag, value in self._evaluation.measure().items():
                self.logger.record(tag, value)


class ForwardingWriter(KVWriter):
    """Hands every dump of SB3's logger on, less what SB3 keeps off TensorBoard."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Call ``on_progress(step, tag -> value)`` with the numbers of this dump, unless there are none."""
        metrics = {
            tag: float(value)
            for tag, value in key_values.items()
            if "tensorboard" not in key_excluded[tag] and isinstance(value, (int, float, np.number))
        }
        if metrics:
            self._on_progress(step, metrics)

    def close(self) -> None:
        """Do nothing: the receiver closes what it opened."""
