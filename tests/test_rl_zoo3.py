"""rl-zoo3's own command line trains and replays our ids as it does any other environment's."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pages import blocks

ENV_ID, TOKENS_ID = "tokenwalk/CounterWalk-v0", "tokenwalk/Flattery-v0"
PAGE = blocks("docs/how-to.md")
(HYPERPARAMETERS,) = (block.text for block in PAGE if block.options == "file=hyperparameters.yml")
TRAIN, ENJOY = next(
    block.text for block in PAGE if "rl_zoo3" in block.text and block.kind == "sh"
).splitlines()
QUICK = ["--device", "cpu", "--num-threads", "1"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def zoo_python(install_beside: Callable[..., Path]) -> Path:
    """Return the Python of an environment with the wheel and rl-zoo3, every version pinned."""
    return install_beside("rl_zoo3", "rl_zoo3")


def train(python: Path, folder: Path, env_id: str, evaluate_every: int) -> Path:
    """Return the folder that rl-zoo3's ``train``, as the page has it, wrote; ``logs`` lies two levels above it."""
    (folder / "hyperparameters.yml").write_text(HYPERPARAMETERS)
    options = ["--eval-freq", str(evaluate_every), "--eval-episodes", "2"]
    shown = TRAIN.replace(ENV_ID, env_id).split()[1:]
    subprocess.run([python, *shown, *QUICK, *options], cwd=folder, check=True)
    return folder / "logs" / "ppo" / f"{env_id.replace('/', '-')}_1"


@pytest.fixture(scope="module")
def run_folder(zoo_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run on the walk."""
    return train(zoo_python, tmp_path_factory.mktemp("zoo_run"), ENV_ID, 1000)


def test_train_writes_a_model_and_reaches_the_exact_optimum(run_folder: Path) -> None:
    assert (run_folder / "tokenwalk-CounterWalk-v0.zip").stat().st_size > 1_000
    evaluations = np.load(run_folder / "evaluations.npz")
    assert evaluations["timesteps"].tolist() == [1000, 2000]
    assert (evaluations["ep_lengths"] == 100).all()
    assert evaluations["results"][-1].tolist() == [0, 0]  # the optimal return over the walk's 100 steps


def test_enjoy_loads_the_model_and_plays_the_optimum(zoo_python: Path, run_folder: Path) -> None:
    command = [zoo_python, *ENJOY.split()[1:], *QUICK]
    said = subprocess.check_output(command, cwd=run_folder.parents[2], text=True)
    assert "3 Episodes" in said
    assert "Mean reward: 0.00 +/- 0.00" in said
    assert "Mean episode length: 100.00 +/- 0.00" in said


def test_a_token_id_is_trained_as_well(zoo_python: Path, tmp_path: Path) -> None:
    folder = train(zoo_python, tmp_path, TOKENS_ID, 10_000)
    results = np.load(folder / "evaluations.npz")["results"]
    assert (folder / "tokenwalk-Flattery-v0.zip").stat().st_size > 1_000
    assert results.shape == (2, 2)
    assert results[-1].mean() > 0.5  # the reference policy earns 0.10, the optimum 2.5
