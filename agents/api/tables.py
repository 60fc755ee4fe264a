"""Tables, optima and evaluations of whatever a person has: an id, an environment, tables, or a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from tokenwalk.agents.exact import dynamic_programming, evaluation
from tokenwalk.agents.exact.dynamic_programming import Solution
from tokenwalk.agents.exact.evaluation import Evaluation
from tokenwalk.agents.problem.problem import Problem, open_problem
from tokenwalk.agents.problem.reopen import reopen_problem
from tokenwalk.agents.problem.reward_spec import Reward, several
from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.agents.study.commands.evaluate import evaluate_run
from tokenwalk.envs import tabular
from tokenwalk.envs.tabular import TabularMDP

What = str | Path | gym.Env[Any, Any] | TabularMDP
KINDS = "give an id such as 'Flattery', a gymnasium environment, a TabularMDP, or a run folder"


def tabular_mdp(what: What, *, reward: "Reward | Sequence[Reward]" = (), **env_args: Any) -> TabularMDP:
    """Return the tables of an id, an environment or a run; tables are returned as they are.

    Args:
        what: an id ("Flattery", "FrozenLake-v1"), an environment, a ``TabularMDP``, or a run folder.
        reward: of a token task by id, instead of its own: names, functions, sources, or pairs with a weight.
        env_args: of ``gym.make``, where ``what`` is an id.

    Raises:
        ValueError: an environment that has no finite tables, with the reason; or arguments where there is no id.

    >>> tabular_mdp("Flattery").horizon, tabular_mdp("CounterWalk", n_states=5).n_states
    (5, 5)
    """
    if env_args and not _is_id(what):
        raise ValueError(f"{sorted(env_args)} are arguments of an id's environment, and {what!r} is no id")
    if reward and isinstance(what, TabularMDP | gym.Env):
        raise ValueError(f"reward is for an id, and {type(what).__name__} has its own")
    if isinstance(what, TabularMDP):
        return what
    if isinstance(what, gym.Env):
        return tabular.tabular_mdp(what)
    problem = _problem(what, env_args, reward)
    if problem.mdp is None:
        raise ValueError(f"{problem.env_id} has no exact answer: {problem.reason}")
    return problem.mdp


def solve(
    what: What,
    weights: Mapping[str, float] | None = None,
    *,
    discount: float | None = None,
    kl_coef: float = 0.0,
    reward: "Reward | Sequence[Reward]" = (),
) -> Solution:
    """Return the exact optimum: of the value, or with ``kl_coef`` of the value minus kl_coef times the KL.

    Args:
        what: an id, an environment, a ``TabularMDP``, or a run folder.
        weights: reward channel -> weight; None: the training reward of an id or a run, else "gold" (or the only channel).
        discount: in [0, 1]; None: 1 where there is a horizon, else the id's own.
        kl_coef: KL coefficient, in units of reward per nat; 0: the hard optimum.
        reward: of a token task by id, instead of its own: names, functions, sources, or pairs with a weight.

    Returns:
        value [T or 1, S], policy [T or 1, S, A], residual; ``start_value(tabular_mdp(what))`` is the optimum.

    Raises:
        ValueError: no tables, an unknown channel, or a number out of range.
        NoFiniteAnswerError: no such optimum exists.

    >>> mdp = tabular_mdp("Flattery")
    >>> solve("Flattery").start_value(mdp), solve("Flattery", {"proxy": 1}).start_value(mdp)
    (2.5, 3.5)
    """
    mdp, own, own_discount = _opened(what, reward)
    weights = own if weights is None else weights
    if discount is None:
        discount = 1.0 if mdp.horizon is not None else own_discount
    return dynamic_programming.solve(mdp, weights, discount=discount, kl_coef=kl_coef)


def evaluate(
    what: What, policy: npt.ArrayLike | None = None, *, discount: float = 1.0, **how: Any
) -> Evaluation | dict[str, Any]:
    """Return the exact figures of a policy on tables, or the summary of a run's policy.

    Args:
        what: an id, an environment or a ``TabularMDP``: evaluated exactly under ``policy``. A run folder: its own policy,
            exact where possible, else estimated.
        policy: [S, A] or [T or 1, S, A]; None: the reference policy.
        discount: of the returns, on tables.
        how: for a run: episodes, trajectories, seed, reward, best_of, as ``tokenwalk evaluate``.

    Returns:
        On tables an ``Evaluation`` (returns by channel, kl, entropy, length); of a run the dictionary that
        ``tokenwalk evaluate RUN --json`` prints.

    Raises:
        ValueError: no tables, a policy of another shape, or an argument that does not fit ``what``.

    >>> round(evaluate("FrozenLake").returns["gold"], 4)
    0.0139
    """
    if isinstance(what, str | Path) and not _is_id(what):
        if policy is not None:
            raise ValueError(f"{what} is a run, which has its own policy: leave policy out")
        return evaluate_run(Path(what), **how)
    if how:
        raise ValueError(f"{sorted(how)} are for a run folder, and {what!r} is none")
    mdp = tabular_mdp(what)
    if policy is None:
        return evaluation.evaluate(mdp, evaluation.reference_policy(mdp), discount=discount)
    return evaluation.evaluate(mdp, np.asarray(policy, dtype=np.float64), discount=discount)


def _is_id(what: object) -> bool:
    """Return whether ``what`` names an environment; a folder that exists is a run."""
    return isinstance(what, str) and not Path(what).is_dir()


def _problem(what: object, env_args: Mapping[str, Any], reward: Any = ()) -> Problem:
    if isinstance(what, str | Path) and not _is_id(what):
        folder = RunFolder.open(Path(what))
        return reopen_problem(folder.path, folder.config)
    if not isinstance(what, str):
        raise ValueError(f"{type(what).__name__} has no tables: {KINDS}")
    return open_problem(what, env_args, several(reward))


def _opened(what: object, reward: Any) -> tuple[TabularMDP, Mapping[str, float], float]:
    """Return the tables, the weights of the training reward, and the discount that goes with them."""
    if isinstance(what, TabularMDP | gym.Env):
        if reward:
            raise ValueError(f"reward is for an id, and {type(what).__name__} has its own: give weights")
        mdp = tabular_mdp(what)
        return mdp, {"gold" if "gold" in mdp.rewards else next(iter(mdp.rewards)): 1.0}, 0.99
    problem = _problem(what, {}, reward)
    if problem.mdp is None:
        raise ValueError(f"{problem.env_id} has no exact answer: {problem.reason}")
    return problem.mdp, problem.weights, problem.discount
