"""Configs of learned rewards and language models, and of their training. Loads no torch."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from tokenwalk.agents.backprop.descent import set_fields
from tokenwalk.envs.checks import check_choice, check_count, check_number

Schedule = Literal["constant", "cosine"]
Kind = Literal["linear", "transformer"]
Objective = Literal["preferences", "regression", "value"]
Combine = Literal["mean", "min"]


@dataclass(frozen=True)
class TrainingConfig:
    """How to train a network.

    Attributes:
        updates: at most.
        batch_size: rows of one update; all rows where there are fewer.
        learning_rate: of AdamW, after the warm-up.
        schedule: "cosine" lets the learning rate fall to 0, "constant" does not.
        warmup: updates in which the learning rate rises from 0.
        weight_decay: of AdamW.
        clip_norm: largest norm of a gradient; a larger gradient is scaled down to it.
        evaluate_every: updates between two evaluations of the held-out loss.
        patience: evaluations without a better held-out loss after which training stops; None: never.
        seed: of the batches and of all other random numbers.

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
        checked: dict[str, object] = {"schedule": check_choice("schedule", self.schedule, get_args(Schedule))}
        for name in ("updates", "batch_size", "evaluate_every"):
            checked[name] = check_count(name, getattr(self, name))
        for name in ("warmup", "seed"):
            checked[name] = check_count(name, getattr(self, name), low=0)
        if self.patience is not None:
            checked["patience"] = check_count("patience", self.patience)
        for name in ("learning_rate", "clip_norm"):
            checked[name] = check_number(name, getattr(self, name), 0, low_open=True)
        checked["weight_decay"] = check_number("weight_decay", self.weight_decay, 0)
        set_fields(self, checked)

    def rate_at(self, update: int) -> float:
        """Return the learning rate of the update after ``update`` of them."""
        rising = min(1.0, (update + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "constant":
            return self.learning_rate * rising
        falling = 0.5 * (1 + math.cos(math.pi * update / self.updates))
        return self.learning_rate * rising * falling


@dataclass(frozen=True)
class RewardModelConfig:
    """The data and the network of a reward model.

    Attributes:
        objective: "preferences" between pairs, "regression" on gold, or the "value" of unfinished texts.
        scorer: "linear" over tokens and pairs of them, or a "transformer".
        pairs: of completions; the other objectives use twice as many completions.
        temperature: of the annotator's noise, in gold's unit.
        spurious: the annotator's bias: tokens, and what each occurrence adds to gold.
        held_out: the share of the prompts, or where there is one of the completions, that is not trained on.
        members: networks of an ensemble, each trained on its own pairs.
        combine: whether the mean or the minimum of the members is the reward.
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
        checked: dict[str, object] = {}
        for name, kind in (("objective", Objective), ("scorer", Kind), ("combine", Combine)):
            checked[name] = check_choice(name, getattr(self, name), get_args(kind))
        for name in ("pairs", "members", "width", "n_layers"):
            checked[name] = check_count(name, getattr(self, name))
        checked["temperature"] = check_number("temperature", self.temperature, 0, low_open=True)
        checked["held_out"] = check_held_out(self.held_out)
        checked["spurious"] = tuple((str(token), float(value)) for token, value in self.spurious)
        set_fields(self, checked)


@dataclass(frozen=True)
class TokenAutoencoderConfig:
    """The data and the network of an autoencoder.

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
            raise ValueError("bottleneck is 0, a code of no numbers: give an integer of 1 or more")
        checked: dict[str, object] = {
            name: check_count(name, getattr(self, name))
            for name in ("texts", "bottleneck", "embedding", "width")
        }
        checked["noise"] = check_number("noise", self.noise, 0, 1, high_open=True)
        checked["held_out"] = check_held_out(self.held_out)
        set_fields(self, checked)


@dataclass(frozen=True)
class LMConfig:
    """A language model and its pre-training data.

    Attributes:
        n_layers, n_heads, width: of the Transformer.
        bf16: multiply in bfloat16: faster from a width of 128 on, on processors that support it.
        texts: samples of the task's reference policy to train on, where no text is given.
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
        checked: dict[str, object] = {
            name: check_count(name, getattr(self, name)) for name in ("n_layers", "n_heads", "width", "texts")
        }
        checked["held_out"] = check_held_out(self.held_out)
        set_fields(self, checked)
        if self.width % self.n_heads:
            raise ValueError(f"width is {self.width}: give a multiple of n_heads = {self.n_heads}")


def check_held_out(share: object) -> float:
    """Return the held-out share as a float. Raises ValueError unless it is above 0 and below 1."""
    return check_number("held_out", share, 0, 1, low_open=True, high_open=True)


def default_training(
    config: RewardModelConfig | TokenAutoencoderConfig | LMConfig, seed: int = 0
) -> TrainingConfig:
    """Return the training config that suits ``config``."""
    if isinstance(config, LMConfig):
        return TrainingConfig(updates=1_000, batch_size=128, learning_rate=3e-3, warmup=50, seed=seed)
    if isinstance(config, TokenAutoencoderConfig):
        return TrainingConfig(updates=2_000, batch_size=256, learning_rate=3e-3, seed=seed)
    if config.scorer == "linear":
        return TrainingConfig(updates=1_500, batch_size=256, learning_rate=1e-2, seed=seed)
    return TrainingConfig(updates=800, batch_size=128, learning_rate=2e-3, seed=seed)
