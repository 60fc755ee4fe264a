"""Overoptimization of reward models from a biased annotator, who prefers praise: exact gold and proxy, and two guards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tokenwalk.agents.backprop.autoencoder import train_autoencoder
from tokenwalk.agents.backprop.configs import RewardModelConfig, TokenAutoencoderConfig, default_training
from tokenwalk.agents.backprop.datasets import RewardDataset
from tokenwalk.agents.backprop.reward_model import RewardModel, reference_completions, train_reward_model
from tokenwalk.agents.baselines.as_policy import ModelPolicy
from tokenwalk.agents.baselines.configs import default_config
from tokenwalk.agents.baselines.sb3 import build, make_vec_env, train
from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact.evaluation import evaluate
from tokenwalk.agents.exact_tokens.as_machine import unfolded
from tokenwalk.agents.exact_tokens.exact_tables import exact_tables, train_weights
from tokenwalk.agents.exact_tokens.frontier import trace_frontier
from tokenwalk.agents.exact_tokens.proxy_agreement import correlation, pair_accuracy
from tokenwalk.agents.exact_tokens.token_evaluation import evaluate_tokens
from tokenwalk.agents.tabular.defaults import default_config as tabular_default
from tokenwalk.agents.tabular.q_learning import QLearning
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.source import MachineSource
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import TokenModel, compose

TASK = "Flattery"
PRAISE = ("great", "wonderful")
LIKED = (
    0.0,
    0.5,
    1.0,
    1.2,
)  # the annotator's bias: reward per word of praise, added to gold; 1.2 gives the catalog's proxy
MEMBERS = 5
PENALTY = -1.0  # gold per standard deviation of the reconstruction error
STEPS = 30_000  # of PPO
OnStage = Callable[[str], Any]


@dataclass(frozen=True)
class Ending:
    """Exact returns of the optimum of a learned reward: by the reward model, and by gold."""

    proxy: float
    gold: float


@dataclass(frozen=True)
class AnnotatorResult:
    """The results for one annotator.

    Attributes:
        liked: the annotator's bias: reward per word of praise, added to gold.
        accuracy: of the reward model, on held-out pairs of the reference policy. correlation: with gold, under it.
        peak_kl, peak_gold: where gold is largest along the exact KL path of the reward model.
        alone, ensemble, guarded: the optima of the reward model, of the minimum of five models, and of the reward model
            plus the autoencoder's penalty.
        q_learning: the greedy policy of Q-learning trained on the reward model.
        ppo: per seed, rows of (steps, proxy, gold, kl) of the sampled policy, exact, [points, 4].
    """

    liked: float
    accuracy: float
    correlation: float
    peak_kl: float
    peak_gold: float
    alone: Ending
    ensemble: Ending
    guarded: Ending
    q_learning: Ending
    ppo: list[FloatArray]


def measure(
    liked: Sequence[float] = LIKED,
    *,
    seeds: int = 3,
    steps: int = STEPS,
    pairs: int = 2_000,
    on_stage: OnStage = lambda stage: None,
) -> list[AnnotatorResult]:
    """Return the results for each annotator bias in ``liked``.

    Args:
        liked: the biases.
        seeds: of PPO. steps: of PPO. pairs: preferences per reward model.
        on_stage: called with a text before each stage.
    """
    task = find_task(TASK)
    on_stage("the autoencoder")
    config = TokenAutoencoderConfig()
    penalty = unfolded(train_autoencoder(task, config, default_training(config))[0], task)
    budget = _Budget(seeds, steps, pairs)
    return [_measure_one(task, one, penalty, budget, on_stage) for one in liked]


@dataclass(frozen=True)
class _Budget:
    """The seeds and steps of PPO, and the preferences of each reward model."""

    seeds: int
    steps: int
    pairs: int


def _measure_one(
    task: Task, liked: float, penalty: MachineSource, budget: _Budget, on_stage: OnStage
) -> AnnotatorResult:
    on_stage(f"reward models, bias {liked:g}")
    spurious = tuple((word, liked) for word in PRAISE) if liked else ()
    config = RewardModelConfig(spurious=spurious, pairs=budget.pairs)
    single = _learn(task, config)
    minimum = unfolded(_learn(task, replace(config, members=MEMBERS, combine="min")), task)
    source = unfolded(single, task)
    completions, weight, _ = reference_completions(task)
    gold = completions.scores(task, [task.sources["gold"]])["gold"]
    proxy = single.score(completions.batch(task))
    out = RewardDataset(task, config).split.held_out(completions)
    model = TokenModel(task, compose(task, source))
    path = trace_frontier(exact_tables(model), best_gold=False)
    runs = []
    for seed in range(budget.seeds):
        on_stage(f"PPO, bias {liked:g}, seed {seed}")
        runs.append(_ppo(task, source, budget.steps, seed))
    return AnnotatorResult(
        liked,
        pair_accuracy(completions.prompt[out], weight[out], gold[out], proxy[out]) or 0.0,
        correlation(weight, gold, proxy) or 0.0,
        path.peak.kl,
        path.peak.gold,
        _optimum(model, source.name),
        _optimum(TokenModel(task, compose(task, minimum)), minimum.name),
        _optimum(TokenModel(task, compose(task, [source, (penalty, PENALTY)])), source.name),
        _q_learning(model, source.name),
        runs,
    )


def _learn(task: Task, config: RewardModelConfig) -> RewardModel:
    return train_reward_model(RewardDataset(task, config), default_training(config))[0]


def _optimum(model: TokenModel, proxy: str) -> Ending:
    """Return the exact returns, by ``proxy`` and by gold, of the optimum of the training reward of ``model``."""
    mdp = model.tabular_mdp()
    policy = solve(mdp, train_weights(model.composition), discount=1.0).policy
    returns = evaluate(mdp, policy).returns
    return Ending(returns[proxy], returns["gold"])


def _q_learning(model: TokenModel, proxy: str) -> Ending:
    """Return the exact returns of the greedy policy after Q-learning on the training reward of ``model``."""
    config, steps = tabular_default(f"tokenwalk/{TASK}-v0", "q-learning")
    tables, label = model.machine_tables()
    agent = QLearning.for_mdp(tables, config, runs=1, seed=0)
    agent.learn_mdp(tables, model.walk_weights, steps)
    returns = evaluate(model.tabular_mdp(), agent.greedy_policy()[0][:, label]).returns
    return Ending(returns[proxy], returns["gold"])


def _ppo(task: Task, source: MachineSource, steps: int, seed: int) -> FloatArray:
    """Return (steps, proxy, gold, kl) of PPO's sampled policy during training on ``source``, exact, [points, 4]."""
    env_id = f"tokenwalk/{TASK}-v0"
    config = default_config("ppo", env_id)
    agent = build("ppo", make_vec_env(env_id, config.num_envs, {"reward": source}), config, seed=seed)
    model = TokenModel(task, compose(task, source))
    points: list[tuple[float, ...]] = []

    def measure_policy(learner: Any) -> dict[str, float]:
        found = evaluate_tokens(
            model, ModelPolicy(learner, task, greedy=False), optimum=source.high * task.horizon
        )
        points.append((learner.num_timesteps, found.return_, found.gold, found.kl))
        return {}

    train(agent, steps=steps, on_progress=lambda step, metrics: None, evaluate=measure_policy)
    return np.array(points)


def as_json(one: AnnotatorResult) -> dict[str, Any]:
    """Return the figures of one annotator, with the mean over seeds of PPO's curves."""
    mean = np.mean(np.stack(one.ppo), axis=0)
    ends = {name: vars(getattr(one, name)) for name in ("alone", "ensemble", "guarded", "q_learning")}
    return {
        "liked": one.liked,
        "accuracy": one.accuracy,
        "correlation": one.correlation,
        "peak_kl": one.peak_kl,
        "peak_gold": one.peak_gold,
        **ends,
        "ppo": {
            "steps": mean[:, 0].tolist(),
            "proxy": mean[:, 1].tolist(),
            "gold": mean[:, 2].tolist(),
            "kl": mean[:, 3].tolist(),
            "gold_of_each_seed": [run[:, 2].tolist() for run in one.ppo],
        },
    }
