"""What a reward model is taught, and by what texts: pairs with preferences, texts with gold, prefixes with what follows.

Losses, for scores r of a text: regression mean (r - gold)^2; preferences mean -log sigmoid(r(chosen) - r(rejected)),
which fixes r up to a constant for each prompt (Bradley and Terry 1952); value mean (r(prefix) - what the text earned
from there on)^2 over all prefixes, whose optimum is the value of whoever wrote the texts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tokenwalk.agents.backprop.configs import Objective, RewardModelConfig
from tokenwalk.agents.backprop.preferences import (
    Preferences,
    Split,
    draw_completions,
    sample_preferences,
)
from tokenwalk.agents.backprop.scorers import TextShape
from tokenwalk.agents.exact_tokens.completions import Completions, sample_completions
from tokenwalk.agents.exact_tokens.token_policy import Policy, reference_on_tokens
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.builders import token_weights
from tokenwalk.envs.rewards.source import score_tokens
from tokenwalk.envs.tasks import Task

ROWS_AT_ONCE = 4_096  # texts of one look at the held-out loss


@dataclass(frozen=True, eq=False)
class RewardDataset:
    """A task and what is taught of it; draws its own data.

    Attributes:
        task: with its gold.
        config: what to learn from.
        seed: of all that is drawn.
        policy: who writes the texts; the reference policy if None.
        preferences: given ones, instead of drawn ones.
    """

    task: Task
    config: RewardModelConfig
    seed: int = 0
    policy: Policy | None = None
    preferences: Preferences | None = None

    @cached_property
    def split(self) -> Split:
        """Return which completions are held out."""
        return Split(self.task, self.config.held_out, self.seed)

    @cached_property
    def labels(self) -> Mapping[str, float]:
        """Return what each token is worth to the labeller beside gold, by name. Raises ValueError for an unknown one."""
        known = self.task.vocabulary.tokens
        if unknown := [token for token, _ in self.config.spurious if token not in known]:
            raise ValueError(
                f"spurious names {unknown[0]!r}, which is no token of {self.task.name}: it has {', '.join(known)}"
            )
        return dict(self.config.spurious)

    def gold(self, completions: Completions) -> FloatArray:
        """Return the gold of each completion, float64 [B]."""
        return completions.scores(self.task, [self.task.sources["gold"]])["gold"]

    def worth(self, completions: Completions) -> FloatArray:
        """Return what the labeller finds each completion worth, float64 [B]."""
        weights = [self.labels.get(token, 0.0) for token in self.task.vocabulary.tokens]
        liked = token_weights(weights).run(completions.tokens, completions.length).sum(axis=1)
        worth: FloatArray = self.gold(completions) + liked
        return worth

    def floor(self) -> float | None:
        """Return the least held-out loss that can be expected; None where it is not known.

        Of drawn preferences it is the mean entropy of the labels, which nobody who does not know the labeller's dice can
        go below; of regression it is 0. What values come to depends on how the texts go on.
        """
        if self.preferences is not None or self.config.objective == "value":
            return None
        if self.config.objective == "regression":
            return 0.0
        _, completions = self.draw(0, True, self.held_out_pairs)
        worth = self.worth(completions)
        margin = np.abs(worth[0::2] - worth[1::2]) / self.config.temperature
        # H(p) for p = sigmoid(m): log(1 + exp(-m)) + m (1 - p)
        entropy = np.log1p(np.exp(-margin)) + margin * np.exp(-margin) / (1 + np.exp(-margin))
        return float(entropy.mean())

    @property
    def held_out_pairs(self) -> int:
        """Return how many pairs (or twice as many texts) are drawn to be held out."""
        return max(100, round(self.config.pairs * self.config.held_out))

    def generator(self, number: int, held_out: bool) -> np.random.Generator:
        """Return the generator of one member's training data, or of the held-out data."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(number, int(held_out))))

    def draw(self, number: int, held_out: bool, pairs: int) -> tuple[Preferences | None, Completions]:
        """Return preferences where they are what is learned from, and the completions that they, or values, are of."""
        rng = self.generator(number, held_out)
        if self.config.objective == "value" and not self.split.by_prompt:
            # The value of a prefix is a mean over all that follows it: nothing may be missing.
            writer = reference_on_tokens(self.task) if self.policy is None else self.policy
            return None, sample_completions(self.task, writer, 2 * pairs, rng)
        completions = draw_completions(self.task, 2 * pairs, rng, self.split, held_out, self.policy)
        if self.config.objective != "preferences":
            return None, completions
        return sample_preferences(completions, self.worth, self.config.temperature, rng), completions


