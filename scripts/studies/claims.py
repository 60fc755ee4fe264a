"""``make claims``: the learning claims of the README, measured again. Each row can fail."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tokenwalk.agents.evaluation.policies import TablePolicies
from tokenwalk.agents.evaluation.score import score
from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact.evaluation import evaluate, reference_policy
from tokenwalk.agents.learners.registry import find_agent
from tokenwalk.agents.problem.problem import Problem, open_problem
from tokenwalk.agents.tabular.q_learning import QLearning
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.tabular import TabularMDP

RUNS = 16


@dataclass(frozen=True)
class Claim:
    """One measured claim: ``measured`` must be at least ``bound``."""

    agent: str
    env: str
    what: str
    runs: int
    steps: int
    seconds: float
    measured: float
    bound: float
    normalized_score: float | None  # over the horizon of the environment, mean over the runs

    @property
    def holds(self) -> bool:
        """Return whether the claim holds today."""
        return self.measured >= self.bound


def measure_claims() -> Iterator[Claim]:
    """Measure every claim, one after another."""
    for env in ("CounterWalk", "CounterWalkLong", "FrozenLake", "CliffWalking", "Taxi"):
        yield learned_value(env)
    for env in ("CounterWalk", "FrozenLake"):
        yield regularized_value(env)
    for env in ("Keyword", "Flattery", "LengthBias", "Delayed", "Brackets"):
        yield tabular_score(env)
    for agent in ("ppo", "dqn", "a2c", "maskable-ppo"):
        for env in ("CounterWalk", "Keyword", "Flattery"):
            yield sb3_score(agent, env)
    for env in ("LengthBias", "Delayed", "Arithmetic"):
        yield sb3_score("ppo", env)
    for env in ("Flattery", "Keyword", "Delayed", "LengthBias"):
        yield language_share("rloo", env, 0.95)
    yield language_share("rloo", "Arithmetic", 0.80)


def learned_value(env: str) -> Claim:
    """Q-learning: the worst of 16 greedy policies as a share of the way from the reference value to the optimal value.

    Exact, with the discount of the agent, over the infinite horizon if the time limit is a truncation. On CliffWalking
    it is the optimal value divided by that of the policy, both negative.
    """
    problem, agent, steps, seconds = _learn("q-learning", env)
    mdp, discount = _endless(problem), agent.config.discount
    values = [_start_value(problem, policy, discount) for policy in agent.greedy_policy()]
    best = solve(mdp, problem.weights, discount=discount).start_value(mdp)
    if env == "CliffWalking":
        what, worst = "optimal value / worst run's value", min(best / value for value in values)
    else:
        reference = _start_value(problem, reference_policy(mdp), discount)
        what, worst = (
            "worst run's share of the way to the optimal value",
            (min(values) - reference) / (best - reference),
        )
    return Claim("q-learning", env, what, RUNS, steps, seconds, worst, 0.99, _score(problem, agent))


def regularized_value(env: str) -> Claim:
    """Soft Q-learning: the worst of 16 runs as a share of the way from the reference value to the regularized optimum."""
    problem, agent, steps, seconds = _learn("soft-q", env)
    mdp, config = _endless(problem), agent.config
    best = solve(mdp, problem.weights, discount=config.discount, kl_coef=config.kl_coef).start_value(mdp)
    values = [
        evaluate(mdp, policy, discount=config.discount).value(problem.weights, config.kl_coef)
        for policy in agent.policy()
    ]
    reference = _start_value(problem, reference_policy(mdp), config.discount)
    what = f"worst run's share of the way to the regularized optimum (kl_coef {config.kl_coef:g})"
    share = (min(values) - reference) / (best - reference)
    return Claim("soft-q", env, what, RUNS, steps, seconds, share, 0.99, _score(problem, agent))


def tabular_score(env: str) -> Claim:
    """Q-learning on a token task's machine: the worst of 16 runs' exact normalized score."""
    problem, agent = open_problem(env), find_agent("q-learning")
    config, steps = agent.default(env)
    learner = agent.build(problem, config, seed=0, runs=RUNS)
    started = time.perf_counter()
    learner.learn(steps, lambda step, metrics: None)
    seconds, policy = time.perf_counter() - started, learner.policy()
    assert isinstance(policy, TablePolicies)
    scores = [float(score(problem, TablePolicies(table[None])).normalized or 0.0) for table in policy.tables]
    what = "worst run's normalized score"
    return Claim("q-learning", env, what, RUNS, steps, seconds, min(scores), 0.99, float(np.mean(scores)))


def sb3_score(agent: str, env: str, seeds: int = 3) -> Claim:
    """Stable-Baselines3: the worst of three seeds' exact normalized score of the greedy policy."""
    problem = open_problem(env)
    config, steps = find_agent(agent).default(env)[0], find_agent(agent).default(env)[1]
    started, scores = time.perf_counter(), []
    for seed in range(seeds):
        learner = find_agent(agent).build(problem, config, seed=seed, runs=None)
        learner.learn(steps, lambda step, metrics: None)
        scores.append(float(score(problem, learner.policy(), seed).normalized or 0.0))
    seconds = (time.perf_counter() - started) / seeds
    return Claim(
        agent,
        env,
        "worst seed's normalized score",
        seeds,
        steps,
        seconds,
        min(scores),
        0.95,
        float(np.mean(scores)),
    )


