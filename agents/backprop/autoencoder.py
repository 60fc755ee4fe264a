"""A token autoencoder: it encodes a text in a few numbers and decodes it; a large error marks an unusual text.

loss = mean over the tokens of a completion of -log p(token | code), without padding. A text's error is the mean over its
own tokens, in nats. Without a code the smallest error is the entropy of the tokens at each position. A code as wide as the
text has an error near 0, whose standard deviation is noise; the bonus is scaled to it. Source: Hinton and Salakhutdinov
2006, "Reducing the dimensionality of data with neural networks"; Vincent et al. 2008 (denoising).

Shape letters: B texts, P prompt tokens, H tokens of a completion, E numbers for each token, V vocabulary.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tokenwalk.agents.backprop.configs import TokenAutoencoderConfig, TrainingConfig
from tokenwalk.agents.backprop.fit import Training, fit
from tokenwalk.agents.backprop.preferences import (
    PreferenceDataError,
)
from tokenwalk.agents.backprop.reward_model import MARGIN, reference_completions
from tokenwalk.agents.backprop.scorers import TextShape
from tokenwalk.agents.exact_tokens.completions import Completions, concatenate, sample_completions
from tokenwalk.agents.exact_tokens.encode import encode_completion
from tokenwalk.agents.exact_tokens.proxy_agreement import mean_and_std
from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens
from tokenwalk.agents.runs.checkpoint import DamagedFileError
from tokenwalk.agents.runs.progress import OnMetrics
from tokenwalk.agents.runs.tensors import read_tensors, write_tensors
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.learned import LearnedSource
from tokenwalk.envs.rewards.source import TokenBatch
from tokenwalk.envs.tasks import Task

KIND = "autoencoder"


class TokenAutoencoder(nn.Module):
    """Ids [B, 1 + P + H] to the logits of the completion's tokens, [B, H, V]."""

    def __init__(self, shape: TextShape, config: TokenAutoencoderConfig) -> None:
        super().__init__()
        self.shape, length = shape, 1 + shape.prompt_length + shape.horizon
        self.tokens = nn.Embedding(shape.pad + 1, config.embedding)
        self.encoder = nn.Sequential(
            nn.Linear(length * config.embedding, config.width),
            nn.Tanh(),
            nn.Linear(config.width, config.bottleneck),
        )
        self.decoder = nn.Sequential(
            nn.Linear(config.bottleneck, config.width),
            nn.Tanh(),
            nn.Linear(config.width, shape.horizon * shape.pad),
        )

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, H, V]."""
        code = self.encoder(self.tokens(ids).flatten(1))  # [B, (1 + P + H) E] to [B, bottleneck]
        logits: torch.Tensor = self.decoder(code).view(len(ids), self.shape.horizon, self.shape.pad)
        return logits

    def token_errors(self, read: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Return -log p of each completion token of ``ids``, [B, H], 0 for padding; ``read`` [B, 1 + P + H] is encoded."""
        target = ids[:, 1 + self.shape.prompt_length :]  # [B, H]
        logits = self(read).flatten(0, 1)  # [B * H, V]
        errors = functional.cross_entropy(
            logits, target.flatten(), ignore_index=self.shape.pad, reduction="none"
        )
        return errors.view_as(target)


@dataclass(frozen=True, eq=False)
class ReconstructionError:
    """The error of each text, in nats per token, as ``LearnedSource`` asks for it; 0 for a text of no token."""

    network: TokenAutoencoder

    def __call__(self, batch: TokenBatch) -> FloatArray:
        """Return the errors, float64 [B]."""
        ids = self.network.shape.ids(np.asarray(batch.prompt), np.asarray(batch.completion))  # [B, 1 + P + H]
        with torch.no_grad():
            total = self.network.token_errors(ids, ids).sum(dim=1).double().numpy()  # [B]
        errors: FloatArray = total / np.maximum(np.asarray(batch.length), 1)
        return errors


@dataclass(frozen=True, eq=False)
class Reconstruction(LearnedSource):
    """A trained autoencoder's error as a reward component: mean 0 and standard deviation 1 under the reference policy.

    With a positive weight it is a bonus for unusual texts, with a negative one a penalty on texts unlike the reference
    policy's: both change the optimum. As a potential (``value``) it does not.

    Attributes:
        about: the task and the configs that it was trained with.
    """

    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> TokenAutoencoder:
        """Return the network."""
        assert isinstance(self.scorer, ReconstructionError)
        return self.scorer.network

    def save(self, path: Path) -> None:
        """Write the network, its calibration and its configs, as safetensors."""
        tensors = {name: one.detach().numpy() for name, one in self.network.state_dict().items()}
        numbers = {name: getattr(self, name) for name in ("centre", "scale", "low", "high")}
        kept = {name: number if np.isfinite(number) else None for name, number in numbers.items()}
        write_tensors(
            path, tensors, {"kind": KIND, **self.about, **kept, "shape": asdict(self.network.shape)}
        )

    @classmethod
    def load(cls, path: Path, name: str = KIND) -> "Reconstruction":
        """Return what ``save`` wrote, to be logged as ``name``. Raises as ``RewardModel.load``."""
        tensors, about = read_tensors(Path(path))
        if about.get("kind") != KIND:
            raise DamagedFileError(f"{path} holds a {about.get('kind') or 'model of an agent'}, no {KIND}")
        try:
            shape = TextShape(**{**about["shape"], "tokens": tuple(about["shape"]["tokens"])})
            network = TokenAutoencoder(shape, TokenAutoencoderConfig(**about["config"]))
            network.load_state_dict({key: torch.as_tensor(one) for key, one in tensors.items()})
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DamagedFileError(
                f"{path} does not fit this version of tokenwalk ({error}): train again"
            ) from None
        low, high = about["low"], about["high"]
        bounds = -np.inf if low is None else low, np.inf if high is None else high
        kept = {key: about[key] for key in ("task", "config", "training", "seed")}
        scorer = ReconstructionError(network.eval())
        return cls(name, scorer, about["centre"], about["scale"], 0.0, *bounds, about=kept)


