"""The agents by name, behind one small protocol: what training, evaluation and reports need of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact.evaluation import reference_policy
from tokenwalk.agents.exact.token_policy import Policy, reference_on_tokens, table_policy
from tokenwalk.agents.runs.checkpoint import DamagedFileError, read_arrays, write_arrays
from tokenwalk.agents.study.budgets import LANGUAGE, SB3, TABULAR, check_agent, config_type
from tokenwalk.agents.study.problem import Problem
from tokenwalk.agents.study.rollout import Actor, RandomActor, TableActor, TokenActor, play
from tokenwalk.agents.study.scoring import Charge, Score, score_episodes, score_exactly, score_tokens_policy
from tokenwalk.agents.study.terms import TermMeter, mean_terms
from tokenwalk.agents.tabular.config import QLearningConfig
from tokenwalk.agents.tabular.q_learning import QLearning
from tokenwalk.agents.tabular.saving import load_agent, save_agent
from tokenwalk.envs.rewards.source import TokenBatch
from tokenwalk.envs.tabular import TabularMDP
from tokenwalk.envs.transition import FloatArray, IntArray

AGENT_FILE, MODEL_FILE, POLICY_FILE = "agent.npz", "model.safetensors", "policy.npz"
_LARGE = 50_000  # entries of a table whose exact evaluation is no longer free: fewer along the way
ANNEALING_PIECES = 50  # in which an agent that steps its environment learns while a weight changes
EPISODES = 200  # played for a score where nothing is exact
Report = Callable[[int, Mapping[str, float]], None]


class Learner(Protocol):
    """Something that learns, or knows already."""

    runs: int
    can_resume: bool

    @property
    def charge(self) -> Charge | None:
        """Return the KL that the scored policy pays while it learns; None: none."""

    @property
    def steps(self) -> int:
        """Return the environment steps taken so far, of each run."""

    def learn(self, steps: int, report: Report) -> None:
        """Take ``steps`` more steps; ``report`` gets the step and the metrics some times a second."""

    def set_weight(self, name: str, weight: float) -> None:
        """Give the paid source ``name`` another weight from the next step on; asked only where one is annealed."""

    def policies(self) -> FloatArray | None:
        """Return the scored policies [R, T or 1, S, A], or None where the observations are no states of tables."""

    def token_policy(self, run: int) -> Policy:
        """Return the scored policy of one run over token ids; asked for only where ``policies`` returns None."""

    def actor(self, run: int, rng: np.random.Generator) -> Actor:
        """Return the scored policy of one run as something that plays."""

    def save(self, folder: Path) -> None:
        """Write the model into a run folder."""


def build_learner(
    agent: str, problem: Problem, config: Any, *, seed: int, runs: int | None, threads: int
) -> Learner:
    """Return a fresh learner.

    Raises:
        ValueError: an unknown agent, spaces that it cannot take, or several runs of an agent that trains one at a time.
    """
    check_agent(agent)
    if agent in TABULAR:
        return TabularLearner.fresh(problem, config, seed=seed, runs=runs)
    if runs not in (None, 1):
        raise ValueError(
            f"{agent} trains one run at a time and was asked for {runs}: start it once for each --seed"
        )
    if agent in SB3:
        return SB3Learner(agent, problem, config, seed=seed, threads=threads)
    if agent in LANGUAGE:
        from tokenwalk.agents.study.language_learner import LanguageLearner

        return LanguageLearner(agent, problem, config, seed=seed, threads=threads)
    return ExactLearner(problem) if agent == "exact" else RandomLearner(problem)


def load_learner(folder: Path, request: Mapping[str, Any], problem: Problem) -> Learner:
    """Return the learner that a run folder holds; ``request`` is its config.json.

    Raises:
        DamagedFileError: a model file that is torn or foreign, or missing.
    """
    agent = check_agent(request["agent"])
    try:
        if agent in TABULAR:
            tabular = load_agent(folder / AGENT_FILE)
            return TabularLearner(problem, tabular, find_walk(problem, tabular.config))
        if agent in SB3:
            return SB3Learner(agent, problem, None, seed=0, threads=1, model_file=folder / MODEL_FILE)
        if agent in LANGUAGE:
            from tokenwalk.agents.study.language_learner import LanguageLearner

            kind = config_type(agent)
            assert kind is not None
            config = kind(**request["config"])
            return LanguageLearner(agent, problem, config, seed=request["seed"], threads=1, folder=folder)
        if agent == "exact":
            return ExactLearner(problem, read_arrays(folder / POLICY_FILE)[0]["policy"])
    except FileNotFoundError as error:
        raise DamagedFileError(f"{error.filename} is missing: restore it or train again") from None
    return RandomLearner(problem)


def score_learner(problem: Problem, learner: Learner, seed: int, episodes: int = EPISODES) -> Score:
    """Return the learner's exact score where there are tables, else an estimate from ``episodes`` played episodes."""
    policies = learner.policies()
    if policies is not None and problem.mdp is not None:
        return score_exactly(problem, policies)
    if problem.tokens is not None:
        return score_tokens_policy(problem, learner.token_policy(0), seed, charge=learner.charge)
    actor = learner.actor(0, np.random.default_rng(seed))
    return score_episodes(problem, list(play(problem.make_to_play(), actor, episodes, seed)))


