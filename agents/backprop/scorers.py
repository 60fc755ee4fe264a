"""Networks that score a text: a linear one over tokens and pairs of tokens, and a small Transformer."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from tokenwalk.agents.backprop.configs import Kind
from tokenwalk.agents.backprop.transformer import Transformer, TransformerConfig
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.machine import TokenArray
from tokenwalk.envs.rewards.source import TokenBatch
from tokenwalk.envs.tasks import Task


class ForeignTextError(ValueError):
    """Texts of another vocabulary or length than a model was trained on."""


@dataclass(frozen=True)
class TextShape:
    """The input format of a network: its vocabulary and lengths.

    Attributes:
        tokens: the vocabulary, ``<eos>`` last; V of them.
        prompt_length, horizon: P and H.
    """

    tokens: tuple[str, ...]
    prompt_length: int
    horizon: int

    @classmethod
    def of(cls, task: Task) -> "TextShape":
        """Return that of ``task``."""
        return cls(task.vocabulary.tokens, task.prompt_length, task.horizon)

    @property
    def pad(self) -> int:
        """Return the id that pads, V."""
        return len(self.tokens)

    def check_task(self, task: Task) -> None:
        """Raise ForeignTextError, naming what differs, unless ``task`` has this shape."""
        own, other = vars(self), vars(TextShape.of(task))
        if differing := [name for name in own if own[name] != other[name]]:
            name = differing[0]
            raise ForeignTextError(
                f"the model was trained for {name} = {own[name]}, {task.name} has {other[name]}: train one on it"
            )

    def ids(self, prompt: TokenArray, completion: TokenArray) -> torch.Tensor:
        """Return a network's input, int64 [B, 1 + P + H]: a padding token, the prompt, the completion.

        Raises:
            ForeignTextError: other lengths, or a token that the vocabulary does not have.
        """
        lengths = prompt.shape[1], completion.shape[1]
        if lengths != (self.prompt_length, self.horizon):
            raise ForeignTextError(
                f"prompts and completions have {lengths} tokens, the model was trained for "
                f"{(self.prompt_length, self.horizon)}: train one on this task"
            )
        begin = np.full((len(prompt), 1), self.pad, dtype=np.int64)
        ids = np.hstack([begin, prompt.astype(np.int64), completion.astype(np.int64)])
        if ids.size and (ids.max() > self.pad or ids.min() < 0):
            raise ForeignTextError(f"token {ids.max()} is out of range: the model reads 0 to {self.pad}")
        return torch.from_numpy(ids)


class LinearScorer(nn.Module):
    """The sum of a weight for each token and one for each pair of consecutive tokens, ``<eos>`` included.

    The score is linear in the weights, so a loss that is convex in the score is convex in the weights. Of the prompt only
    the last token is read.
    """

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.first, self.size = 1 + shape.prompt_length, shape.pad + 1
        self.alone = nn.Parameter(torch.zeros(self.size))
        self.following = nn.Parameter(torch.zeros(self.size * self.size))

    def forward(self, ids: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Return the score [B] of texts ``ids`` [B, 1 + P + H] whose completions have ``length`` [B] tokens."""
        token, before = ids[:, self.first :], ids[:, self.first - 1 : -1]
        weights = self.alone[token] + self.following[before * self.size + token]  # [B, H]
        is_token = torch.arange(token.shape[1]) < length[:, None]  # [B, H]
        score: torch.Tensor = (weights * is_token).sum(dim=1)
        return score


class TransformerScorer(nn.Module):
    """A Transformer with a linear head on the vector of the last token."""

    def __init__(self, shape: TextShape, width: int, n_layers: int) -> None:
        super().__init__()
        self.first = shape.prompt_length  # where a completion of no token ends
        context = 1 + shape.prompt_length + shape.horizon
        config = TransformerConfig(shape.pad + 1, context, n_layers, max(1, width // 16), width)
        self.body, self.head = Transformer(config), nn.Linear(width, 1)

    def forward(self, ids: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Return the score [B], as ``LinearScorer`` does."""
        vectors = self.body(ids)  # [B, T, D]
        last = vectors[torch.arange(len(ids)), self.first + length]  # [B, D]
        score: torch.Tensor = self.head(last)[:, 0]
        return score


def build_scorer(kind: Kind, shape: TextShape, width: int, n_layers: int, seed: int) -> nn.Module:
    """Return a fresh network; torch's global generator is left unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LinearScorer(shape) if kind == "linear" else TransformerScorer(shape, width, n_layers)


class Ensemble:
    """Networks whose scores are standardized and then combined by their mean or minimum.

    A callable, as ``LearnedSource`` needs: from a ``TokenBatch`` to float64 [B].
    """

    def __init__(
        self,
        members: list[nn.Module],
        shape: TextShape,
        combine: Literal["mean", "min"],
        calibration: FloatArray | None = None,
    ) -> None:
        self.members, self.shape, self.combine = members, shape, combine
        # [members, 2]: mean and standard deviation of each under the reference policy
        self.calibration = np.tile([0.0, 1.0], (len(members), 1)) if calibration is None else calibration

    def raw(self, batch: TokenBatch) -> FloatArray:
        """Return the score of each network, float64 [members, B]."""
        ids = self.shape.ids(np.asarray(batch.prompt), np.asarray(batch.completion))
        length = torch.as_tensor(np.asarray(batch.length, dtype=np.int64))
        with torch.inference_mode():
            found = [member(ids, length).double().numpy() for member in self.members]
        return np.stack(found)

    def linear_weights(self) -> tuple[FloatArray, FloatArray, float] | None:
        """Return the weight of each token [V + 1] and of each pair of tokens [V + 1, V + 1], and the constant.

        None where the score is not such a sum: for Transformers, and for the minimum of several.
        """
        linear = [member for member in self.members if isinstance(member, LinearScorer)]
        if len(linear) < len(self.members) or (self.combine == "min" and len(linear) > 1):
            return None
        mean, std = self.calibration.T
        share = 1.0 / (std * len(linear))
        size = linear[0].size
        parts = [
            (one.alone.detach().double().numpy(), one.following.detach().double().numpy()) for one in linear
        ]
        alone = sum((part * weight for (part, _), weight in zip(parts, share, strict=True)), np.zeros(size))
        following = sum(
            (part * weight for (_, part), weight in zip(parts, share, strict=True)), np.zeros(size**2)
        )
        return alone, following.reshape(size, size), -float((mean * share).sum())

    def __call__(self, batch: TokenBatch) -> FloatArray:
        """Return the combined score of each text, float64 [B]."""
        mean, std = self.calibration.T[:, :, None]  # each [members, 1]
        scores = (self.raw(batch) - mean) / std  # [members, B]
        combined: FloatArray = scores.mean(axis=0) if self.combine == "mean" else scores.min(axis=0)
        return combined