@dataclass(frozen=True, eq=False)
class Data:
    """Texts as tensors: rows of ``ids`` [N, T], their ``length`` [N] and a ``target`` [N], in pairs for preferences."""

    ids: torch.Tensor
    length: torch.Tensor
    target: torch.Tensor
    paired: bool  # rows i and N / 2 + i were compared, and the first was preferred

    @classmethod
    def of(cls, lesson: RewardDataset, shape: TextShape, number: int, held_out: bool) -> "Data":
        """Return the data of one member."""
        pairs = lesson.held_out_pairs if held_out else lesson.config.pairs
        if lesson.preferences is not None:
            preferences: Preferences | None = _part(lesson, held_out)
            completions = lesson.preferences.chosen
        else:
            preferences, completions = lesson.draw(number, held_out, pairs)
        if preferences is not None:
            both = [preferences.chosen, preferences.rejected]
            ids = torch.cat([_ids(one, lesson.task, shape) for one in both])
            length = torch.as_tensor(np.concatenate([one.length for one in both]))
            return cls(ids, length, torch.zeros(len(ids)), True)
        if lesson.config.objective == "value":
            return cls._of_prefixes(lesson, shape, completions)
        gold = torch.as_tensor(lesson.gold(completions), dtype=torch.float32)
        return cls(_ids(completions, lesson.task, shape), torch.as_tensor(completions.length), gold, False)

    @classmethod
    def _of_prefixes(cls, lesson: RewardDataset, shape: TextShape, completions: Completions) -> "Data":
        """Return every unfinished prefix with the gold that its completion earned from there on."""
        task = lesson.task
        prompt = task.prompt_ids[completions.prompt]
        scores = score_tokens(
            [task.sources["gold"]], prompt, completions.tokens, completions.length, task.vocabulary
        )["gold"]
        to_come = np.cumsum(scores[:, ::-1], axis=1)[:, ::-1]  # [B, H]: from each token on
        whole = _ids(completions, task, shape)
        parts = []
        for time in range(task.horizon):
            rows = np.flatnonzero(completions.length > time)
            ids = whole[rows].clone()
            ids[:, 1 + shape.prompt_length + time :] = shape.pad
            target = torch.as_tensor(to_come[rows, time], dtype=torch.float32)
            parts.append((ids, torch.full((len(rows),), time), target))
        ids, length, target = (torch.cat(columns) for columns in zip(*parts, strict=True))
        return cls(ids, length, target, False)

    def __len__(self) -> int:
        """Return the rows that are drawn from: pairs, or texts."""
        return len(self.ids) // 2 if self.paired else len(self.ids)

    def loss(self, member: nn.Module, rows: torch.Tensor, objective: Objective) -> torch.Tensor:
        """Return the mean loss of ``rows``."""
        if self.paired:
            both = torch.cat([rows, rows + len(self)])
            chosen, rejected = member(self.ids[both], self.length[both]).chunk(2)
            return -functional.logsigmoid(chosen - rejected).mean()
        assert objective != "preferences"
        return functional.mse_loss(member(self.ids[rows], self.length[rows]), self.target[rows])

    def whole_loss(self, member: nn.Module, objective: Objective) -> float:
        """Return the mean loss of all rows, without gradients."""
        parts = torch.split(torch.arange(len(self)), ROWS_AT_ONCE)
        losses = [self.loss(member, rows, objective).item() * len(rows) for rows in parts]
        return sum(losses) / len(self)


def _part(lesson: RewardDataset, held_out: bool) -> Preferences:
    """Return the given preferences on one side of the split: a pair is held out if one of its texts is."""
    assert lesson.preferences is not None
    chosen, rejected = lesson.preferences.chosen, lesson.preferences.rejected
    out = lesson.split.held_out(chosen) | lesson.split.held_out(rejected)
    if not out.any() or out.all():  # too few to be split by their texts: by turns
        out = np.arange(len(chosen)) % max(2, round(1 / lesson.config.held_out)) == 1
    rows = out == held_out
    return Preferences(chosen[rows], rejected[rows])


def _ids(completions: Completions, task: Task, shape: TextShape) -> torch.Tensor:
    return shape.ids(task.prompt_ids[completions.prompt], completions.tokens)


def check_learnable(lesson: RewardDataset) -> None:
    """Raise ValueError where the texts that would be learned from are all worth the same."""
    _, completions = lesson.draw(0, False, min(lesson.config.pairs, 1_000))
    worth = (
        lesson.worth(completions) if lesson.config.objective == "preferences" else lesson.gold(completions)
    )
    if lesson.preferences is None and np.ptp(worth) == 0:
        raise ValueError(
            f"{len(completions):,} completions of {lesson.task.name} are all worth {worth[0]:g}: there is nothing to "
            "learn; let them be written by somebody who is paid now and then (--writer mixed)"
        )
