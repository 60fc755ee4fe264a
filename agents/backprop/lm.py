"""A language model of a task: pre-trained by backpropagation, saved, and a policy that every exact tool takes.

loss = mean over the tokens of a completion of -log p(token | prefix), in nats; prompts are not in the loss. On samples of
a known policy the smallest expected loss is its entropy rate: entropy of a completion divided by its expected length.
Source: Shannon 1948, "A Mathematical Theory of Communication".
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenwalk.agents.backprop.configs import LMConfig, TrainingConfig
from tokenwalk.agents.backprop.fit import Training, fit
from tokenwalk.agents.backprop.scorers import TextShape
from tokenwalk.agents.backprop.transformer import Generated, LanguageModel, Mask, TransformerConfig
from tokenwalk.agents.exact.evaluation import evaluate, reference_policy
from tokenwalk.agents.exact_tokens.completions import Completions, sample_completions
from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens
from tokenwalk.agents.runs.checkpoint import DamagedFileError
from tokenwalk.agents.runs.progress import OnMetrics
from tokenwalk.agents.runs.tensors import read_tensors, write_tensors
from tokenwalk.envs.arrays import FloatArray, IntArray
from tokenwalk.envs.rewards.machine import TokenArray
from tokenwalk.envs.rewards.source import TokenBatch
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.token_model import TokenModel, compose

KIND = "lm"
SAMPLED_AT_ONCE = 1_024  # completions
OnEvaluation = Callable[[int, "TokenLM"], Any]  # (number of the evaluation, current model)


@dataclass(frozen=True, eq=False)
class TokenLM:
    """A language model with its input format. It is a policy over tokens: ``evaluate_tokens`` takes it as it is.

    Attributes:
        network: the Transformer.
        shape: the vocabulary, and how many tokens of prompt and completion.
        task: has the mask of available tokens; None: every token is available.
        about: the task and the configs that it was trained with.
    """

    network: LanguageModel
    shape: TextShape
    task: Task | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> int:
        """Return the position of the first token of a completion in what the network reads."""
        return 1 + self.shape.prompt_length

    @property
    def device(self) -> torch.device:
        """Return the network's device."""
        return self.network.head.weight.device

    def log_probs(self, batch: TokenBatch) -> FloatArray:
        """Return the natural log-probability of each token after each prefix, float64 [B, V]; -inf where it is masked."""
        length = int(np.max(batch.length, initial=0))
        ids = self.shape.ids(np.asarray(batch.prompt), np.asarray(batch.completion))[:, : self.first + length]
        rows = torch.arange(len(ids))
        last = torch.as_tensor(np.asarray(batch.length, dtype=np.int64)) + self.first - 1
        with torch.inference_mode():
            vectors = self.network.body(ids.to(self.device))[rows, last.to(self.device)]
            logits = self.network.head(vectors).double().cpu()
        if self.task is not None and self.task.reference.available is not None:
            context = reference_on_tokens(self.task).states(batch)
            logits = logits.masked_fill(~torch.as_tensor(self.task.reference.available[context]), -np.inf)
        logs: FloatArray = logits.log_softmax(dim=1).numpy()
        return logs

    def ids(self, prompt: TokenArray, completion: TokenArray) -> torch.Tensor:
        """Return what the network reads, int64 [B, 1 + P + H], on its device."""
        return self.shape.ids(prompt, completion).to(self.device)

    def beginning(self, prompt: TokenArray) -> torch.Tensor:
        """Return the input before a completion for each of ``prompt`` [B, P], int64 [B, 1 + P], on its device."""
        return self.ids(prompt, np.full((len(prompt), self.shape.horizon), self.shape.pad))[:, : self.first]

    def mask(self, prompt: IntArray) -> Mask | None:
        """Return the task's mask after the prompts of those numbers [B]; None where every token is available."""
        if self.task is None or self.task.reference.available is None:
            return None
        reference = self.task.reference
        start = np.broadcast_to(reference.start, len(self.task.prompts))[prompt]
        parts = reference.next_context, self.task.reference.available, start
        return Mask(*(torch.tensor(part, device=self.device) for part in parts))

    def generate(
        self, prompt: TokenArray, generator: torch.Generator | None, mask: Mask | None = None, **how: Any
    ) -> Generated:
        """Return a completion after each of ``prompt`` [B, P], see ``LanguageModel.generate``."""
        return self.network.generate(self.beginning(prompt), self.shape.horizon, generator, mask=mask, **how)

    def sample(
        self, task: Task, count: int, rng: np.random.Generator
    ) -> tuple[IntArray, TokenArray, FloatArray]:
        """Return ``count`` completions by the cache, see ``FastSampler``; float32's rounding is in their log-probability."""
        prompt = rng.choice(len(task.prompts), size=count, p=task.prompt_weights)
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        tokens, logs = [], []
        for first in range(0, count, SAMPLED_AT_ONCE):
            some = prompt[first : first + SAMPLED_AT_ONCE]
            generated = self.generate(task.prompt_ids[some], generator, self.mask(some))
            tokens.append(generated.tokens.cpu().numpy())
            logs.append(generated.log_probs.double().sum(dim=1).cpu().numpy())
        return prompt, np.concatenate(tokens), np.concatenate(logs)

    def save(self, path: Path) -> None:
        """Write the network and its input format, as safetensors."""
        tensors = {name: one.detach().cpu().numpy() for name, one in self.network.state_dict().items()}
        about = {
            "kind": KIND,
            **self.about,
            "shape": asdict(self.shape),
            "network": asdict(self.network.config),
        }
        write_tensors(path, tensors, about)

    @classmethod
    def load(cls, path: Path, task: Task | None = None) -> "TokenLM":
        """Return what ``save`` wrote, as a model of ``task``.

        Raises:
            DamagedFileError: a file that is torn, foreign, of another kind, or does not fit its own config.
            ForeignTextError: it reads another vocabulary or another length than ``task`` has.
            FileNotFoundError: there is no such file.
        """
        tensors, about = read_tensors(Path(path))
        if about.get("kind") != KIND:
            raise DamagedFileError(f"{path} holds a {about.get('kind') or 'model of an agent'}, no {KIND}")
        try:
            shape = TextShape(**{**about["shape"], "tokens": tuple(about["shape"]["tokens"])})
            network = LanguageModel(TransformerConfig(**about["network"]))
            network.load_state_dict({key: torch.as_tensor(one) for key, one in tensors.items()})
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DamagedFileError(
                f"{path} does not fit this version of tokenwalk ({error}): train again"
            ) from None
        if task is not None:
            shape.check_task(task)
        kept = {
            key: value for key, value in about.items() if key not in ("kind", "shape", "network", "format")
        }
        return cls(network.eval(), shape, task, kept)