class TabularLearner:
    """The hand-written agent: compiled over tables where there are any, else stepping the environment.

    On a token task the tables are those of the "machine" observation, unless ``observation`` is "tokens": then the agent
    sees the ids themselves, each text a row of its own.
    """

    can_resume, charge = True, None

    def __init__(self, problem: Problem, agent: QLearning, walk: "Walk | None") -> None:
        self._problem, self._agent, self._walk = problem, agent, walk
        self.runs = agent.runs
        self._envs: list[TermMeter] = []

    @classmethod
    def fresh(cls, problem: Problem, config: Any, *, seed: int, runs: int | None) -> "TabularLearner":
        """Return a learner that knows nothing: 16 runs by default over tables, else 1."""
        walk = find_walk(problem, config)
        if walk is not None:
            return cls(
                problem,
                QLearning.for_mdp(walk.mdp, config, runs=16 if runs is None else runs, seed=seed),
                walk,
            )
        return cls(
            problem,
            QLearning.for_env(problem.make(), config, runs=1 if runs is None else runs, seed=seed),
            None,
        )

    @property
    def steps(self) -> int:
        """Return the steps of each run."""
        return self._agent.steps

    def learn(self, steps: int, report: Report) -> None:
        """Learn; over tables with the exact score of every run at points that lie closer at the beginning."""
        if self._walk is None:
            self._envs = self._envs or [TermMeter(self._problem.make()) for _ in range(self.runs)]
            pieces = ANNEALING_PIECES if self._problem.annealed else 1
            for piece in np.diff(np.linspace(0, steps, pieces + 1).astype(int)):
                self._agent.learn_env(
                    self._envs,
                    int(piece),
                    lambda step, metrics: report(step, {**metrics, **mean_terms(self._envs)}),
                )
            return
        first = self.steps
        points = 50 if self._agent.values[0].size < _LARGE else 12
        for point in np.unique((steps * np.linspace(0, 1, points + 1) ** 2).astype(int)):
            self._agent.learn_mdp(self._walk.mdp, self._walk.weights, first + int(point) - self.steps)
            score = score_exactly(self._problem, self._greedy())
            report(self.steps, {**self._agent.metrics(), **score.as_metrics(), **score.terms})

    def set_weight(self, name: str, weight: float) -> None:
        """Give the paid source ``name`` another weight in every environment that is stepped."""
        for env in self._envs:
            env.unwrapped.set_weight(name, weight)  # type: ignore[attr-defined]

    def policies(self) -> FloatArray | None:
        """Return the greedy policy of every run, ties split evenly, [R, T or 1, S, A]."""
        return None if self._walk is None else self._greedy()

    def token_policy(self, run: int) -> Policy:
        """Return the greedy policy of ``run`` over token ids, the lowest id among equals."""
        return RowsPolicy(self._agent, run)

    def actor(self, run: int, rng: np.random.Generator) -> Actor:
        """Return an actor that plays the greedy policy of ``run``."""
        if self._walk is None:
            return AgentActor(self._agent, run, rng)
        return play_table(self._problem, self._greedy()[run], rng)

    def save(self, folder: Path) -> None:
        """Write agent.npz, from which training can go on."""
        save_agent(self._agent, folder / AGENT_FILE)

    def _greedy(self) -> FloatArray:
        """Return the greedy policies on the states of the problem's tables, [R, T or 1, S, A]."""
        policies = self._agent.greedy_policy()
        return (
            policies if self._walk is None or self._walk.label is None else policies[:, :, self._walk.label]
        )


@dataclass(frozen=True)
class Walk:
    """The tables that a tabular agent walks.

    Attributes:
        mdp: the tables. weights: channel -> weight of what they pay.
        label: int64 [S], which of their states each state of the problem's own tables is; None where they are the same.
    """

    mdp: TabularMDP
    weights: Mapping[str, float]
    label: IntArray | None


