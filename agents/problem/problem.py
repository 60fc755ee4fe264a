"""An environment that a person named, made and read: its id, its tables, its rewards and the lines of its charts."""

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import gymnasium as gym

from tokenwalk.agents.exact.bellman import NoFiniteAnswerError
from tokenwalk.agents.exact.dynamic_programming import Solution, solve
from tokenwalk.agents.exact.evaluation import evaluate, reference_policy
from tokenwalk.agents.exact_tokens.exact_tables import optimal_value, train_weights
from tokenwalk.agents.exact_tokens.token_evaluation import evaluate_tokens
from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens
from tokenwalk.agents.problem.reward_spec import (
    Named,
    Reward,
    name_of,
    reward_components,
    shaping_sources,
)
from tokenwalk.envs.registration import discount_of, resolve_id
from tokenwalk.envs.rewards.source import MachineSource
from tokenwalk.envs.tabular import TabularMDP, tabular_mdp
from tokenwalk.envs.token_model import TokenModel, compose


@dataclass(frozen=True)
class Problem:
    """An environment and what is known of it.

    Attributes:
        env_id: the registered id.
        env_args: what ``gym.make`` gets beside it and the sources, as a person gave it.
        discount: the id's own.
        weights: channel -> weight of the training reward.
        mdp: the tables, or None.
        reason: why there are no tables; empty where there are.
        observation_space, action_space: of one environment.
        tokens: the machines of a token task, None elsewhere. Shaping is among them where it is a machine.
        sources: the reward components and the shaping of a token task, where they are other than its own.
        names: those, as a person named them: "reward" and "shaping".
    """

    env_id: str
    env_args: Mapping[str, Any]
    discount: float
    weights: Mapping[str, float]
    mdp: TabularMDP | None
    reason: str
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    tokens: TokenModel | None
    sources: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def make_args(self) -> dict[str, Any]:
        """Return all that ``gym.make`` and ``gym.make_vec`` get."""
        return {**self.env_args, **self.sources}

    def make(self, **env_args: Any) -> gym.Env[Any, Any]:
        """Return a fresh environment; ``env_args`` come on top of the problem's own."""
        return make_env(self.env_id, {**self.make_args, **env_args})

    def make_to_play(self) -> gym.Env[Any, Any]:
        """Return a fresh environment for an actor: tokens, whatever an agent learned from, and no shaping."""
        return self.make() if self.tokens is None else self.make(observation="tokens", shaping=())

    @property
    def annealed(self) -> list[tuple[str, float, float]]:
        """Return each reward component whose weight changes while an agent learns: its name, from what, to what."""
        names = [source.name for source, _ in self.sources.get("reward", ())]
        asked = [Named.of(text) for text in self.names.get("reward", ())]
        return [(name, one.weight, one.final) for name, one in zip(names, asked, strict=True) if one.annealed]

    @property
    def shaped(self) -> bool:
        """Return whether something is added to the training reward for the learner."""
        return bool(self.sources.get("shaping"))

    @cached_property
    def best(self) -> Solution:
        """Return the optimum of the training reward, undiscounted over the environment's own horizon.

        Raises:
            ValueError: no tables. NoFiniteAnswerError: there is no such optimum.
        """
        if self.mdp is None:
            raise ValueError(f"{self.env_id} has no exact answer: {self.reason}")
        return solve(self.mdp, self.weights, discount=1.0)

    @cached_property
    def lines(self) -> "Lines":
        """Return the optimum's and the reference policy's returns; a chart's two lines."""
        return read_lines(self)


@dataclass(frozen=True)
class Lines:
    """Undiscounted returns over the environment's own horizon; None where one does not exist.

    Attributes:
        optimal_return, reference_return: of the optimum and of the reference policy, by gold.
        optimal_train_return, reference_train_return: the same by the training reward.
        note: why one is missing. shaped: whether something is added to the training reward for the learner.
    """

    optimal_return: float | None
    reference_return: float | None
    optimal_train_return: float | None
    reference_train_return: float | None
    note: str | None
    shaped: bool = False

    def normalized_score(self, gold: float | None) -> float | None:
        """Return (gold - reference) / (optimum - reference); None where a line is missing or the two are equal."""
        if gold is None or self.optimal_return is None or self.reference_return is None:
            return None
        span = self.optimal_return - self.reference_return
        return (gold - self.reference_return) / span if span > 1e-12 else None

    @property
    def charts(self) -> dict[str, dict[str, float]]:
        """Return line -> tag -> value for the tracker; lines that do not exist are left out.

        Where something is added to the training reward, the learner's own curve has no line.
        """
        values = {
            "optimum": {
                "eval/return": self.optimal_train_return,
                "eval/gold": self.optimal_return,
                "rollout/ep_rew_mean": self.optimal_train_return,
            },
            "reference": {
                "eval/return": self.reference_train_return,
                "eval/gold": self.reference_return,
                "rollout/ep_rew_mean": self.reference_train_return,
            },
        }
        present = {
            line: {
                tag: value
                for tag, value in tags.items()
                if value is not None and not (self.shaped and tag == "rollout/ep_rew_mean")
            }
            for line, tags in values.items()
        }
        return {line: tags for line, tags in present.items() if tags}


