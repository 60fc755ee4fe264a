"""Custom algorithms: FILE.py:CLASS stands wherever an agent's name does, and a wrong one is named."""

from pathlib import Path
from typing import Any

import pytest

from tokenwalk.agents.learners.registry import AGENTS, FAMILIES, find_agent
from tokenwalk.agents.problem.problem import open_problem
from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.agents.study.commands.evaluate import evaluate_run
from tokenwalk.agents.training.train_agent import resume, train

HALVED = '''
from tokenwalk import PolicyGradient

class Halved(PolicyGradient):
    """Half of RLOO's advantage."""
    algorithm = "rloo"
    def advantages(self, *args, **named):
        return 0.5 * super().advantages(*args, **named)
'''
TABLE = '''
import numpy as np
from tokenwalk.agents.evaluation.policies import TablePolicies

class Adder:
    """Learns nothing and always adds one."""
    runs, can_resume = 1, False

    def __init__(self, problem, config, *, seed):
        self.problem, self.steps = problem, 0

    def learn(self, steps, report):
        self.steps += steps
        report(self.steps, {})

    def set_weight(self, name, weight):
        pass

    def policy(self):
        table = np.zeros((1, 1, self.problem.mdp.n_states, 2))
        table[..., 0] = 1.0
        return TablePolicies(table)

    def save(self, folder):
        (folder / "adder.txt").write_text("add")

    def load(self, folder):
        assert (folder / "adder.txt").read_text() == "add"
'''
SMALL: dict[str, Any] = {"n_layers": 1, "n_heads": 2, "width": 16, "groups": 4, "group_size": 4}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_subclass_of_policy_gradient_trains_and_is_recorded_with_its_digest(tmp_path: Path) -> None:
    place = f"{write(tmp_path, 'halved.py', HALVED)}:Halved"
    agent = find_agent(place)
    assert (agent.base, agent.label, agent.family.only_tokens) == ("rloo", "Halved", True)
    config = agent.config_type(**SMALL)  # type: ignore[misc]
    summary = train(place, "Flattery", steps=600, config=config, run_dir=tmp_path / "run")
    request = RunFolder.open(tmp_path / "run").config
    assert (request["agent"], request["algorithm"]) == (place, "rloo")
    assert len(request["digest"]) == 64
    # Its model is read without its class, so the file may go.
    (tmp_path / "halved.py").unlink()
    assert evaluate_run(tmp_path / "run")["gold"] == pytest.approx(summary["gold"])


def test_half_an_advantage_is_another_training_than_the_whole(tmp_path: Path) -> None:
    place = f"{write(tmp_path, 'halved.py', HALVED)}:Halved"
    config = find_agent("rloo").config_type(**SMALL)  # type: ignore[misc]
    half = train(place, "Flattery", steps=600, config=config, run_dir=tmp_path / "half")
    whole = train("rloo", "Flattery", steps=600, config=config, run_dir=tmp_path / "whole")
    assert half["gold"] != whole["gold"]


def test_a_class_with_the_learner_protocol_trains_and_is_opened_again(tmp_path: Path) -> None:
    file = write(tmp_path, "adder.py", TABLE)
    summary = train(f"{file}:Adder", "CounterWalk", steps=10, run_dir=tmp_path / "run")
    # Adding for ever from 0: the first step gives +1, the other 99 stay at 2 and give -1 each.
    assert (summary["return"], summary["steps"], summary["exact"]) == (-98.0, 10, True)
    assert evaluate_run(tmp_path / "run")["return"] == -98.0
    with pytest.raises(ValueError, match="cannot go on"):
        resume(tmp_path / "run", steps=1)
    file.write_text(TABLE + "\n# changed\n")
    with pytest.raises(ValueError, match="has changed since it was trained"):
        evaluate_run(tmp_path / "run")
    file.unlink()
    with pytest.raises(ValueError, match="is gone"):
        evaluate_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class Mine: pass", "Mine is no learner, it lacks learn, policy, save, set_weight"),
        ("Mine = 3", "is int, not a class"),
        ("class Other: pass", "has no 'Mine'"),
        (
            "from tokenwalk import PolicyGradient\nclass Mine(PolicyGradient): algorithm = 'rlo'",
            "algorithm = 'rlo': set the class attribute to one of reinforce, rloo, grpo, ppo-lm",
        ),
        ("from tokenwalk import PolicyGradient\nclass Mine(PolicyGradient): pass", "set the class attribute"),
        ("def f(:", "fails when it is run: SyntaxError"),
    ],
)
def test_a_class_that_is_no_learner_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        find_agent(f"{write(tmp_path, 'mine.py', text)}:Mine")


def test_a_learner_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "adder.py", TABLE.replace("problem, config, *, seed", "problem"))
    with pytest.raises(ValueError, match="cannot be made from"):
        train(f"{file}:Adder", "CounterWalk", steps=1, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_registry_names_every_agent_once_and_each_family_can_be_made() -> None:
    assert len(set(AGENTS)) == len(AGENTS) == sum(len(family.names) for family in FAMILIES)
    problem = open_problem("CounterWalk")
    for name in AGENTS:
        agent = find_agent(name)
        config, steps = agent.default("CounterWalk")
        assert (config is None) == (agent.config_type is None) == (steps == 0)
        if not agent.family.only_tokens and agent.family.title != "Stable-Baselines3":
            assert agent.build(problem, config).steps == 0


def test_several_runs_of_an_agent_that_trains_one_at_a_time_are_refused() -> None:
    with pytest.raises(ValueError, match="ppo trains one run at a time and was asked for 3"):
        find_agent("ppo").build(open_problem("CounterWalk"), None, runs=3)
