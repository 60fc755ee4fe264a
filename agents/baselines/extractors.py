"""What SB3's networks see of token ids: features that share across positions what is learned from them."""

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import nn
from torch.nn import functional

from tokenwalk.envs.tasks import Task
from tokenwalk.envs.token_model import TokenModel, observation_space

RECENT = 8  # last tokens that are told apart by their distance from the end


class TokenIds(VecEnvWrapper):
    """Token ids as a Box, which SB3 hands to the network as they are: a MultiDiscrete it would one-hot encode.

    The observations themselves [B, L] are not touched.
    """

    def __init__(self, vec_env: VecEnv) -> None:
        space = vec_env.observation_space
        assert isinstance(space, spaces.MultiDiscrete)
        assert space.dtype is not None
        ids: Any = spaces.Box(0, int(space.nvec.max()) - 1, space.shape, space.dtype.type)
        super().__init__(vec_env, ids)

    def reset(self) -> VecEnvObs:
        """Return the first observations, as they are."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Return what the lanes gave, as it is."""
        return self.venv.step_wait()


class TokenFeatures(BaseFeaturesExtractor):
    """The last tokens, each by its distance from the end, the position, and a bag of all tokens.

    What is learned of a token holds wherever it stands, which a column per position (SB3's one-hot encoding)
    has to learn L times. The one layer after the columns is the sum of their embeddings:
    tanh(sum of E_distance[token] for the last eight + E[position] + sum over all tokens of E[token]).

    Args:
        observation_space: the Box of ``TokenIds``: L ids from 0 to V, where V is padding.
        width: of the layer; None for the bare columns.

    Shapes: ids [B, L] as numbers of any type -> [B, width], or [B, 8 (V + 1) + L + 1 + V] columns.
    """

    _places: torch.Tensor
    _distances: torch.Tensor

    def __init__(self, observation_space: spaces.Box, width: int | None) -> None:
        (length,) = observation_space.shape
        self._pad = int(observation_space.high.max())
        size = self._pad + 1
        self._position = RECENT * size  # the column of position 0; those of the last tokens come before it
        self._bag = self._position + length + 1
        columns = self._bag + self._pad
        super().__init__(observation_space, columns if width is None else width)
        self.layer = nn.Identity() if width is None else nn.Sequential(nn.Linear(columns, width), nn.Tanh())
        self.register_buffer("_places", torch.arange(1, length + 1), persistent=False)
        self.register_buffer("_distances", torch.arange(RECENT), persistent=False)

    def columns(self, observations: torch.Tensor) -> torch.Tensor:
        """Return how often each column's feature is there, of the type of ``observations``, [B, columns]."""
        ids = observations.long()
        position = ((ids != self._pad) * self._places).amax(
            dim=1, keepdim=True
        )  # after the last token [B, 1]
        padded = functional.pad(ids, (RECENT, 0), value=self._pad)
        recent = padded.gather(1, position + self._distances) + self._distances * (self._pad + 1)
        found = torch.cat([recent, position + self._position, ids + self._bag], dim=1)
        counts = observations.new_zeros(len(ids), self._bag + self._pad + 1)
        counts.scatter_add_(1, found, observations.new_ones(1, 1).expand_as(found))
        return counts[:, :-1]  # less the last one, which counts the padding

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the features of token ids."""
        features: torch.Tensor = self.layer(self.columns(observations))
        return features


def task_of(vec_env: VecEnv) -> Task | None:
    """Return the task whose token ids ``vec_env`` observes; None where it observes anything else."""
    model = vec_env.get_attr("model")[0] if vec_env.has_attr("model") else None
    if isinstance(model, TokenModel) and vec_env.observation_space == observation_space(model, "tokens"):
        return model.task
    return None
