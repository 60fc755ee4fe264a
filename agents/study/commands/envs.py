"""``tokenwalk envs``: one row for each registered id."""

from typing import Any

from tokenwalk.agents.problem.problem import open_problem
from tokenwalk.envs.registration import TABLE


def list_environments() -> list[dict[str, Any]]:
    """Return, for each id, its spaces, horizon, discount and the exact optimal and reference returns (by gold)."""
    rows = []
    for row in TABLE:
        problem = open_problem(row.id)
        env = problem.make()
        rows.append(
            {
                "env": row.id,
                "observation": str(env.observation_space),
                "action": str(env.action_space),
                "horizon": problem.mdp.horizon if problem.mdp else row.max_episode_steps,
                "discount": row.discount,
                "optimal_return": problem.lines.optimal_return,
                "reference_return": problem.lines.reference_return,
                "exact": problem.mdp is not None,
                "note": problem.lines.note,
            }
        )
    return rows