def fresh_lm(task: Task, config: LMConfig, seed: int) -> TokenLM:
    """Return an untrained model; torch's global generator is left unchanged."""
    shape = TextShape.of(task)
    network_config = TransformerConfig(
        shape.pad + 1,
        shape.prompt_length + shape.horizon,
        config.n_layers,
        config.n_heads,
        config.width,
        config.bf16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LanguageModel(network_config)
    return TokenLM(network, shape, task)


def reference_lm(task: Task, config: LMConfig, seed: int) -> TokenLM:
    """Return a fresh model that equals the reference policy, whose tokens must be independent.

    The output bias holds the log-probabilities, and the output weight is 0.

    Raises:
        ValueError: a reference policy that depends on the prefix.
    """
    if not is_independent(task):
        raise ValueError(
            f"the reference policy of {task.name} depends on the prefix: pre-train a model on it"
        )
    lm = fresh_lm(task, config, seed)
    with torch.no_grad():
        lm.network.head.weight.zero_()
        lm.network.head.bias.copy_(torch.as_tensor(task.reference.log_probability[0]))
    return lm


def is_independent(task: Task) -> bool:
    """Return whether the reference policy samples every token from one distribution without zeros."""
    reference = task.reference
    return len(reference.probability) == 1 and bool((reference.probability > 0).all())


def entropy_rate(task: Task) -> float:
    """Return the entropy of the reference policy's completions per expected token, in nats, exactly."""
    mdp = TokenModel(task, compose(task, "gold")).tabular_mdp()
    found = evaluate(mdp, reference_policy(mdp))
    return found.entropy / found.length


def pretrain(
    task: Task,
    config: LMConfig,
    training: TrainingConfig,
    *,
    texts: Completions | None = None,
    lm: TokenLM | None = None,
    on_progress: OnMetrics | None = None,
    on_evaluation: OnEvaluation | None = None,
) -> tuple[TokenLM, Training]:
    """Return a model of ``texts``, or of samples of the reference policy, and the result of its training.

    Args:
        task: has the vocabulary, prompts and horizon.
        config: the size of the model, and how many samples.
        training: how.
        texts: to train on instead of samples.
        lm: goes on with this model, which it changes, instead of a fresh one.
        on_progress: called with the metrics of ``fit`` and eval/perplexity.
        on_evaluation: called with the model at each evaluation of the held-out loss.

    Raises:
        ValueError: fewer than two texts. NonFiniteLossError: as ``fit``.
    """
    lm = fresh_lm(task, config, training.seed) if lm is None else lm
    if texts is None:
        rng = np.random.default_rng(training.seed)
        every = sample_completions(task, reference_on_tokens(task), config.texts, rng)
    else:
        every = texts
    if len(every) < 2:
        raise ValueError(f"there are {len(every)} texts: give two or more, of which some are held out")
    out = np.arange(len(every)) % max(2, round(1 / config.held_out)) == 1
    seen, fresh = (lm.ids(task.prompt_ids[one.prompt], one.tokens) for one in (every[~out], every[out]))
    masks = [lm.mask(every[rows].prompt) for rows in (~out, out)]

    def loss_of(ids: torch.Tensor, mask: Mask | None) -> torch.Tensor:
        return -lm.network.log_probs(ids, lm.first, mask).sum()

    def loss(rows: torch.Tensor) -> torch.Tensor:
        ids, mask = seen[rows], masks[0]
        chosen = None if mask is None else mask._replace(start=mask.start[rows])
        return loss_of(ids, chosen) / _generated(ids, lm).sum()

    def held_out() -> float:
        total = 0.0
        for rows in torch.split(torch.arange(len(fresh)), 1_024):
            mask = None if masks[1] is None else masks[1]._replace(start=masks[1].start[rows])
            total += loss_of(fresh[rows], mask).item()
        return total / float(_generated(fresh, lm).sum())

    evaluations = 0

    def evaluated() -> None:
        nonlocal evaluations
        if on_evaluation is not None:
            on_evaluation(evaluations, lm)
        evaluations += 1

    def report(update: int, figures: Mapping[str, float]) -> None:
        if on_progress is not None:
            extra = {"eval/perplexity": float(np.exp(figures["eval/loss"]))} if "eval/loss" in figures else {}
            on_progress(update, {**figures, **extra})

    trained = fit(
        lm.network, loss, len(seen), training, held_out=held_out, on_progress=report, checkpoint=evaluated
    )
    about = {"task": task.name, "config": asdict(config), "training": asdict(training), "seed": training.seed}
    return TokenLM(lm.network, lm.shape, task, json.loads(json.dumps(about))), trained


def _generated(ids: torch.Tensor, lm: TokenLM) -> torch.Tensor:
    """Return which places hold a token of a completion, bool [B, H]."""
    return ids[:, lm.first :] < lm.shape.pad
