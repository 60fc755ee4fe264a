"""The contests of ``tokenwalk benchmark``, part by part, with their peers."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from tokenwalk.agents.backprop.configs import RewardModelConfig, TrainingConfig
from tokenwalk.agents.backprop.datasets import Data, RewardDataset
from tokenwalk.agents.backprop.fit import fit
from tokenwalk.agents.backprop.linear import normal_equation
from tokenwalk.agents.backprop.scorers import Ensemble, TextShape, build_scorer
from tokenwalk.agents.baselines.configs import default_config
from tokenwalk.agents.baselines.sb3 import build, make_vec_env, train
from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact_tokens.completions import enumerate_completions
from tokenwalk.agents.study.benchmark.harness import Contest, Work
from tokenwalk.agents.tabular.config import QLearningConfig
from tokenwalk.agents.tabular.q_learning import QLearning
from tokenwalk.envs.reference import fit_ngram
from tokenwalk.envs.rewards.builders import token_weights
from tokenwalk.envs.rewards.learned import LearnedSource
from tokenwalk.envs.rewards.machine import RewardMachine
from tokenwalk.envs.rewards.source import MachineSource
from tokenwalk.envs.tabular import tabular_mdp
from tokenwalk.envs.tasks import CATALOG, Task, find_task
from tokenwalk.envs.token_model import TokenModel, compose
from tokenwalk.envs.vocabulary import Vocabulary

_UPDATES = "updates/s"


def walk_contests() -> list[Contest]:
    """Return CounterWalk's contests: scalar steps, and native vector steps at four widths.

    Peers: FrozenLake's and CliffWalking's scalar environments through ``gym.make``, SyncVectorEnv over CounterWalk
    itself, and CartPole's native vector environment.
    """
    walk = "tokenwalk/CounterWalk-v0"
    ours = scalar_steps(walk)
    contests = [
        Contest("scalar / FrozenLake", ours, scalar_steps("FrozenLake-v1"), 8.0),
        Contest("scalar / CliffWalking", ours, scalar_steps(_newest("CliffWalking")), None),
    ]
    targets = {1: (None, None), 64: (None, None), 1024: (150.0, 5.0), 8192: (None, None)}
    for num_envs, (against_sync, against_cartpole) in targets.items():
        native = vector_steps(walk, num_envs, "vector_entry_point")
        contests += [
            Contest(
                f"vector x{num_envs} / SyncVectorEnv",
                native,
                vector_steps(walk, num_envs, "sync"),
                against_sync,
            ),
            Contest(
                f"vector x{num_envs} / CartPole",
                native,
                vector_steps("CartPole-v1", num_envs, "vector_entry_point"),
                against_cartpole,
            ),
        ]
    return contests


def scalar_steps(env_id: str, steps: int = 30_000) -> Work:
    """Return work that plays ``steps`` steps through ``gym.make`` with actions sampled in advance; resets are included."""
    env = gym.make(env_id)
    actions = np.random.default_rng(0).integers(0, int(env.action_space.n), steps).tolist()  # type: ignore[attr-defined]
    env.reset(seed=0)

    def work() -> int:
        env.reset()
        step, reset = env.step, env.reset
        for action in actions:
            _, _, terminated, truncated, _ = step(action)
            if terminated or truncated:
                reset()
        return steps

    return work


def vector_steps(env_id: str, num_envs: int, mode: str, **env_args: Any) -> Work:
    """Return work that steps ``num_envs`` sub-environments for about 20 to 60 ms; the actions are sampled in advance."""
    vector_env = gym.make_vec(env_id, num_envs=num_envs, vectorization_mode=mode, **env_args)
    n_actions = int(vector_env.single_action_space.n)  # type: ignore[attr-defined]
    calls = max(4, 20_000 // num_envs) if mode == "sync" else 2_000
    actions = list(np.random.default_rng(0).integers(0, n_actions, (min(calls, 64), num_envs)))
    vector_env.reset(seed=0)

    def work() -> int:
        step = vector_env.step
        for call in range(calls):
            step(actions[call % len(actions)])
        return calls * num_envs

    return work


def _newest(name: str) -> str:
    """Return the newest registered version of an environment of Gymnasium."""
    return max(
        (spec for spec in gym.registry.values() if spec.name == name), key=lambda spec: spec.version or 0
    ).id


def token_contests() -> list[Contest]:
    """Return the token environment's contests: steps of Keyword with all reward terms logged, and Q-learning.

    Peers: FrozenLake's scalar environment, SyncVectorEnv over Keyword itself, CartPole's native vector environment, the
    same environment with eight more metrics (the cost of logging terms), and the textbook loop on its machine.
    """
    task = "tokenwalk/Keyword-v0"
    contests = [Contest("tokens scalar / FrozenLake", scalar_steps(task), scalar_steps("FrozenLake-v1"), 3.0)]
    for num_envs, target in ((1, None), (64, None), (1024, 50.0), (8192, 100.0)):
        native = vector_steps(task, num_envs, "vector_entry_point")
        contests.append(
            Contest(
                f"tokens x{num_envs} / SyncVectorEnv", native, vector_steps(task, num_envs, "sync"), target
            )
        )
    cartpole = vector_steps("CartPole-v1", 1024, "vector_entry_point")
    wide = vector_steps(task, 1024, "vector_entry_point", metrics=eight_metrics(task))
    plain = vector_steps(task, 1024, "vector_entry_point")
    machine = vector_steps(task, 1024, "vector_entry_point", observation="machine")
    return [
        *contests,
        Contest("tokens x1024 / CartPole", plain, cartpole, 1.5),
        Contest("tokens x1024, machine / CartPole", machine, cartpole, None),
        Contest("tokens x1024 / with 8 more terms logged", plain, wide, None),
        Contest(
            "Q-learning, token tables / textbook",
            compiled_q_learning(task, 1, machine=True),
            textbook_q_learning(task, observation="machine"),
            None,
            _UPDATES,
        ),
    ]


def eight_metrics(env_id: str) -> list[MachineSource]:
    """Return eight reward functions that count one token each, to be logged as metrics."""
    task = gym.make(env_id).unwrapped.task  # type: ignore[attr-defined]
    size = task.vocabulary.size
    return [
        task.machine_source(f"count {t}", token_weights(np.eye(size)[t].tolist())) for t in range(size - 1)
    ]


def learning_contests() -> list[Contest]:
    """Return Q-learning's contests, in updates per second: the Python driver on the scalar walk, the compiled driver on
    FrozenLake's tables in one run and in 1,024, each against the textbook loop on the same environment."""
    walk, lake = "tokenwalk/CounterWalk-v0", "FrozenLake-v1"
    textbook = textbook_q_learning(lake)
    return [
        Contest(
            "Q-learning, scalar walk / textbook",
            python_q_learning(walk),
            textbook_q_learning(walk),
            1.5,
            _UPDATES,
        ),
        Contest(
            "Q-learning, tables, 1 run / textbook", compiled_q_learning(lake, 1), textbook, 300.0, _UPDATES
        ),
        Contest(
            "Q-learning, tables, 1024 runs / textbook",
            compiled_q_learning(lake, 1024, 32_000_000),
            textbook,
            300.0,
            _UPDATES,
        ),
    ]


