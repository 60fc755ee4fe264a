"""The sum of each reward term while an agent learns, episode by episode."""

from collections import deque
from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np

from tokenwalk.agents.runs.progress import EPISODE_WINDOW

_PREFIX = "reward/"  # of the entries of info that hold a term


class TermMeter(gym.Wrapper[Any, Any, Any, Any]):
    """Adds up each source's term, raw and weighted, over an episode; changes nothing that is seen."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._sums: dict[str, float] = {}
        self.episodes: deque[dict[str, float]] = deque(maxlen=EPISODE_WINDOW)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin to add anew."""
        self._sums = {}
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and add."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        sums = self._sums
        for key, value in info.items():
            if key.startswith(_PREFIX):
                sums[key] = sums.get(key, 0.0) + value
        if terminated or truncated:
            self.episodes.append(sums)
        return observation, reward, terminated, truncated, info


def mean_terms(meters: Iterable[TermMeter]) -> dict[str, float]:
    """Return the mean of each term over the last 100 episodes of each of ``meters``."""
    episodes = [episode for meter in meters for episode in meter.episodes]
    keys = episodes[0] if episodes else {}
    return {key: float(np.mean([one[key] for one in episodes])) for key in keys}
