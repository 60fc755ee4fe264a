"""The datasets of a reward model: pairs with preferences, texts with gold, or prefixes with the gold that follows.

Losses, for scores r of a text: regression mean (r - gold)^2; preferences mean -log sigmoid(r(chosen) - r(rejected)),
which fixes r up to a constant for each prompt (Bradley and Terry 1952); value mean (r(prefix) - gold from there on)^2
over all prefixes, whose optimum is the value function of the policy that generated the texts.
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
    sample_preferences,
    sample_split,
)
from tokenwalk.agents.backprop.scorers import TextShape
from tokenwalk.agents.exact_tokens.completions import Completions, sample_completions
from tokenwalk.agents.exact_tokens.token_policy import Policy, reference_on_tokens
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.builders import token_weights
from tokenwalk.envs.rewards.source import score_tokens
from tokenwalk.envs.tasks import Task

ROWS_AT_ONCE = 4_096  # texts scored at once for the held-out loss


@dataclass(frozen=True, eq=False)
class RewardDataset:
    """A task with the data that a reward model of it is trained on; it samples the data.

    Attributes:
        task: with its gold.
        config: of the data.
        seed: of all random numbers.
        policy: that generates the texts; the reference policy if None.
        preferences: given ones, used instead of sampled ones.
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
    def bias(self) -> Mapping[str, float]:
        """Return what each occurrence of a token adds to gold for the annotator. Raises ValueError for an unknown token."""
        known = self.task.vocabulary.tokens
        if unknown := [token for token, _ in self.config.spurious if token not in known]:
            raise ValueError(
                f"spurious names {unknown[0]!r}, which is no token of {self.task.name}: it has {', '.join(known)}"
            )
        return dict(self.config.spurious)

    def gold(self, completions: Completions) -> FloatArray:
        """Return the gold of each completion, float64 [B]."""
        return completions.scores(self.task, [self.task.sources["gold"]])["gold"]

    def annotator_score(self, completions: Completions) -> FloatArray:
        """Return the annotator's score of each completion, gold plus bias, float64 [B]."""
        weights = [self.bias.get(token, 0.0) for token in self.task.vocabulary.tokens]
        bias = token_weights(weights).run(completions.tokens, completions.length).sum(axis=1)
        score: FloatArray = self.gold(completions) + bias
        return score

    def irreducible_loss(self) -> float | None:
        """Return the smallest expected held-out loss; None where it is not known.

        Mean label entropy for sampled preferences, 0 for regression. For values it depends on the unknown variance of the
        gold that follows a prefix.
        """
        if self.preferences is not None or self.config.objective == "value":
            return None
        if self.config.objective == "regression":
            return 0.0
        _, completions = self.sample(0, True, self.held_out_pairs)
        score = self.annotator_score(completions)
        margin = np.abs(score[0::2] - score[1::2]) / self.config.temperature
        # H(p) for p = sigmoid(m): log(1 + exp(-m)) + m (1 - p)
        entropy = np.log1p(np.exp(-margin)) + margin * np.exp(-margin) / (1 + np.exp(-margin))
        return float(entropy.mean())

    @property
    def held_out_pairs(self) -> int:
        """Return the number of held-out pairs (or half the number of held-out texts)."""
        return max(100, round(self.config.pairs * self.config.held_out))

    def generator(self, number: int, held_out: bool) -> np.random.Generator:
        """Return the generator of one member's training data, or of the held-out data."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(number, int(held_out))))

    def sample(self, number: int, held_out: bool, pairs: int) -> tuple[Preferences | None, Completions]:
        """Return the preferences of member ``number``, None for other objectives, and the completions of its data."""
        rng = self.generator(number, held_out)
        if self.config.objective == "value" and not self.split.by_prompt:
            # The value of a prefix is a mean over all continuations: none may be held out.
            policy = reference_on_tokens(self.task) if self.policy is None else self.policy
            return None, sample_completions(self.task, policy, 2 * pairs, rng)
        completions = sample_split(self.task, 2 * pairs, rng, self.split, held_out, self.policy)
        if self.config.objective != "preferences":
            return None, completions
        return sample_preferences(
            completions, self.annotator_score, self.config.temperature, rng
        ), completions


@dataclass(frozen=True, eq=False)
class Data:
    """Texts as tensors: rows of ``ids`` [N, T], their ``length`` [N] and a ``target`` [N], in pairs for preferences."""

    ids: torch.Tensor
    length: torch.Tensor
    target: torch.Tensor
    paired: bool  # rows i and N / 2 + i were compared, and the first was preferred

    @classmethod
    def of(cls, dataset: RewardDataset, shape: TextShape, number: int, held_out: bool) -> "Data":
        """Return the data of one member."""
        pairs = dataset.held_out_pairs if held_out else dataset.config.pairs
        if dataset.preferences is not None:
            preferences: Preferences | None = _part(dataset, held_out)
            completions = dataset.preferences.chosen
        else:
            preferences, completions = dataset.sample(number, held_out, pairs)
        if preferences is not None:
            both = [preferences.chosen, preferences.rejected]
            ids = torch.cat([_ids(one, dataset.task, shape) for one in both])
            length = torch.as_tensor(np.concatenate([one.length for one in both]))
            return cls(ids, length, torch.zeros(len(ids)), True)
        if dataset.config.objective == "value":
            return cls._of_prefixes(dataset, shape, completions)
        gold = torch.as_tensor(dataset.gold(completions), dtype=torch.float32)
        return cls(_ids(completions, dataset.task, shape), torch.as_tensor(completions.length), gold, False)

    @classmethod
    def _of_prefixes(cls, dataset: RewardDataset, shape: TextShape, completions: Completions) -> "Data":
        """Return every unfinished prefix with the gold that its completion earned from there on."""
        task = dataset.task
        prompt = task.prompt_ids[completions.prompt]
        scores = score_tokens(
            [task.sources["gold"]], prompt, completions.tokens, completions.length, task.vocabulary
        )["gold"]
        following = np.cumsum(scores[:, ::-1], axis=1)[:, ::-1]  # [B, H]: from each token on
        whole = _ids(completions, task, shape)
        parts = []
        for time in range(task.horizon):
            rows = np.flatnonzero(completions.length > time)
            ids = whole[rows].clone()
            ids[:, 1 + shape.prompt_length + time :] = shape.pad
            target = torch.as_tensor(following[rows, time], dtype=torch.float32)
            parts.append((ids, torch.full((len(rows),), time), target))
        ids, length, target = (torch.cat(columns) for columns in zip(*parts, strict=True))
        return cls(ids, length, target, False)

    def __len__(self) -> int:
        """Return the number of rows: pairs, or texts."""
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


def _part(dataset: RewardDataset, held_out: bool) -> Preferences:
    """Return the given preferences on one side of the split: a pair is held out if one of its texts is."""
    assert dataset.preferences is not None
    chosen, rejected = dataset.preferences.chosen, dataset.preferences.rejected
    out = dataset.split.held_out(chosen) | dataset.split.held_out(rejected)
    if not out.any() or out.all():  # too few to be split by their texts: split by row number
        out = np.arange(len(chosen)) % max(2, round(1 / dataset.config.held_out)) == 1
    rows = out == held_out
    return Preferences(chosen[rows], rejected[rows])


def _ids(completions: Completions, task: Task, shape: TextShape) -> torch.Tensor:
    return shape.ids(task.prompt_ids[completions.prompt], completions.tokens)


def check_learnable(dataset: RewardDataset) -> None:
    """Raise ValueError where all texts of the data have the same score."""
    _, completions = dataset.sample(0, False, min(dataset.config.pairs, 1_000))
    score = (
        dataset.annotator_score(completions)
        if dataset.config.objective == "preferences"
        else dataset.gold(completions)
    )
    if dataset.preferences is None and np.ptp(score) == 0:
        raise ValueError(
            f"{len(completions):,} completions of {dataset.task.name} all have the score {score[0]:g}: there is nothing to "
            "learn; sample them from a policy that is sometimes rewarded (--writer mixed)"
        )
