"""Callbacks of an SB3 agent in training: SB3's own metrics and those of an evaluation."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from tokenwalk.agents.runs.progress import OnMetrics

Model = OnPolicyAlgorithm | DQN
Evaluate = Callable[[Model], Mapping[str, float]]


class ProgressCallback(BaseCallback):
    """Dumps the log with an evaluation: before the first step, every ``every`` steps, at the end."""

    model: Model

    def __init__(self, steps: int, every: int, evaluate: Evaluate) -> None:
        super().__init__()
        self._steps, self._every, self._of_model = steps, every, evaluate
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
        for tag, value in self._of_model(self.model).items():
            self.logger.record(tag, value)


class ForwardingWriter(KVWriter):
    """Forwards every dump of SB3's logger, except what SB3 excludes from TensorBoard."""

    def __init__(self, on_progress: OnMetrics) -> None:
        self._on_progress = on_progress

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Call ``on_progress(step, tag -> value)`` with the numbers of this dump, if there are any."""
        metrics = {
            tag: float(value)
            for tag, value in key_values.items()
            if "tensorboard" not in key_excluded[tag] and isinstance(value, (int, float, np.number))
        }
        if metrics:
            self._on_progress(step, metrics)

    def close(self) -> None:
        """Do nothing: the receiver closes its own files."""