def textbook_q_learning(env_id: str, steps: int = 15_000, **env_args: Any) -> Work:
    """Return the textbook loop: a numpy table, epsilon-greedy with numpy's generator, ties to the first action.

    ``agents/tabular/textbook.py`` is not used here. It breaks ties at random, as the kernels do, which makes it slower
    than this loop: a comparison with it would favor the kernels.
    """
    env = gym.make(env_id, **env_args)
    n_states, n_actions = int(env.observation_space.n), int(env.action_space.n)  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)

    def work() -> int:
        q = np.zeros((n_states, n_actions))
        state, _ = env.reset(seed=0)
        for _ in range(steps):
            action = int(rng.integers(n_actions)) if rng.random() < 0.1 else int(np.argmax(q[state]))
            next_state, reward, terminated, truncated, _ = env.step(action)
            q[state, action] += 0.1 * (
                float(reward) + 0.9 * np.max(q[next_state]) * (not terminated) - q[state, action]
            )
            state = next_state
            if terminated or truncated:
                state, _ = env.reset()
        return steps

    return work


def python_q_learning(env_id: str, steps: int = 30_000) -> Work:
    """Return our Python driver over the scalar environment; the agent continues from one call to the next."""
    env = gym.make(env_id)
    agent = QLearning.for_env(env, QLearningConfig())

    def work() -> int:
        agent.learn_env(env, steps)
        return steps

    return work


