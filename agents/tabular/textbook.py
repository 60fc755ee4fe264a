"""Q-learning as a textbook prints it, in plain Python and numpy. Read this file first, then ``kernels``.

``kernels`` adds the other backups, n-step returns, falling step sizes, action masks, and compilation. With backup
"q-learning", n_step 1 and a constant step size it gives the same table as this file, bit for bit.

Source: Watkins 1989, "Learning from Delayed Rewards"; Sutton and Barto 2018, section 6.5.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from tokenwalk.envs.arrays import FloatArray


class TextbookQLearning:
    """Q-learning with one table and an epsilon-greedy policy.

    Args:
        n_states: S. Observations are the integers 0..S-1.
        n_actions: A. Actions are the integers 0..A-1.
        rng: random numbers of the policy, one for each choice of an action.
        discount: gamma, in [0, 1].
        step_size: alpha, in (0, 1].
        epsilon: probability of a random action, in [0, 1].

    Attributes:
        q: the table of action values, float64 [S, A]; 0 at the beginning.
    """

    def __init__(
        self,
        n_states: int,
        n_actions: int,
        rng: np.random.Generator,
        *,
        discount: float = 0.9,
        step_size: float = 0.1,
        epsilon: float = 0.1,
    ) -> None:
        self.q: FloatArray = np.zeros((n_states, n_actions))
        self.rng, self.discount, self.step_size, self.epsilon = rng, discount, step_size, epsilon

    def update(self, state: int, action: int, reward: float, next_state: int, terminated: bool) -> None:
        """Move q(s, a) towards its target: q(s, a) += step_size * (r + discount * max_a' q(s', a') - q(s, a)).

        After a termination the value of s' is 0. After a truncation it is not: the target bootstraps as usual.
        """
        next_value = 0.0 if terminated else self.q[next_state].max()
        target = reward + self.discount * next_value
        self.q[state, action] += self.step_size * (target - self.q[state, action])

    def choose(self, state: int) -> int:
        """Return an epsilon-greedy action; ties between the best actions are broken at random.

        One random number in [0, 1) decides both: below epsilon it selects any action, above epsilon a best one.
        """
        values, uniform = self.q[state], self.rng.random()  # [A], []
        if uniform < self.epsilon:
            actions, uniform = np.arange(len(values)), uniform / self.epsilon
        else:
            actions = np.flatnonzero(values == values.max())
            uniform = (uniform - self.epsilon) / (1 - self.epsilon)
        return int(actions[min(int(uniform * len(actions)), len(actions) - 1)])  # rounding may give 1.0

    def learn(self, env: gym.Env[Any, Any], steps: int, seed: int | None = None) -> None:
        """Take ``steps`` steps in ``env``, from a new episode on. ``seed`` is of the first reset."""
        state, _ = env.reset(seed=seed)
        action = self.choose(state)
        for _ in range(steps):
            next_state, reward, terminated, truncated, _ = env.step(action)
            # Before the update, as in kernels, where SARSA needs it. After a termination there is no next action.
            next_action = 0 if terminated else self.choose(next_state)
            self.update(state, action, float(reward), next_state, terminated)
            state, action = next_state, next_action
            if terminated or truncated:
                state, _ = env.reset()
                action = self.choose(state)
