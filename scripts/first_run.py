"""``make train``: trains the first agents and two learned rewards, and prints them with their exact answers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenwalk.scripts.console import (
    Folder,
    parse,
    print_json,
    print_table,
    progress_bar,
    tensorboard_command,
)
from tokenwalk.scripts.main import run_command

TASK = "Flattery"
TRAININGS = (
    ("q-learning", "CounterWalk"),
    ("q-learning", "FrozenLake"),
    ("ppo", "CounterWalk"),
    ("rloo", TASK),
)


@dataclass(frozen=True)
class FirstRunArguments:
    """Train Q-learning on CounterWalk and FrozenLake, PPO on CounterWalk and a language model on Flattery, each with its
    exact optimum; then a reward model and an autoencoder on Flattery, and Q-learning on the reward model."""

    run_dir: Folder = None
    """a new folder for the runs (default: the next number under runs/)"""
    seed: int = 0
    """of all random numbers"""
    json: bool = False
    """print one JSON object"""


def main(argv: Sequence[str]) -> int:
    """Run the trainings in sequence and print their table."""
    arguments = parse(FirstRunArguments, "first-run", argv)
    from tokenwalk.agents.runs.folder import RunFolder
    from tokenwalk.agents.runs.progress import completed
    from tokenwalk.agents.training.train_agent import train

    started = time.perf_counter()
    folder = RunFolder.create(arguments.run_dir, "first-run")
    summaries: list[dict[str, Any]] = []
    for agent, env in TRAININGS:
        with progress_bar(f"{agent} on {env}") as on_progress:
            run_dir = folder.path / f"{agent}-{env}"
            trained = train(agent, env, seed=arguments.seed, run_dir=run_dir, on_progress=on_progress)
        summaries.append(completed(trained))
    models = _learned_rewards(folder.path, arguments.seed)
    on_model = _train_on_model(folder.path, arguments.seed)
    if arguments.json:
        print_json({"runs": summaries, "models": models, "trained_on_reward_model": on_model})
        return 0
    print_table(
        ("agent", "environment", "runs", "steps", "return", "optimum", "score", "seconds"),
        [
            (
                s["agent"],
                s["env"].rsplit("/", 1)[-1],
                s["runs"],
                s["steps"],
                s["return"],
                s["optimal_return"],
                s["normalized_score"],
                round(s["seconds"], 1),
            )
            for s in summaries
        ],
        title=f"trained in {time.perf_counter() - started:.0f} s; a score of 1 is the exact optimum, 0 the random policy",
    )
    _show_learned(models, on_model)
    print(f"curves, each with its optimum: {tensorboard_command(folder.path)}")
    return 0


def _learned_rewards(folder: Path, seed: int) -> list[dict[str, Any]]:
    """Train a reward model of an annotator with a bias for praise, and an autoencoder of the reference policy."""
    from tokenwalk.agents.backprop.configs import (
        RewardModelConfig,
        TokenAutoencoderConfig,
        default_training,
    )
    from tokenwalk.agents.runs.progress import completed
    from tokenwalk.agents.training.model_run import ModelRequest
    from tokenwalk.agents.training.train_autoencoder import train_autoencoder_run
    from tokenwalk.agents.training.train_reward_model import train_reward_model_run

    liked = RewardModelConfig(spurious=(("great", 1.2), ("wonderful", 1.2)))
    typical = TokenAutoencoderConfig()
    requests = [
        ModelRequest(TASK, run_dir=folder / f"{name}-{TASK}") for name in ("reward-model", "autoencoder")
    ]
    with progress_bar(f"reward-model of {TASK}") as on_progress:
        model = completed(
            train_reward_model_run(requests[0], liked, default_training(liked, seed), on_progress)
        )
    with progress_bar(f"autoencoder of {TASK}") as on_progress:
        typical_run = train_autoencoder_run(
            requests[1], typical, default_training(typical, seed), on_progress
        )
    return [model, completed(typical_run)]


def _train_on_model(folder: Path, seed: int) -> dict[str, Any]:
    """Train Q-learning on the reward model."""
    from tokenwalk.agents.runs.progress import completed
    from tokenwalk.agents.training.train_agent import train

    reward, run_dir = [str(folder / f"reward-model-{TASK}")], folder / f"q-learning-{TASK}"
    with progress_bar(f"q-learning on {TASK}") as on_progress:
        summary = train(
            "q-learning", TASK, seed=seed, reward=reward, run_dir=run_dir, on_progress=on_progress
        )
    return completed(summary)


def _show_learned(models: Sequence[dict[str, Any]], on_model: dict[str, Any]) -> None:
    """Print the figures of the learned rewards, and the gold of Q-learning on the reward model."""
    model, autoencoder = models
    rows = [
        ("reward model of a biased annotator", "accuracy", model["accuracy"], 1.0),
        ("Q-learning trained on it", "gold", on_model["gold"], on_model["optimal_return"]),
        ("autoencoder", "nats per token", autoencoder["reconstruction_error"], 0.0),
    ]
    print_table(
        (f"learned on {TASK}", "figure", "value", "best"),
        rows,
        title="optimization exploits the errors of a learned reward: docs/learned-rewards.md",
    )


if __name__ == "__main__":
    raise SystemExit(run_command("first_run"))
