"""REINFORCE, RLOO, GRPO, PPO and fine-tuning of a language model, as learners: where it begins, and its figures."""

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenwalk.agents.backprop.configs import TrainingConfig, default_training
from tokenwalk.agents.backprop.lm import TokenLM, fresh_lm, is_independent, pretrain, reference_lm
from tokenwalk.agents.evaluation.policies import KLPenalty, TokenPolicy
from tokenwalk.agents.evaluation.score import Score, score
from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact_tokens.completions import sample_completions
from tokenwalk.agents.exact_tokens.exact_tables import exact_tables, optimal_value
from tokenwalk.agents.exact_tokens.token_policy import Policy, exact_policy
from tokenwalk.agents.learners.protocol import Saved, Setup
from tokenwalk.agents.policy_gradient.config import (
    BeginningConfig,
    FineTuningConfig,
    check_groups,
    default_config,
)
from tokenwalk.agents.policy_gradient.trainer import PolicyGradient
from tokenwalk.agents.problem.saved_models import MODEL_FILE
from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.agents.runs.progress import OnMetrics
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.token_model import TokenModel, compose

START_FILE = "start.safetensors"
LIVE_PREFIXES = 20_000  # of a tree that is evaluated along the way; above it LIVE_SAMPLES are taken
LIVE_SAMPLES = 1_000
EVALUATIONS = 20  # evaluations of a fine-tuning
PRETRAINING = "train/pretraining_loss"