def language_share(agent: str, env: str, bound: float, seeds: int = 2) -> Claim:
    """A language model: the worst seed as a share of the way from the reference policy to the KL-regularized optimum.

    The evaluation is exact if the completions can be enumerated, else it samples 10,000 of them; the optimum is exact.
    The seconds are those of training, with its evaluations and its pre-training.
    """
    problem = open_problem(env)
    config, steps = find_agent(agent).default(env)[0], find_agent(agent).default(env)[1]
    shares, scores, seconds, exact = [], [], 0.0, True
    low = problem.lines.reference_train_return
    assert low is not None
    for seed in range(seeds):
        learner = find_agent(agent).build(problem, config, seed=seed, runs=None)
        started = time.perf_counter()
        learner.learn(steps, lambda step, metrics: None)
        seconds += (time.perf_counter() - started) / seeds
        found = score(problem, learner.policy(), seed)
        assert found.regularized is not None
        assert found.regularized.optimal is not None
        shares.append((found.regularized.return_ - low) / (found.regularized.optimal - low))
        scores.append(float(found.normalized or 0.0))
        exact &= found.exact
    what = f"worst seed's share of the way to the regularized optimum (kl_coef {config.kl_coef:g})"
    what += "" if exact else ", from 10,000 completions"
    return Claim(agent, env, what, seeds, steps, seconds, min(shares), bound, float(np.mean(scores)))


def markdown(claims: list[Claim]) -> str:
    """Return the text of CLAIMS.md."""
    lines = [
        "# Claims, as measured",
        "",
        "Written by `make claims`. Every figure is exact for the trained policy, or states the number of completions of its",
        "estimate. The seconds depend on the machine.",
        "",
        "| agent | environment | what is measured | runs | steps of each | seconds | measured | at least | score |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for c in claims:
        score = "-" if c.normalized_score is None else f"{c.normalized_score:.4f}"
        what = f"{c.agent} | {c.env} | {c.what} | {c.runs} | {c.steps:,} | {c.seconds:.1f}"
        lines.append(f"| {what} | {c.measured:.4f} | {c.bound} | {score} |")
    return "\n".join(lines) + "\n"


def _learn(name: str, env: str) -> tuple[Problem, QLearning, int, float]:
    """Return the problem, 16 trained runs, the steps of each and the seconds of all."""
    problem = open_problem(env)
    assert problem.mdp is not None
    config, steps = find_agent(name).default(env)[0], find_agent(name).default(env)[1]
    agent = QLearning.for_mdp(problem.mdp, config, runs=RUNS, seed=0)
    started = time.perf_counter()
    agent.learn_mdp(problem.mdp, problem.weights, steps)
    return problem, agent, steps, time.perf_counter() - started


def _endless(problem: Problem) -> TabularMDP:
    """Return the tables without a time limit that only truncates."""
    assert problem.mdp is not None
    return problem.mdp.without_time_limit()


def _start_value(problem: Problem, policy: FloatArray, discount: float) -> float:
    """Return the exact discounted value of ``policy`` from the start."""
    return evaluate(_endless(problem), policy, discount=discount).value(problem.weights)


def _score(problem: Problem, agent: QLearning) -> float | None:
    """Return the mean normalized score of the greedy policies, over the horizon of the environment."""
    return score(problem, TablePolicies(agent.greedy_policy())).normalized