def train_autoencoder(
    task: Task,
    config: TokenAutoencoderConfig,
    training: TrainingConfig,
    *,
    texts: Completions | None = None,
    name: str = KIND,
    on_progress: OnMetrics | None = None,
) -> tuple[Reconstruction, Training]:
    """Return an autoencoder of the reference policy's completions (or of ``texts``), and the result of its training.

    Half of the texts of a batch are cut at a random position, because as a potential it scores unfinished texts.

    Raises:
        PreferenceDataError: too few texts. NonFiniteLossError: as ``fit``.
    """
    shape, rng = TextShape.of(task), np.random.default_rng(training.seed)
    if texts is None:
        reference = reference_on_tokens(task)
        seen = sample_completions(task, reference, config.texts, rng)
        fresh = sample_completions(task, reference, max(1_000, config.texts // 4), rng)
    else:
        out = np.arange(len(texts)) % max(2, round(1 / config.held_out)) == 1
        if len(texts) < 2:
            raise PreferenceDataError(
                f"there are {len(texts)} texts: give two or more, of which some are held out"
            )
        seen, fresh = texts[~out], texts[out]
    ids, held_out = (shape.ids(task.prompt_ids[one.prompt], one.tokens) for one in (seen, fresh))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network = TokenAutoencoder(shape, config)
    noise = torch.Generator().manual_seed(training.seed)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        whole = _cut(ids[rows], shape, noise)  # [b, 1 + P + H]
        errors = network.token_errors(_disturbed(whole, config.noise, shape.pad, noise), whole)  # [b, H]
        return errors.sum() / (errors.detach() != 0).sum().clamp(min=1)

    def held_out_error() -> float:
        errors = network.token_errors(held_out, held_out)
        return float(errors.sum() / float(fresh.length.sum()))

    trained = fit(network, loss, len(ids), training, held_out=held_out_error, on_progress=on_progress)
    about = {"task": task.name, "config": asdict(config), "training": asdict(training), "seed": training.seed}
    return _calibrated(
        Reconstruction(name, ReconstructionError(network), about=json.loads(json.dumps(about))), task
    ), trained


def _cut(ids: torch.Tensor, shape: TextShape, generator: torch.Generator) -> torch.Tensor:
    """Return ``ids`` [B, T] with every other row's completion padded from a random position on."""
    place = torch.randint(1, shape.horizon + 1, (len(ids), 1), generator=generator)  # [B, 1]
    place[::2] = shape.horizon
    column = torch.arange(ids.shape[1]) - (1 + shape.prompt_length)  # [T]
    return torch.where(column >= place, shape.pad, ids)


def _disturbed(ids: torch.Tensor, share: float, pad: int, generator: torch.Generator) -> torch.Tensor:
    """Return ``ids`` [B, T] with a ``share`` of the tokens replaced by random ones; padding stays."""
    if share == 0:
        return ids
    hit = (torch.rand(ids.shape, generator=generator) < share) & (ids != pad)
    return torch.where(hit, torch.randint(0, pad, ids.shape, generator=generator), ids)


def _calibrated(model: Reconstruction, task: Task) -> Reconstruction:
    """Return ``model`` with mean 0 and standard deviation 1 under the reference policy: exactly, where the task is small."""
    completions, weight, exact = reference_completions(task)
    errors = LearnedSource(model.name, model.scorer).score(completions.batch(task))
    mean, std = mean_and_std(weight, errors)
    scale = 1.0 / std if std > 0 else 1.0
    low, high = -np.inf, np.inf
    if exact:
        final = scale * (errors - mean)
        margin = MARGIN * max(1.0, float(np.ptp(final)))
        low, high = float(final.min()) - margin, float(final.max()) + margin
    return replace(model, centre=mean, scale=scale, low=low, high=high)


def error_without_code(task: Task, completions: Completions, weight: FloatArray) -> float:
    """Return the smallest error per token of a constant code: the entropy of the tokens at each position, in nats.

    Args:
        task: has the vocabulary.
        completions: B of them. weight: float64 [B], their probabilities.
    """
    total = tokens = 0.0
    for time in range(task.horizon):
        rows = completions.length > time
        mass = np.bincount(completions.tokens[rows, time], weight[rows], task.vocabulary.size)
        share = mass[mass > 0] / max(mass.sum(), 1e-300)
        total, tokens = total - mass.sum() * float(share @ np.log(share)), tokens + mass.sum()
    return float(total / tokens)


def read_texts(path: Path, task: Task) -> Completions:
    """Return the lines of a text file as completions, each ended by ``<eos>`` and cut at the horizon.

    Raises:
        PreferenceDataError: no such file, no lines, a task with prompts, or a token that the vocabulary does not have.
    """
    if len(task.prompts) > 1:
        raise PreferenceDataError(
            f"{task.name} has {len(task.prompts)} prompts: its texts need prompts, which a text file does not have"
        )
    if not path.is_file():
        raise PreferenceDataError(f"there is no file {str(path)!r}: give a text file, a line for each text")
    found, separator = [], task.vocabulary.separator
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        pieces = line.split() if separator else list(line)
        try:
            found.append(encode_completion(task, 0, separator.join(pieces[: task.horizon])))
        except ValueError as error:
            raise PreferenceDataError(f"{path}, line {number}: {error}") from None
    if not found:
        raise PreferenceDataError(f"{path} is empty: give a text file, a line for each text")
    return concatenate(found)