class LanguageLearner:
    """A language model on a token task.

    Args:
        agent: a name of ``policy_gradient.config.AGENTS``.
        problem: a token task.
        config: the agent's.
        seed: of the model, of its samples, and of an estimate.
        threads: of torch.
        folder: of a run that holds the trained model; None: it begins anew.

    Raises:
        ValueError: no token task, another observation, a group of one, a device that is not there, a ``model`` that is no
            run of a language model. ForeignTextError: one of another vocabulary or length.
        DamagedFileError: a model file that is torn. FileNotFoundError: there is none.
    """

    runs, can_resume = 1, False

    @classmethod
    def build(cls, setup: Setup) -> "LanguageLearner":
        """Return a fresh learner. Raises ValueError as the class does."""
        return cls(setup)

    @classmethod
    def load(cls, saved: Saved) -> "LanguageLearner":
        """Return the learner that a run holds. Raises FileNotFoundError or DamagedFileError."""
        kind = type(default_config(saved.agent, ""))
        config = kind(**saved.request["config"])
        setup = Setup(saved.agent, saved.problem, config, seed=int(saved.request["seed"]))
        return cls(setup, saved.folder)

    def __init__(self, setup: Setup, folder: Path | None = None) -> None:
        agent, problem, config = setup.base or setup.agent, setup.problem, setup.config
        if problem.tokens is None:
            raise ValueError(
                f"{agent} generates tokens and {problem.env_id} is no token task: see tokenwalk envs"
            )
        if problem.env_args.get("observation", "tokens") != "tokens":
            raise ValueError(f"{agent} reads tokens: leave --observation out")
        if agent == "sft" and any(problem.names.values()):
            raise ValueError(
                "sft learns texts that are good by gold, whatever the training reward is: leave --reward and --shaping out"
            )
        check_groups(agent, config)
        torch.set_num_threads(setup.threads)
        self._agent, self._problem, self._config, self._seed = agent, problem, config, setup.seed
        self._trainer = PolicyGradient if setup.custom is None else setup.custom.type
        self._task = problem.tokens.task
        self._device = find_device(config.device if folder is None else "cpu")
        self._env: Any = None
        self._start: TokenLM | None = None
        self._lm: TokenLM | None = None
        self._kl_penalty: KLPenalty | None = None
        self.steps = 0
        if folder is not None:
            self._lm = self._load(folder / MODEL_FILE)
            self._start = self._load(folder / START_FILE) if self._to_model else None
        elif config.model is not None:
            self._lm = self._load(language_model_file(Path(config.model)))
        self._weights: dict[str, float] = {}

    @property
    def _to_model(self) -> bool:
        return getattr(self._config, "kl_to", "reference") == "model"

    @property
    def lm(self) -> TokenLM:
        """Return the model as it stands; of an agent that has not begun, where it would begin."""
        if self._lm is None:
            self._lm = begin(self._task, self._config, self._device, self._seed)
        return self._lm

    def policy(self) -> TokenPolicy:
        """Return the model, with the KL penalty of its objective and the best regularized return, where that is exact."""
        if self._kl_penalty is None:
            assert self._problem.tokens is not None
            start = (self._start or self.lm) if self._to_model else None
            optimum = optimal_value(self._problem.tokens, kl_coef=self._config.kl_coef, reference=start)
            self._kl_penalty = KLPenalty(self._config.kl_coef, start, optimum)
        return TokenPolicy(self.lm, self._kl_penalty)

    def learn(self, steps: int, report: OnMetrics) -> None:
        """Generate, or read, ``steps`` tokens and learn; ``report`` gets the score before the first and now and then."""
        report(0, {})
        if self._lm is None:
            self._lm = begin(
                self._task,
                self._config,
                self._device,
                self._seed,
                lambda _, figures: report(0, {PRETRAINING: figures["train/loss"]}),
            )
        lm = self._lm
        if self._to_model:
            self._start = replace(lm, network=copy.deepcopy(lm.network).requires_grad_(False))
        found = self._evaluate_now()
        report(0, {**found.as_metrics(), **found.terms})
        if isinstance(self._config, FineTuningConfig):
            self._fine_tune(self._config, steps, report)
            return
        self._env = self._problem.make(observation="tokens").unwrapped
        for name, weight in self._weights.items():
            self._env.set_weight(name, weight)
        agent: Any = self._agent
        learner = self._trainer(lm, self._env.model, agent, self._config, seed=self._seed)

        def on_update(generated: int, figures: Mapping[str, float]) -> None:
            self.steps = generated
            report(generated, figures)

        learner.learn(steps, on_update, lambda: self._evaluate_now().as_metrics())

    def _evaluate_now(self) -> Score:
        """Return the score along the way: exact on a small tree, else from few samples."""
        return score(
            self._problem,
            self.policy(),
            self._seed + self.steps,  # another estimate each time
            limit=LIVE_PREFIXES,
            samples=LIVE_SAMPLES,
        )

    def _fine_tune(self, config: FineTuningConfig, steps: int, report: OnMetrics) -> None:
        """Learn from samples of the best policy by gold for the kl_coef of the config."""
        texts = sample_completions(
            self._task,
            best_by_gold(self._task, config.kl_coef),
            config.texts,
            np.random.default_rng(self._seed),
        )
        per_update = min(config.batch_size, len(texts)) * float(texts.length.mean())
        updates = max(1, round(steps / per_update))
        training = TrainingConfig(
            updates=updates,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            evaluate_every=max(1, updates // EVALUATIONS),
            seed=self._seed,
        )
        evaluated: dict[str, float] = {}

        def on_progress(update: int, figures: Mapping[str, float]) -> None:
            self.steps = round(update * per_update)
            seen = {tag.replace("eval/loss", "train/held_out_loss"): value for tag, value in figures.items()}
            report(self.steps, {**seen, **evaluated})
            evaluated.clear()

        def on_evaluation(_number: int, _lm: TokenLM) -> None:
            evaluated.update(self._evaluate_now().as_metrics())

        if steps == 0:
            return
        _, trained = pretrain(
            self._task,
            config.network,
            training,
            texts=texts,
            lm=self.lm,
            on_progress=on_progress,
            on_evaluation=on_evaluation,
        )
        self.steps = round(trained.updates * per_update)
        trained.raise_if_interrupted()

    def set_weight(self, name: str, weight: float) -> None:
        """Give the reward component ``name`` another weight from the next update on."""
        self._weights[name] = weight
        if self._env is not None:
            self._env.set_weight(name, weight)

    def save(self, folder: Path) -> None:
        """Write model.safetensors, and the frozen start where the KL is to that."""
        if self._lm is None:  # interrupted before there was one
            return
        about = {
            "agent": self._agent,
            "seed": self._seed,
            "config": asdict(self._config),
            "steps": self.steps,
        }
        saved = replace(self._lm, about={**self._lm.about, **json.loads(json.dumps(about))})
        saved.save(folder / MODEL_FILE)
        if self._start is not None and not (folder / START_FILE).exists():
            self._start.save(folder / START_FILE)

    def _load(self, path: Path) -> TokenLM:
        lm = TokenLM.load(path, self._task)
        lm.network.to(self._device)
        return lm


def language_model_file(run: Path) -> Path:
    """Return the model's file of a run of ``tokenwalk train lm``, or of a language model's agent.

    Raises:
        RunFolderError: no run. ValueError: one of another agent.
    """
    agent = RunFolder.open(run).config["agent"]
    path = run / MODEL_FILE
    if not path.is_file():
        raise ValueError(
            f"{run} is a run of {agent}, which holds no language model: give one of tokenwalk train lm, or of an agent that "
            "is one"
        )
    return path


def begin(
    task: Task,
    config: BeginningConfig,
    device: torch.device,
    seed: int,
    on_progress: OnMetrics | None = None,
) -> TokenLM:
    """Return a model of the reference policy: given to it where that samples tokens independently, else pre-trained."""
    if is_independent(task):
        lm = reference_lm(task, config.network, seed)
        lm.network.to(device)
        return lm
    lm = fresh_lm(task, config.network, seed)
    lm.network.to(device)
    lm, trained = pretrain(
        task, config.network, default_training(config.network, seed), lm=lm, on_progress=on_progress
    )
    trained.raise_if_interrupted()
    return lm


def best_by_gold(task: Task, kl_coef: float) -> Policy:
    """Return the policy that is best by gold for that kl_coef, exactly.

    Raises:
        TreeTooLargeError: a gold that is no machine, and too many completions.
    """
    model = TokenModel(task, compose(task, "gold"))
    tables = exact_tables(model)
    return exact_policy(model, solve(tables.mdp, {"gold": 1.0}, discount=1.0, kl_coef=kl_coef))


def find_device(name: str) -> torch.device:
    """Return torch's device of that name.

    Raises:
        ValueError: no such device, or one that is not there.
    """
    there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}: give one of {', '.join(there)}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device is {name!r}, which is not there: give one of {', '.join(there)}")
    return device