def find_walk(problem: Problem, config: QLearningConfig) -> Walk | None:
    """Return the tables for an agent with ``config``, or None where it has to step the environment."""
    if problem.mdp is None:
        return None
    if problem.tokens is None:
        return Walk(problem.mdp, problem.weights, None)
    hidden = problem.shaped and not problem.tokens.composition.shaping
    if hidden or problem.annealed or problem.env_args.get("observation") == "tokens":
        return None  # what is added, or changes while the agent learns, is in no table
    # Soft Q-learning pays its KL to the reference policy, so it has to see what that one sees.
    mdp, label = problem.tokens.machine_tables(with_contexts=config.backup == "soft-q")
    return Walk(mdp, problem.tokens.walk_weights, label)


@dataclass(frozen=True)
class RowsPolicy:
    """The greedy policy of a tabular agent on token ids; a text that it never met is ended."""

    agent: QLearning
    run: int

    def log_probs(self, batch: TokenBatch) -> FloatArray:
        """Return 0 for the best token after each prefix and -inf for the others, float64 [B, V]."""
        table = np.full((len(batch.length), self.agent.n_actions), -np.inf)
        values, available = self.agent.values[self.run, 0], self.agent.available
        for number, observation in enumerate(np.hstack([batch.prompt, batch.completion])):
            row = self.agent.index.find(observation)
            best = (
                self.agent.n_actions - 1
                if row is None
                else np.where(available[row], values[row], -np.inf).argmax()
            )
            table[number, best] = 0.0
        return table


@dataclass(frozen=True)
class AgentActor:
    """Plays one run of a tabular agent on observations that are no states of tables."""

    agent: QLearning
    run: int
    rng: np.random.Generator

    def act(self, observation: Any, time: int, info: Mapping[str, Any]) -> tuple[int, float]:
        """Return the greedy action; its log-probability is 0."""
        return self.agent.act(observation, self.rng, run=self.run, action_mask=info.get("action_mask")), 0.0


def play_table(problem: Problem, policy: FloatArray, rng: np.random.Generator) -> Actor:
    """Return an actor for a policy [T or 1, S, A] of the problem's own tables."""
    if problem.tokens is not None:
        return TokenActor(table_policy(problem.tokens, policy), problem.tokens.task, rng)
    return TableActor(policy, int, rng)


class RandomLearner:
    """The reference policy, or chance where none is known: the lower end of every scale. It has nothing to learn."""

    runs, can_resume, steps, charge = 1, False, 0, None

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def learn(self, steps: int, report: Report) -> None:
        """Do nothing."""

    def set_weight(self, name: str, weight: float) -> None:
        """Do nothing."""

    def policies(self) -> FloatArray | None:
        """Return the reference policy, [1, 1, S, A]."""
        return None if self._problem.mdp is None else reference_policy(self._problem.mdp)[None]

    def token_policy(self, run: int) -> Policy:
        """Return the task's reference policy."""
        assert self._problem.tokens is not None
        return reference_on_tokens(self._problem.tokens.task)

    def actor(self, run: int, rng: np.random.Generator) -> Actor:
        """Return an actor that plays the reference policy, or at random."""
        if self._problem.mdp is not None:
            return play_table(self._problem, reference_policy(self._problem.mdp), rng)
        space = self._problem.action_space
        if not isinstance(space, gym.spaces.Discrete):
            raise ValueError(f"the random agent cannot act in {space}: it takes Discrete actions")
        return RandomActor(int(space.n), rng, int(space.start))

    def save(self, folder: Path) -> None:
        """Write nothing: chance has no parameters."""


class ExactLearner:
    """The optimum of what is paid, over the environment's own horizon (infinite and discounted where it has none)."""

    runs, can_resume, steps, charge = 1, False, 0, None

    def __init__(self, problem: Problem, policy: FloatArray | None = None) -> None:
        if problem.mdp is None:
            raise ValueError(f"the exact agent cannot solve {problem.env_id}: {problem.reason}")
        self._problem = problem
        self._policy = policy

    def learn(self, steps: int, report: Report) -> None:
        """Solve, at no cost of steps."""
        mdp = self._problem.mdp
        assert mdp is not None
        discount = 1.0 if mdp.horizon is not None else self._problem.discount
        self._policy = solve(mdp, self._problem.weights, discount=discount).policy

    def set_weight(self, name: str, weight: float) -> None:
        """Do nothing: what is solved for is what learners are scored by."""

    def policies(self) -> FloatArray | None:
        """Return the optimal policy, [1, T or 1, S, A]; ties are split in proportion to the reference."""
        return None if self._policy is None else self._policy[None]

    def token_policy(self, run: int) -> Policy:
        """Return the optimal policy over token ids."""
        assert self._problem.tokens is not None
        assert self._policy is not None
        return table_policy(self._problem.tokens, self._policy)

    def actor(self, run: int, rng: np.random.Generator) -> Actor:
        """Return an actor that plays the optimal policy."""
        if self._policy is None:
            raise ValueError("the exact agent was not solved: train it first")
        return play_table(self._problem, self._policy, rng)

    def save(self, folder: Path) -> None:
        """Write policy.npz."""
        if self._policy is not None:
            write_arrays(folder / POLICY_FILE, {"policy": self._policy}, {})


