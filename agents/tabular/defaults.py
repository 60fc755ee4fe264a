"""Settings and step budgets for each environment, measured against the exact optimum (tests/agents/tabular).

With these settings, each of 16 runs learns a greedy policy whose exact value, under the id's own discount and without the
time limit, lies at least 99 % of the way from the uniform policy's to the optimum. Q-learning and double Q-learning
also come within 1 % of the optimal value itself on CliffWalking; SARSA and expected SARSA keep away from the cliff
as long as they explore, because they learn the value of the exploring policy.
"""

from typing import Any

from tokenwalk.agents.tabular.config import Backup, QLearningConfig
from tokenwalk.envs.registration import discount_of

Budget = tuple[dict[str, Any], int]  # fields of the config, steps of each run

# Off-policy backups learn a value that does not depend on epsilon, so epsilon is constant.
_OFF_POLICY: dict[str, Budget] = {
    "tokenwalk/CounterWalk": ({}, 100),
    "tokenwalk/CounterWalkLong": ({"step_size": 0.5}, 200_000),
    "CliffWalking": ({"step_size": 0.2, "epsilon": 0.5}, 400_000),
    # A value gap of 0.04 next to the goal decides: the step size must fall until the noise is below that gap.
    "FrozenLake": ({"step_size": 0.5, "step_size_half_life": 100.0, "epsilon": 0.3}, 2_000_000),
    "Taxi": ({"step_size": 0.2}, 1_000_000),
}
# Token tasks are deterministic: the newest target is the best estimate, so the step size is 1.
_TOKENS = {"step_size": 1.0, "epsilon": 0.3}
_OFF_POLICY |= {
    "tokenwalk/Keyword": (_TOKENS, 1_000_000),
    "tokenwalk/TokenGeneration": (_TOKENS, 1_000_000),
    # Random actions find the password once in a million episodes; an optimistic start needs a few thousand steps.
    "tokenwalk/Password": ({"step_size": 1.0, "epsilon": 0.0, "initial_value": 1.0}, 5_000),
    "tokenwalk/Brackets": (_TOKENS, 1_000_000),
    "tokenwalk/Arithmetic": ({"step_size": 1.0, "epsilon": 0.0, "initial_value": 1.0}, 1_000_000),
    "tokenwalk/Lexicon": (_TOKENS, 16_000_000),
    "tokenwalk/LengthBias": (_TOKENS, 200_000),
    "tokenwalk/Flattery": (_TOKENS, 50_000),
    "tokenwalk/Delayed": (_TOKENS, 200_000),
}
# On-policy backups learn the value of the exploring policy: epsilon must fall, after every action was tried.
_ON_POLICY: dict[str, Budget] = {
    "tokenwalk/CounterWalk": ({}, 100),
    "tokenwalk/CounterWalkLong": (
        {"step_size": 0.5, "final_epsilon": 0.0, "epsilon_steps": 200_000},
        200_000,
    ),
    "CliffWalking": (
        {"step_size": 0.2, "epsilon": 0.2, "final_epsilon": 0.0, "epsilon_steps": 100_000},
        100_000,
    ),
    "FrozenLake": (
        {
            "step_size": 0.05,
            "step_size_half_life": 10_000.0,
            "epsilon": 0.5,
            "final_epsilon": 0.03,
            "epsilon_steps": 2_000_000,
        },
        4_000_000,
    ),
    "Taxi": ({"step_size": 0.2, "final_epsilon": 0.0, "epsilon_steps": 1_000_000}, 1_000_000),
}
_ELSEWHERE: Budget = (
    {"step_size_half_life": 1000.0, "epsilon": 1.0, "final_epsilon": 0.1, "epsilon_steps": 100_000},
    200_000,
)
_KL_COEF = {"CliffWalking": 0.5, "FrozenLake": 0.005}  # in the unit of their rewards
_KL_COEF_ELSEWHERE = 0.1


def default_config(env_id: str, backup: Backup) -> tuple[QLearningConfig, int]:
    """Return the settings of an agent on the environment ``env_id`` and the steps that each run takes."""
    name = env_id.rsplit("-v", 1)[0]  # versions of an environment share their settings
    budgets = _ON_POLICY if backup in ("sarsa", "expected-sarsa") else _OFF_POLICY
    fields, steps = budgets.get(name, _ELSEWHERE)
    kl_coef = _KL_COEF.get(name, _KL_COEF_ELSEWHERE) if backup == "soft-q" else 0.0
    return QLearningConfig(backup=backup, discount=discount_of(env_id), kl_coef=kl_coef, **fields), steps
