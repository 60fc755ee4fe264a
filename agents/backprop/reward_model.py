"""A learned reward: trained, scaled to gold, saved, loaded, and used as the reward of any token task.

Source: Christiano et al. 2017, "Deep reinforcement learning from human preferences"; Coste et al. 2023, "Reward model
ensembles help mitigate overoptimization".
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenwalk.agents.backprop.configs import RewardModelConfig, TrainingConfig
from tokenwalk.agents.backprop.datasets import Data, RewardDataset, check_learnable
from tokenwalk.agents.backprop.fit import Training, fit
from tokenwalk.agents.backprop.scorers import Ensemble, TextShape, build_scorer
from tokenwalk.agents.exact_tokens.completions import (
    MAX_PREFIXES,
    Completions,
    count_prefixes,
    enumerate_completions,
    sample_completions,
)
from tokenwalk.agents.exact_tokens.proxy_agreement import mean_and_std
from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens
from tokenwalk.agents.runs.checkpoint import DamagedFileError
from tokenwalk.agents.runs.progress import OnMetrics
from tokenwalk.agents.runs.tensors import read_tensors, write_tensors
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.learned import LearnedSource
from tokenwalk.envs.rewards.machine import RewardMachine, TokenArray
from tokenwalk.envs.rewards.source import MachineSource
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.vocabulary import Vocabulary

KIND = "reward-model"
SAMPLES = 10_000  # completions that estimate the moments where a task is too large to enumerate
MARGIN = 1e-3  # as a share of the range: a network's scores differ in the last digits with the batch


@dataclass(frozen=True, eq=False)
class RewardModel(LearnedSource):
    """A trained reward as a reward component of a task: ``gym.make(..., reward=RewardModel.load(path))``.

    Attributes:
        about: the task's name, both configs and the seed that it was trained with.
    """

    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ensemble(self) -> Ensemble:
        """Return the networks."""
        assert isinstance(self.scorer, Ensemble)
        return self.scorer

    def as_machine(self, vocabulary: Vocabulary, horizon: int, prompts: TokenArray) -> MachineSource | None:
        """Return the reward machine that gives every completion the same reward, token by token; None where there is none.

        A linear scorer, or the mean of several, depends on the last two tokens only, so the machine is exact at any length.
        """
        weights = self.ensemble.linear_weights()
        if weights is None:
            return None
        alone, following, constant = weights
        size, v = len(alone), vocabulary.size
        token = self.scale * (alone[:v] + following[:, :v])  # [last token or padding, V]
        first = (
            token + self.mean + self.scale * (constant - self.centre)
        )  # the constant is added at the first token
        last = prompts[:, -1] if prompts.shape[1] else np.full(len(prompts), vocabulary.pad)
        machine = RewardMachine(
            np.tile(np.arange(v), (2 * size, 1)),
            np.concatenate([token, first]),
            np.zeros((2 * size, v)),
            size + np.asarray(last, dtype=np.int64),
        )
        return MachineSource(self.name, machine, horizon, prompts)

    def save(self, path: Path) -> None:
        """Write the networks, their calibration and their configs, as safetensors."""
        tensors = {
            f"{number}.{name}": one.detach().numpy()
            for number, member in enumerate(self.ensemble.members)
            for name, one in member.state_dict().items()
        }
        tensors["calibration"] = self.ensemble.calibration
        numbers = {name: getattr(self, name) for name in ("centre", "scale", "mean", "low", "high")}
        kept = {name: number if np.isfinite(number) else None for name, number in numbers.items()}
        about = {"kind": KIND, **self.about, **kept, "shape": asdict(self.ensemble.shape)}
        write_tensors(path, tensors, about)

    @classmethod
    def load(cls, path: Path, name: str = KIND) -> "RewardModel":
        """Return what ``save`` wrote, to be logged as ``name``.

        Raises:
            DamagedFileError: a file that is torn, foreign, of another kind, or does not fit its own config.
            FileNotFoundError: there is no such file.
        """
        tensors, about = read_tensors(Path(path))
        if about.get("kind") != KIND:
            raise DamagedFileError(f"{path} holds a {about.get('kind') or 'model of an agent'}, no {KIND}")
        try:
            shape = TextShape(**{**about["shape"], "tokens": tuple(about["shape"]["tokens"])})
            config = RewardModelConfig(**about["config"])
            members = [_fresh(config, shape, number) for number in range(config.members)]
            for number, member in enumerate(members):
                start = f"{number}."
                own = {key.removeprefix(start): one for key, one in tensors.items() if key.startswith(start)}
                member.load_state_dict({key: torch.as_tensor(one) for key, one in own.items()})
                member.eval()
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DamagedFileError(
                f"{path} does not fit this version of tokenwalk ({error}): train again"
            ) from None
        low, high = about.pop("low"), about.pop("high")
        bounds = -np.inf if low is None else low, np.inf if high is None else high
        numbers = [about.pop(key) for key in ("centre", "scale", "mean")]
        scorer = Ensemble(members, shape, config.combine, tensors["calibration"])
        kept = {key: value for key, value in about.items() if key not in ("kind", "shape", "format")}
        centre, scale, mean = numbers
        return cls(name, scorer, centre, scale, mean, *bounds, about=kept)


def _fresh(config: RewardModelConfig, shape: TextShape, seed: int) -> torch.nn.Module:
    return build_scorer(config.scorer, shape, config.width, config.n_layers, seed)


def train_reward_model(
    dataset: RewardDataset,
    training: TrainingConfig,
    *,
    name: str = KIND,
    on_progress: OnMetrics | None = None,
    on_checkpoint: Callable[["RewardModel"], Any] | None = None,
) -> tuple[RewardModel, list[Training]]:
    """Return a reward trained on ``dataset``, scaled to gold's mean and standard deviation under the reference policy.

    Args:
        dataset: the task and its data.
        training: of each member; early stopping by the held-out loss.
        name: under which it is logged.
        on_progress: called with the updates of all members together and their metrics by tag.
        on_checkpoint: called with the current model, uncalibrated, at each evaluation of the held-out loss.

    Raises:
        PreferenceDataError: too little data. NonFiniteLossError: as ``fit``, with the member's last good parameters.
        ValueError: all completions have the same score, so that there is nothing to learn.
    """
    config, shape = dataset.config, TextShape.of(dataset.task)
    check_learnable(dataset)
    members = [_fresh(config, shape, dataset.seed + number) for number in range(config.members)]
    scorer = Ensemble(members, shape, config.combine)
    about = {
        "task": dataset.task.name,
        "config": asdict(config),
        "training": asdict(training),
        "seed": dataset.seed,
    }
    model = RewardModel(name, scorer, about=json.loads(json.dumps(about)))  # as it is read from a file
    trained = []
    for number, member in enumerate(members):
        progress = _member_progress(on_progress, number * training.updates)
        data = Data.of(dataset, shape, number, held_out=False)
        fresh = Data.of(dataset, shape, number, held_out=True)
        checkpoint = None if on_checkpoint is None else (lambda: on_checkpoint(model))
        trained.append(
            fit(
                member,
                lambda rows, member=member, data=data: data.loss(member, rows, config.objective),  # type: ignore[misc]
                len(data),
                training,
                held_out=lambda member=member, fresh=fresh: fresh.whole_loss(member, config.objective),  # type: ignore[misc]
                on_progress=progress,
                checkpoint=checkpoint,
            )
        )
        if trained[-1].interrupted:
            break
    return calibrated(model, dataset.task), trained


def _member_progress(on_progress: OnMetrics | None, offset: int) -> OnMetrics | None:
    if on_progress is None:
        return None
    return lambda update, metrics: on_progress(offset + update, metrics)


def reference_completions(task: Task, limit: int = MAX_PREFIXES) -> tuple[Completions, FloatArray, bool]:
    """Return completions of the reference policy, their weights [B], and whether these are all completions."""
    if count_prefixes(task) <= limit:
        every = enumerate_completions(task)
        return every, every.weights(task), True
    sampled = sample_completions(task, reference_on_tokens(task), SAMPLES, np.random.default_rng(0))
    return sampled, np.full(len(sampled), 1 / len(sampled)), False


def calibrated(model: RewardModel, task: Task) -> RewardModel:
    """Return ``model`` with gold's mean and standard deviation under the reference policy: exactly, where the task is small.

    A value model is unchanged: its output is in gold's unit. Each member is standardized first. Where all completions can
    be enumerated, the range is that of the scores plus a margin.

    Raises:
        ValueError: a network that gives every completion the same score.
    """
    if model.about["config"]["objective"] == "value":
        return model
    completions, weight, exact = reference_completions(task)
    batch = completions.batch(task)
    gold = completions.scores(task, [task.sources["gold"]])["gold"]
    old = model.ensemble
    parts = [old.raw(batch[first : first + 8_192]) for first in range(0, len(completions), 8_192)]
    moments = np.array([mean_and_std(weight, raw) for raw in np.concatenate(parts, axis=1)])  # [members, 2]
    if (moments[:, 1] == 0).any():
        raise ValueError("a network gives every completion the same score: train it longer, or on more data")
    scorer = Ensemble(old.members, old.shape, old.combine, moments)
    probe = LearnedSource(model.name, scorer)
    scores = probe.score(batch)
    (mean, std), (gold_mean, gold_std) = (mean_and_std(weight, one) for one in (scores, gold))
    scale = gold_std / std if gold_std > 0 else 1.0 / std
    final = gold_mean + scale * (scores - mean)
    low, high = -np.inf, np.inf
    if exact:
        margin = MARGIN * float(np.ptp(final))
        low, high = float(final.min()) - margin, float(final.max()) + margin
    return replace(model, scorer=scorer, centre=mean, scale=scale, mean=gold_mean, low=low, high=high)