class SB3Learner:
    """PPO, A2C, DQN or MaskablePPO. torch and SB3 are imported here, when one is asked for."""

    runs, can_resume, charge = 1, False, None

    def __init__(
        self,
        agent: str,
        problem: Problem,
        config: Any,
        *,
        seed: int,
        threads: int,
        model_file: Path | None = None,
    ) -> None:
        import torch

        from tokenwalk.agents.baselines.parameters import load
        from tokenwalk.agents.baselines.sb3 import build, make_vec_env

        torch.set_num_threads(threads)
        self._problem, self._config = problem, config
        vec_env = make_vec_env(problem.env_id, 1 if model_file else config.num_envs, problem.make_args)
        if model_file:
            self._model, _ = load(model_file, vec_env)
        else:
            self._model = build(agent, vec_env, config, seed=seed)

    @property
    def steps(self) -> int:
        """Return the steps taken, of all lanes together."""
        return int(self._model.num_timesteps)

    def learn(self, steps: int, report: Report) -> None:
        """Train by SB3's own loop, in whole updates."""
        from tokenwalk.agents.baselines.sb3 import train

        if steps > 0:
            train(
                self._model,
                steps=steps,
                on_progress=report,
                evaluate=self._evaluate,
            )

    def set_weight(self, name: str, weight: float) -> None:
        """Give the paid source ``name`` another weight in all lanes."""
        self._model.env.unwrapped.vector_env.unwrapped.set_weight(name, weight)  # type: ignore[union-attr]

    def _evaluate(self, model: Any) -> Mapping[str, float]:
        """Return the exact figures of the greedy policy where there are any, by tag; ``model`` is the one held."""
        if self._problem.mdp is None and self._problem.tokens is None:
            return {}
        return score_learner(self._problem, self, seed=0).as_metrics()

    def policies(self) -> FloatArray | None:
        """Return the greedy policy as a table, [1, T or 1, S, A], where the observations are states of tables."""
        from tokenwalk.agents.baselines.policies import policy_table

        mdp, space, tokens = self._problem.mdp, self._model.observation_space, self._problem.tokens
        if mdp is None or not isinstance(space, gym.spaces.Discrete):
            return None
        if tokens is None:
            return policy_table(self._model, mdp.n_states, mdp.available)[None]
        seen = tokens.machine_observations()[: tokens.task.horizon]  # [H, S]
        return policy_table(self._model, int(space.n))[:, seen]

    def token_policy(self, run: int) -> Policy:
        """Return the greedy policy over token ids."""
        assert self._problem.tokens is not None
        from tokenwalk.agents.baselines.policies import ModelPolicy

        return ModelPolicy(self._model, self._problem.tokens.task)

    def actor(self, run: int, rng: np.random.Generator) -> Actor:
        """Return an actor that plays the greedy policy, by its table where there is one: a network is slow step by step."""
        if (policies := self.policies()) is not None:
            return play_table(self._problem, policies[run], rng)
        if self._problem.tokens is not None:
            return TokenActor(self.token_policy(run), self._problem.tokens.task, rng)
        return GreedyModelActor(self._model)

    def save(self, folder: Path) -> None:
        """Write model.safetensors."""
        from tokenwalk.agents.baselines.parameters import save

        save(self._model, self._config, folder / MODEL_FILE)


@dataclass(frozen=True)
class GreedyModelActor:
    """Plays an SB3 model without exploring; its log-probability is 0."""

    model: Any

    def act(self, observation: Any, time: int, info: Mapping[str, Any]) -> tuple[int, float]:
        """Return the model's best available action."""
        from sb3_contrib import MaskablePPO

        masks = {"action_masks": info.get("action_mask")} if isinstance(self.model, MaskablePPO) else {}
        action, _ = self.model.predict(observation, deterministic=True, **masks)
        return int(action), 0.0