def compiled_q_learning(env_id: str, runs: int, updates: int = 8_000_000, machine: bool = False) -> Work:
    """Return our compiled driver over the tables (``machine``: of a token task's machine); the runs share ``updates``."""
    env = gym.make(env_id)
    mdp = env.unwrapped.model.machine_tables()[0] if machine else tabular_mdp(env)  # type: ignore[attr-defined]
    weights = {"train" if machine else "gold": 1.0}
    agent = QLearning.for_mdp(mdp, QLearningConfig(), runs=runs)

    def work() -> int:
        agent.learn_mdp(mdp, weights, updates // runs)
        return updates // runs * runs

    return work


def sb3_contests() -> list[Contest]:
    """Return PPO's frames per second with 64 sub-environments.

    On CounterWalk: our adapter over the native environment against SB3's DummyVecEnv. On Keyword: our extractor for token
    ids against SB3's one-hot columns.
    """
    torch.set_num_threads(1)
    walk, task, num_envs = "tokenwalk/CounterWalk-v0", "tokenwalk/Keyword-v0", 64
    native = ppo_frames(walk, make_vec_env(walk, num_envs))
    tokens = ppo_frames(task, make_vec_env(task, num_envs))
    one_hot = ppo_frames(task, make_vec_env(task, num_envs), features="one-hot")
    return [
        Contest(
            "PPO x64 / DummyVecEnv",
            native,
            ppo_frames(walk, DummyVecEnv([partial(gym.make, walk)] * num_envs)),
            1.0,
            "frames/s",
        ),
        Contest("PPO on tokens / one-hot", tokens, one_hot, 1.2, "frames/s"),
    ]


def ppo_frames(env_id: str, vec_env: Any, steps: int = 8_192, **changes: Any) -> Work:
    """Return work that trains PPO on ``steps`` frames, with its defaults for ``env_id`` and ``changes``."""
    config: Any = replace(default_config("ppo", env_id), **changes)

    def work() -> int:
        model = build("ppo", vec_env, config, seed=0)
        train(model, steps=steps, on_progress=lambda step, metrics: None)
        return int(model.num_timesteps)

    return work


def solve_contests() -> list[Contest]:
    """Return the contests of the solver, in solves per second: each task of the catalog against 1, and a task of 50 tokens,
    a horizon of 50, 200 machine states and a bigram as its reference policy against 0.5.

    A solve builds the tables and finds an optimum; half of the optima are KL-regularized.
    """
    tasks = [
        Contest(f"solve {name} / once a second", solving(name), 1.0, 1.0, "solves/s") for name in CATALOG
    ]
    return [
        *tasks,
        Contest("solve V = H = 50, 200 states / in 2 s", solving(large_task()), 0.5, 1.0, "solves/s"),
    ]


def solving(task: str | Task) -> Work:
    """Return work that builds the tables of a task and solves it for gold, with and without a KL penalty."""
    found = find_task(task)

    def work() -> int:
        mdp = TokenModel(found, compose(found, "gold")).tabular_mdp()
        for kl_coef in (0.0, 0.1):
            solve(mdp, {"gold": 1.0}, discount=1.0, kl_coef=kl_coef)
        return 2  # two optima, so the rate is per optimum

    return work


def large_task(size: int = 50, states: int = 200) -> Task:
    """Return a task of ``size`` tokens and steps, a random machine of ``states`` states, and a bigram reference policy."""
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary.of_characters(f"w{number}" for number in range(size - 1))
    shape = (states, size)
    machine = RewardMachine(
        rng.integers(states, size=shape), rng.normal(size=shape), np.zeros(shape), np.zeros(1, dtype=np.int64)
    )
    lines = [rng.integers(0, size - 1, 30).tolist() for _ in range(200)]
    return Task("Large", vocabulary, size, machine, reference=fit_ngram(lines, size))


def reward_contests() -> list[Contest]:
    """Return the contests of learned rewards.

    Scores of a reward model for 1,024 completions at once against one by one. Its training in tokens per second against
    torch's matrix product, whose multiplications are converted to tokens. The normal equation against scikit-learn.
    """
    torch.set_num_threads(1)
    contests = [
        Contest(
            f"reward model ({kind}), 1024 at once / one by one", *scoring_both_ways(kind), target, "texts/s"
        )
        for kind, target in (("linear", 50.0), ("transformer", None))
    ]
    contests += [
        Contest("reward model, training / matrix products", *training_against_products(), None, "tokens/s"),
    ]
    try:
        from sklearn.linear_model import LinearRegression
    except ModuleNotFoundError:
        return contests  # installed with [dev]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10_000, 10))
    y = x @ rng.normal(size=(10, 1)) + rng.normal(size=(10_000, 1))

    def ours() -> int:
        normal_equation(x, y)
        return 1

    def theirs() -> int:
        LinearRegression().fit(x, y)
        return 1

    return [*contests, Contest("normal equation, 10,000 x 10 / scikit-learn", ours, theirs, None, "fits/s")]


def scoring_both_ways(kind: Any) -> tuple[Work, Work]:
    """Return work that scores 1,024 completions of Flattery at once, and 64 of them one by one, with an untrained model."""
    task = find_task("Flattery")
    shape = TextShape.of(task)
    scorer = Ensemble([build_scorer(kind, shape, 32, 2, seed=0).eval()], shape, "mean")
    model, batch = LearnedSource("model", scorer), enumerate_completions(task)[:1_024].batch(task)

    def at_once() -> int:
        model.score(batch)
        return 1_024

    def one_by_one() -> int:
        for row in range(64):
            model.score(batch[row : row + 1])
        return 64

    return at_once, one_by_one


def training_against_products(width: int = 64) -> tuple[Work, Work]:
    """Return the training of a Transformer reward model and torch's matrix product, both in tokens.

    A token takes 6 multiply-adds per parameter.
    """
    task = find_task("Keyword")
    shape = TextShape.of(task)
    config = RewardModelConfig(objective="regression", scorer="transformer", pairs=500, width=width)
    data = Data.of(RewardDataset(task, config), shape, 0, held_out=False)
    network = build_scorer("transformer", shape, width, 2, seed=0)
    training = TrainingConfig(updates=10, batch_size=128)
    tokens = training.updates * training.batch_size * data.ids.shape[1]
    # Embeddings are looked up, not multiplied.
    multiplied = sum(
        one.numel()
        for name, one in network.named_parameters()
        if "tokens" not in name and "places" not in name
    )
    operations = 6 * multiplied  # forward 2, backward 4
    size, times = 1_024, 4
    left, right = torch.ones(size, size), torch.ones(size, size)

    def learn() -> int:
        fit(
            network, lambda rows: data.loss(network, rows, "regression"), len(data), training
        ).raise_if_interrupted()
        return tokens

    def multiply() -> int:
        for _ in range(times):
            torch.mm(left, right)
        return round(times * 2 * size**3 / operations)

    return learn, multiply


def lm_contests() -> list[Contest]:
    """Return the contests of the language model."""
    from tokenwalk.agents.study.benchmark.language import language_contests

    return language_contests()


PARTS: dict[str, Callable[[], list[Contest]]] = {
    "walk": walk_contests,
    "tokens": token_contests,
    "learning": learning_contests,
    "sb3": sb3_contests,
    "solve": solve_contests,
    "rewards": reward_contests,
    "lm": lm_contests,
}
