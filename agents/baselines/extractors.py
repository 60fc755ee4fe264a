"""Features of token ids for SB3's networks, sharing across positions what they learn; no one-hot columns."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import nn
from torch.nn import functional

WIDTH = 64  # features
RECENT = 4  # last tokens that are told apart by their distance from the end
MAX_TRIGRAMS = 4093  # rows for the trigrams; a prime, so that no token of one drops out of the remainder


class TokenFeatures(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Box, width: int = WIDTH) -> None:
        super().__init__(observation_space, width)
        self._pad = int(observation_space.high.max())
        (length,) = observation_space.shape
        base = self._pad + 1
        self._base = base
        self._n_trigrams = min(base**3, MAX_TRIGRAMS)
        starts = np.cumsum([0, RECENT * base, length + 1, base])
        self._position, self._bag, self._trigram = (int(one) for one in starts[1:])
        self._nothing = self._trigram + self._n_trigrams
        self.register_buffer("_recent", torch.arange(RECENT) * base, persistent=False)
        self.register_buffer("_back", torch.arange(RECENT - 1, -1, -1), persistent=False)
        self.register_buffer("_place", torch.arange(1, length + 1), persistent=False)
        self.rows = nn.EmbeddingBag(self._nothing + 1, width, mode="sum", padding_idx=self._nothing)
        with torch.no_grad():
            self.rows.weight *= INIT
            self.rows.weight[self._nothing] = 0
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        ids = observations.long()
        written = ids != self._pad
        last = (written * self._place).amax(dim=1, keepdim=True)
        padded = functional.pad(ids, (RECENT, 0), value=self._pad)
        recent = padded.gather(1, last + self._back) + self._recent
        bag = torch.where(written, ids + self._bag, self._nothing)
        parts = [recent, last + self._position, bag]
        if TRI and ids.shape[1] > 2:
            code = (ids[:, :-2] * self._base + ids[:, 1:-1]) * self._base + ids[:, 2:]
            whole = written[:, 2:] & written[:, :-2]
            parts.append(torch.where(whole, code % self._n_trigrams + self._trigram, self._nothing))
        return ACT(self.rows(torch.cat(parts, dim=1)) + self.bias)

INIT, TRI, ACT = 0.3, True, torch.tanh

class TokenIds(VecEnvWrapper):
    def __init__(self, vec_env: VecEnv) -> None:
        space = vec_env.observation_space
        super().__init__(vec_env, spaces.Box(0, int(space.nvec.max()) - 1, space.shape, space.dtype.type))

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        return self.venv.step_wait()
