"""A lamp with one switch: an environment of this project's own."""

from typing import Any

import gymnasium as gym


class LampEnv(gym.Env[int, int]):
    """Observation: whether the lamp is lit. Action 1 flips the switch. Reward 1 while it is lit."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Discrete(2)
        self.action_space = gym.spaces.Discrete(2)
        self.lit = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.lit = 0
        return self.lit, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.lit ^= int(action)
        return self.lit, float(self.lit), False, False, {}
