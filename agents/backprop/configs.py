"""What the learned rewards are told, and how they are trained. Loads no torch."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from tokenwalk.agents.backprop.descent import check_choice, check_count, check_number

Schedule = Literal["constant", "cosine"]
Kind = Literal["linear", "transformer"]
Objective = Literal["preferences", "regression", "value"]
Combine = Literal["mean", "min"]


@dataclass(frozen=True)
class TrainingConfig:
    """How to train a network.

    Attributes:
        updates: at most.
        batch_size: rows of one update; the whole data where that has fewer.
        learning_rate: of AdamW, after the warm-up.
        schedule: "cosine" lets it fall to nought, "constant" does not.
        warmup: updates in which it rises from nought.
        weight_decay: of AdamW.
        clip_norm: the largest norm of a gradient; a longer one is shortened.
        evaluate_every: updates between two looks at the held-out loss.
        patience: looks without a better held-out loss after which it stops; None: never.
        seed: of the batches, and of all else that is drawn.

    Raises:
        ValueError: a field out of its range.
    """

    updates: int = 2_000
    batch_size: int = 128
    learning_rate: float = 3e-3
    schedule: Schedule = "cosine"
    warmup: int = 0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    evaluate_every: int = 100
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "batch_size", "evaluate_every"):
            check_count(name, getattr(self, name))
        for name in ("warmup", "seed"):
            check_count(name, getattr(self, name), low=0)
        if self.patience is not None:
            check_count("patience", self.patience)
        for name, least in (("learning_rate", None), ("clip_norm", None), ("weight_decay", 0.0)):
            check_number(name, getattr(self, name), least)
        check_choice("schedule", self.schedule, get_args(Schedule))

    def rate_at(self, update: int) -> float:
        """Return the learning rate of the update after ``update`` of them."""
        rising = min(1.0, (update + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "constant":
            return self.learning_rate * rising
        falling = 0.5 * (1 + math.cos(math.pi * update / self.updates))
        return self.learning_rate * rising * falling


@dataclass(frozen=True)
class RewardModelConfig:
    """What to learn a reward from, and with what.

    Attributes:
        objective: "preferences" between pairs, "regression" on gold, or the "value" of unfinished texts.
        scorer: "linear" over tokens and pairs of them, or a "transformer".
        pairs: of completions; the others learn from twice as many completions.
        temperature: of the labeller's noise, in gold's unit.
        spurious: what the labeller likes beside gold: a token and how much each of it is worth to him.
        held_out: the share of the prompts, or where there is one of the completions, that is not trained on.
        members: networks of an ensemble, each trained on pairs of its own.
        combine: whether the mean or the least of the members counts.
        width, n_layers: of the Transformer.

    Raises:
        ValueError: a field out of its range.
    """

    objective: Objective = "preferences"
    scorer: Kind = "linear"
    pairs: int = 2_000
    temperature: float = 0.25
    spurious: tuple[tuple[str, float], ...] = ()
    held_out: float = 0.2
    members: int = 1
    combine: Combine = "mean"
    width: int = 32
    n_layers: int = 2

    def __post_init__(self) -> None:
        for name, kind in (("objective", Objective), ("scorer", Kind), ("combine", Combine)):
            check_choice(name, getattr(self, name), get_args(kind))
        for name in ("pairs", "members", "width", "n_layers"):
            check_count(name, getattr(self, name))
        check_number("temperature", self.temperature)
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out!r}: give a share above 0 and below 1")
        object.__setattr__(
            self, "spurious", tuple((str(token), float(worth)) for token, worth in self.spurious)
        )


@dataclass(frozen=True)
class TokenAutoencoderConfig:
    """What to reconstruct, and through how narrow a place.

    Attributes:
        texts: completions of the reference policy to learn from.
        bottleneck: numbers in a code.
        embedding: numbers for each token. width: of the layer on each side of the code.
        noise: the share of the tokens that are replaced at random before they are read (denoising).
        held_out: the share of a text file's lines that is not trained on.

    Raises:
        ValueError: a field out of its range.
    """

    texts: int = 4_000
    bottleneck: int = 2
    embedding: int = 8
    width: int = 64
    noise: float = 0.0
    held_out: float = 0.2

    def __post_init__(self) -> None:
        if self.bottleneck == 0 and not isinstance(self.bottleneck, bool):
            raise ValueError("bottleneck is 0, through which nothing passes: give an integer of 1 or more")
        for name in ("texts", "bottleneck", "embedding", "width"):
            check_count(name, getattr(self, name))
        if not 0 <= self.noise < 1:
            raise ValueError(f"noise is {self.noise!r}: give a share of 0 or more and below 1")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out!r}: give a share above 0 and below 1")


@dataclass(frozen=True)
class LMConfig:
    """A language model, and what it is pre-trained on.

    Attributes:
        n_layers, n_heads, width: of the Transformer.
        bf16: multiply in bfloat16: faster from a width of 128 on, on processors that know it.
        texts: samples of the task's reference policy to learn from, where no text is given.
        held_out: the share of the texts that is not trained on.

    Raises:
        ValueError: a field out of its range.
    """

    n_layers: int = 2
    n_heads: int = 4
    width: int = 64
    bf16: bool = False
    texts: int = 20_000
    held_out: float = 0.1

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "width", "texts"):
            check_count(name, getattr(self, name))
        if self.width % self.n_heads:
            raise ValueError(f"width is {self.width}: give a multiple of n_heads = {self.n_heads}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out!r}: give a share above 0 and below 1")


def default_training(
    config: RewardModelConfig | TokenAutoencoderConfig | LMConfig, seed: int = 0
) -> TrainingConfig:
    """Return how to train what ``config`` describes."""
    if isinstance(config, LMConfig):
        return TrainingConfig(updates=1_000, batch_size=128, learning_rate=3e-3, warmup=50, seed=seed)
    if isinstance(config, TokenAutoencoderConfig):
        return TrainingConfig(updates=2_000, batch_size=256, learning_rate=3e-3, seed=seed)
    if config.scorer == "linear":
        return TrainingConfig(updates=1_500, batch_size=256, learning_rate=1e-2, seed=seed)
    return TrainingConfig(updates=800, batch_size=128, learning_rate=2e-3, seed=seed)
