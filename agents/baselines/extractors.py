"""Features of token ids for SB3's networks, which share across positions what is learned."""

from collections.abc import Generator
from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import nn
from torch.nn import functional

from tokenwalk.envs.tasks import Task
from tokenwalk.envs.token_model import TokenModel, observation_space

RECENT = 8  # last tokens with a feature for each distance from the end
# Columns that the trigrams share where there are more of them; a prime, so that each of their tokens counts.
BUCKETS = 4093


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
        """Return the first observations unchanged."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Return the step of the sub-environments unchanged."""
        return self.venv.step_wait()


class TokenFinder:
    """Finds which features are there in token ids, as numbers of columns: as many in every row.

    First the P = 8 (V + 1) + L + 1 + V *plain* columns: the last tokens, each by its distance from the end, the
    position, and a bag of all tokens. Then, where asked for, a bag of trigrams (three tokens in a row, the prompt's
    included), numbered apart: a column for each of the K = V^3, or K = BUCKETS where there are more of them. The
    numbers P and K stand for padding, which is in no bag.

    Args:
        observation_space: the Box of ``TokenIds``: L ids from 0 to V, where V is padding.
        trigrams: whether to find them.

    Attributes:
        length: L. plain: P. found: the plain columns found in each row, 8 + 1 + L.
        trigrams: K, or 0 where there are none to find.
    """

    def __init__(self, observation_space: spaces.Box, trigrams: bool) -> None:
        (self.length,) = observation_space.shape
        self._pad = pad = int(observation_space.high.max())
        position = RECENT * (pad + 1)  # the column of position 0; those of the last tokens come before it
        bag = position + self.length + 1
        self.plain, self.found = bag + pad, RECENT + 1 + self.length
        threes = max(self.length - 2, 0) if trigrams else 0
        self.trigrams = min(pad**3, BUCKETS) if threes else 0
        self._places = torch.arange(1, self.length + 1)
        self._distances = torch.arange(RECENT)
        self._digits = torch.tensor([pad**2, pad, 1])
        recent = [distance * (pad + 1) for distance in range(RECENT)]
        self._first = torch.tensor([*recent, position, *[bag] * self.length, *[0] * threes])

    def find(self, observations: torch.Tensor) -> torch.Tensor:
        """Return what is found in ids [B, L], int64 [B, 8 + 1 + L], with trigrams L - 2 more."""
        ids = observations.long()
        position = ((ids != self._pad) * self._places).amax(1, keepdim=True)  # after the last token [B, 1]
        recent = functional.pad(ids, (RECENT, 0), value=self._pad).gather(1, position + self._distances)
        parts = [recent, position, ids]
        if self.trigrams:
            threes = ids.unfold(1, 3, 1)  # [B, L - 2, 3]
            numbers = (threes * self._digits).sum(2).remainder_(self.trigrams)
            parts.append(numbers.masked_fill_(threes.amax(2) == self._pad, self.trigrams))
        return torch.cat(parts, 1).add_(self._first)


class TokenFeatures(BaseFeaturesExtractor):
    """The last tokens, each by its distance from the end, the position, a bag of all tokens, and one of trigrams.

    What is learned of a token holds wherever it stands, which a column per position (SB3's one-hot encoding)
    has to learn L times. The one layer after the columns is the sum of their embeddings:
    tanh(sum of E_distance[token] for the last eight + E[position] + sum over all tokens of E[token]
    + sum over all trigrams of E[trigram]). The trigrams' begin at 0: what many texts share is learned by the
    others, what is peculiar to one text by its trigrams.

    Args:
        observation_space: the Box of ``TokenIds``: L ids from 0 to V, where V is padding.
        width: of the layer; None for the bare columns.
        trigrams: whether they are seen.

    Shapes: ids [B, L] as numbers of any type, or what a ``TokenFinder`` found in them -> [B, width], or
    [B, P + K] counts.
    """

    def __init__(self, observation_space: spaces.Box, width: int | None, trigrams: bool = False) -> None:
        finder = TokenFinder(observation_space, trigrams)
        super().__init__(observation_space, finder.plain + finder.trigrams if width is None else width)
        self._finder = finder
        self.layer = (
            nn.Identity() if width is None else nn.Sequential(nn.Linear(finder.plain, width), nn.Tanh())
        )
        self.trigrams: nn.EmbeddingBag | None = None
        if finder.trigrams and width is not None:
            # A matrix of V^3 columns would be all zeros but for a few: rows are looked up instead.
            self.trigrams = nn.EmbeddingBag(
                finder.trigrams + 1, width, mode="sum", padding_idx=finder.trigrams
            )
            nn.init.zeros_(self.trigrams.weight)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the features of token ids."""
        finder = self._finder
        is_ids = observations.shape[1] == finder.length
        found = finder.find(observations) if is_ids else observations.long()
        if not finder.trigrams:
            plain: torch.Tensor = self.layer(count(found, finder.plain))
            return plain
        counts, trigrams = count(found[:, : finder.found], finder.plain), found[:, finder.found :]
        if self.trigrams is None or isinstance(self.layer, nn.Identity):
            return torch.cat([counts, count(trigrams, finder.trigrams)], 1)
        linear, activation = self.layer
        features: torch.Tensor = activation(linear(counts) + self.trigrams(trigrams))
        return features


def count(found: torch.Tensor, columns: int) -> torch.Tensor:
    """Return how often each of the columns is found, float32 [B, columns]; the number ``columns`` is not counted."""
    counts = torch.zeros(len(found), columns + 1)
    counts.scatter_add_(1, found, torch.ones(1, 1).expand_as(found))
    return counts[:, :-1]


class FindsOnce(RolloutBuffer):
    """Token ids of a rollout, in which the features are found once: not for every batch of every epoch anew."""

    def __init__(self, *args: Any, trigrams: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert isinstance(self.observation_space, spaces.Box)
        self._finder = TokenFinder(self.observation_space, trigrams)

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """Return the batches, with what was found in place of the ids."""
        if not self.generator_ready:
            ids = torch.as_tensor(self.observations)  # [T, B, L]
            found = self._finder.find(ids.flatten(0, 1)).reshape(*ids.shape[:2], -1)
            self.observations = found.float().numpy()  # as SB3 hands them to the network
        return super().get(batch_size)


class MaskableFindsOnce(FindsOnce, MaskableRolloutBuffer):
    """The same, with the masks that sb3-contrib keeps beside the observations."""


def task_of(vec_env: VecEnv) -> Task | None:
    """Return the task whose token ids ``vec_env`` observes; None where it observes anything else."""
    model = vec_env.get_attr("model")[0] if vec_env.has_attr("model") else None
    if isinstance(model, TokenModel) and vec_env.observation_space == observation_space(model, "tokens"):
        return model.task
    return None