def make_env(env_id: str, env_args: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """Return ``gym.make(env_id, **env_args)``.

    Raises:
        ValueError: arguments that the environment does not take, or a package that it needs and that is missing.
    """
    try:
        return gym.make(env_id, **env_args)
    except TypeError as error:
        raise ValueError(
            f"{env_id} does not take these arguments: {str(error).split(' was raised from')[0]}"
        ) from None
    except gym.error.Error as error:
        raise ValueError(f"{env_id} cannot be made: {error}") from None


def open_problem(
    env: str,
    env_args: Mapping[str, Any] | None = None,
    reward: Sequence[Reward] = (),
    shaping: Sequence[str] = (),
    discount: float | None = None,
) -> Problem:
    """Return the problem for an environment's name, such as ``CounterWalk`` or ``FrozenLake-v1``.

    Args:
        env: its name.
        env_args: for ``gym.make``.
        reward: of a token task instead of its own, see ``reward_spec.reward_components``.
        shaping: potentials whose shaping is added for the learner, see ``reward_spec.shaping_sources``.
        discount: the learner's own, for shaping; the id's where None.

    Raises:
        ValueError: an unknown name (the message has the nearest) or arguments that it does not take.
    """
    env_id, env_args = resolve_id(env), dict(env_args or {})
    own = discount_of(env_id)
    made = make_env(env_id, env_args)
    model = getattr(made.unwrapped, "model", None)
    tokens = model if isinstance(model, TokenModel) else None
    sources: dict[str, Any] = {}
    if reward or shaping:
        if tokens is None:
            raise ValueError(
                f"{env_id} is no token task, so --reward and --shaping have nothing to score: wrap it yourself, see "
                "tokenwalk.envs.wrappers"
            )
        tokens, sources = _with_sources(tokens, reward, shaping, own if discount is None else discount)
        made.close()
        made = make_env(env_id, {**env_args, **sources})
    weights = {"gold": 1.0} if tokens is None else train_weights(tokens.composition)
    mdp, reason = None, ""
    try:
        mdp = tabular_mdp(made) if tokens is None else tokens.tabular_mdp()
    except ValueError as error:
        reason = str(error)
    made.close()
    spaces = made.observation_space, made.action_space
    names = {"reward": [name_of(one) for one in reward], "shaping": list(shaping)}
    return Problem(env_id, env_args, own, weights, mdp, reason, *spaces, tokens, sources, names)


def _with_sources(
    tokens: TokenModel, reward: Sequence[Reward], shaping: Sequence[str], discount: float
) -> tuple[TokenModel, dict[str, Any]]:
    """Return the model of a task with other sources, and the environment's arguments for them.

    Shaping that is no machine stays out of the model: it is in no return, and would hide what is exact.
    """
    task, sources = tokens.task, {}
    parts: list[Any] = list(tokens.composition.train)
    if reward:
        found = reward_components(reward, task)
        sources["reward"] = [(one.learning, one.weight) for one in found]
        parts = [(one.scoring, one.final) for one in found]
    plain = TokenModel(task, compose(task, parts))
    if not shaping:
        return plain, sources
    sources["shaping"] = shaping_sources(shaping, plain, discount)
    if all(isinstance(source, MachineSource) for source, _ in sources["shaping"]):
        return TokenModel(task, compose(task, parts, shaping=sources["shaping"])), sources
    return plain, sources


def read_lines(problem: Problem, weights: Mapping[str, float] | None = None) -> Lines:
    """Return the exact lines of ``problem``, with a note where one is missing.

    Those of the training reward are by ``weights``, the problem's own if None.

    Raises:
        ValueError: weights of a channel that the problem does not have.
    """
    mdp = problem.mdp
    if mdp is None:
        return _lines_without_tables(problem)
    notes: list[str] = []
    optimal: float | None = None
    optimal_train_return: float | None = None
    try:
        best = problem.best if weights is None else solve(mdp, weights, discount=1.0)
        optimal_train_return = best.start_value(mdp)
        optimal = solve(mdp, {"gold": 1.0}, discount=1.0).start_value(mdp)
    except NoFiniteAnswerError as error:
        notes.append(f"optimal_return: {error}")
    try:
        evaluation = evaluate(mdp, reference_policy(mdp))
        reference: float | None = evaluation.returns["gold"]
        reference_train_return: float | None = evaluation.value(
            problem.weights if weights is None else weights
        )
    except NoFiniteAnswerError as error:
        notes.append(f"reference_return: {error}")
        reference = reference_train_return = None
    return Lines(
        optimal,
        reference,
        optimal_train_return,
        reference_train_return,
        "; ".join(notes) or None,
        problem.shaped,
    )


def _lines_without_tables(problem: Problem) -> Lines:
    """Return the lines that are exact although a reward component is no machine: those by gold, mostly."""
    tokens = problem.tokens
    if tokens is None:
        return Lines(None, None, None, None, problem.reason)
    truth = TokenModel(tokens.task, compose(tokens.task, "gold"))
    truth = TokenModel(replace(tokens.task, proxy=None), replace(truth.composition, metrics=()))
    best, reference = _optimum_and_reference(truth)
    best_train, reference_train_return = _optimum_and_reference(tokens)
    return Lines(best, reference, best_train, reference_train_return, problem.reason, problem.shaped)


def _optimum_and_reference(model: TokenModel) -> tuple[float | None, float | None]:
    """Return the optimal and the reference policy's training return, each None where it is not known exactly."""
    optimum = optimal_value(model)
    found = evaluate_tokens(model, reference_on_tokens(model.task), optimum=optimum)
    return optimum, found.return_ if found.exact else None


def parse_env_args(pairs: Iterable[str]) -> dict[str, Any]:
    """Return the arguments given as ``key=value``: values are Python literals where they can be, else text.

    Raises:
        ValueError: a pair without "=" or without a key.

    >>> parse_env_args(["n_states=5", "slip=0.1", "task=Keyword"])
    {'n_states': 5, 'slip': 0.1, 'task': 'Keyword'}
    """
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"--env-arg {pair!r} is not of the form key=value, such as n_states=5")
        try:
            parsed[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            parsed[key] = text
    return parsed
