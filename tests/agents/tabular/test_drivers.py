"""Both drivers give the same tables from the same random numbers: in pieces or at once, interrupted or not."""

import signal
import time
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tokenwalk.agents.tabular.config import BACKUPS, QLearningConfig
from tokenwalk.agents.tabular.observations import ObservationIndex
from tokenwalk.agents.tabular.q_learning import QLearning
from tokenwalk.envs.checks import UnsupportedSpaceError
from tokenwalk.envs.tabular import TabularMDP, tabular_mdp

WEIGHTS = {"train": 1.0, "bonus": 0.5}


def random_mdp(seed: int, horizon: int | None, horizon_terminates: bool, n_outcomes: int = 3) -> TabularMDP:
    """Return 5 states, 3 actions (some not available), outcomes that may terminate, a last-step reward."""
    rng = np.random.default_rng(seed)
    shape = (5, 3, n_outcomes)
    probability = rng.dirichlet(np.ones(n_outcomes), size=shape[:2])
    probability[0, :, -1] += probability[0, :, 0]  # an outcome that cannot happen, first
    probability[0, :, 0] = 0.0
    if n_outcomes > 1:
        probability[1, :, 0] += probability[1, :, -1]  # and one last
        probability[1, :, -1] = 0.0
    else:
        probability[...] = 1.0
    available = np.ones(shape[:2], dtype=np.bool_)
    available[[0, 2, 3], [1, 0, 2]] = False
    logits = np.where(available, rng.normal(size=shape[:2]), -np.inf)
    return TabularMDP(
        next_state=rng.integers(0, 5, size=shape),
        probability=probability,
        terminated=rng.random(shape) < 0.15,
        rewards={"train": rng.normal(size=shape), "bonus": rng.normal(size=shape)},
        last_rewards={"train": rng.normal(size=shape[:2])},
        available=available,
        log_reference=logits - np.logaddexp.reduce(logits, axis=1, keepdims=True),
        start=np.array([0.0, 0.5, 0.0, 0.5, 0.0]),
        horizon=horizon,
        horizon_terminates=horizon_terminates,
    )


class TableWalk(gym.Env[int, int]):
    """The compiled loop's environment, stepped from Python with a generator that is given."""

    def __init__(self, mdp: TabularMDP, rng: np.random.Generator, time_in_observation: bool) -> None:
        self.mdp, self.rng = mdp, rng
        self.reward, self.last_reward = mdp.reward(WEIGHTS)
        self.times = mdp.horizon if time_in_observation and mdp.horizon else 1
        self.observation_space = gym.spaces.Discrete(self.times * mdp.n_states)
        self.action_space = gym.spaces.Discrete(mdp.n_actions)
        self.taken: list[int] = []

    def _seen(self) -> tuple[int, dict[str, Any]]:
        state_index = self.state + (self.time * self.mdp.n_states if self.times > 1 else 0)
        return state_index, {"action_mask": self.mdp.available[self.state].astype(np.int8)}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        self.time = 0
        self.state = int(np.searchsorted(np.cumsum(self.mdp.start), self.rng.random(), side="right"))
        return self._seen()

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        outcome = 0
        if self.mdp.next_state.shape[2] > 1:
            cumulative = np.cumsum(self.mdp.probability[self.state, action])
            outcome = int(np.searchsorted(cumulative, self.rng.random(), side="right"))
        assert self.mdp.available[self.state, action], "an action that is not available was taken"
        self.taken.append(action)
        reward = float(self.reward[self.state, action, outcome])
        terminated = bool(self.mdp.terminated[self.state, action, outcome])
        self.time += 1
        truncated = self.time == self.mdp.horizon
        if truncated:
            reward += float(self.last_reward[self.state, action])
            terminated = terminated or self.mdp.horizon_terminates
        self.state = int(self.mdp.next_state[self.state, action, outcome])
        seen, info = self._seen() if not terminated else (0, {})
        return seen, reward, terminated, truncated, info


def config_of(backup: str, **changes: Any) -> QLearningConfig:
    settings: dict[str, Any] = {
        "backup": backup,
        "discount": 0.9,
        "step_size": 0.3,
        "step_size_half_life": 20.0,
        "epsilon": 0.6,
        "final_epsilon": 0.2,
        "epsilon_steps": 300,
        "kl_coef": 0.7 if backup == "soft-q" else 0.0,
    }
    return QLearningConfig(**{**settings, **changes})


def learned_from_python(mdp: TabularMDP, config: QLearningConfig, steps: int, seed: int = 7) -> QLearning:
    times = mdp.horizon if mdp.horizon and mdp.horizon_terminates else 1
    compiled = QLearning.for_mdp(mdp, config, seed=seed)
    reference = compiled.reference
    index = ObservationIndex([times * mdp.n_states], [0])
    agent = QLearning(config, index, mdp.n_actions, seed=seed, log_reference=reference)
    agent.learn_env(TableWalk(mdp, agent.generators[0], mdp.horizon_terminates), steps)
    return agent


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("backup", BACKUPS)
@pytest.mark.parametrize(("horizon", "horizon_terminates"), [(None, False), (6, False), (6, True)])
def test_both_drivers_give_the_same_tables_bit_for_bit(
    backup: str, n_step: int, horizon: int | None, horizon_terminates: bool
) -> None:
    mdp = random_mdp(3, horizon, horizon_terminates)
    config = config_of(backup, n_step=n_step)
    compiled = QLearning.for_mdp(mdp, config, seed=7)
    compiled.learn_mdp(mdp, WEIGHTS, 2000)
    python = learned_from_python(mdp, config, 2000)
    np.testing.assert_array_equal(compiled.memory.q.ravel(), python.memory.q.ravel())
    np.testing.assert_array_equal(compiled.memory.visits.ravel(), python.memory.visits.ravel())
    np.testing.assert_array_equal(compiled.memory.recent, python.memory.recent)
    assert compiled.memory.visits.sum() > 1900
    assert compiled.generators[0].bit_generator.state == python.generators[0].bit_generator.state


@pytest.mark.parametrize("backup", BACKUPS)
def test_both_drivers_agree_where_nothing_is_random_and_the_step_size_is_constant(backup: str) -> None:
    mdp = random_mdp(4, 9, False, n_outcomes=1)
    config = config_of(backup, step_size_half_life=0.0, initial_value=1.5)
    compiled = QLearning.for_mdp(mdp, config, seed=7)
    compiled.learn_mdp(mdp, WEIGHTS, 1000)
    np.testing.assert_array_equal(compiled.memory.q, learned_from_python(mdp, config, 1000).memory.q)


def test_a_change_of_the_last_bit_of_the_step_size_shows_in_the_comparison() -> None:
    mdp, config = random_mdp(3, 6, False), config_of("q-learning")
    compiled = QLearning.for_mdp(mdp, replace(config, step_size=np.nextafter(0.3, 1).item()), seed=7)
    compiled.learn_mdp(mdp, WEIGHTS, 2000)
    assert (compiled.memory.q != learned_from_python(mdp, config, 2000).memory.q).any()


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("backup", BACKUPS)
def test_learning_in_pieces_is_learning_in_one_go(backup: str, n_step: int) -> None:
    mdp = random_mdp(5, 7, True)
    whole, pieces = (
        QLearning.for_mdp(mdp, config_of(backup, n_step=n_step), runs=3, seed=1) for _ in range(2)
    )
    whole.learn_mdp(mdp, WEIGHTS, 1000)
    for steps in (1, 0, 2, 497, 500):
        pieces.learn_mdp(mdp, WEIGHTS, steps)
    np.testing.assert_array_equal(whole.memory.q, pieces.memory.q)
    np.testing.assert_array_equal(whole.memory.step_state, pieces.memory.step_state)
    assert whole.steps == pieces.steps == 1000


def test_learning_from_python_in_pieces_is_learning_in_one_go() -> None:
    env_id, config = "FrozenLake-v1", config_of("sarsa", n_step=3)
    whole, pieces = (QLearning.for_env(gym.make(env_id), config, runs=2, seed=1) for _ in range(2))
    whole.learn_env([gym.make(env_id) for _ in range(2)], 700)
    envs = [gym.make(env_id) for _ in range(2)]
    for steps in (1, 99, 600):
        pieces.learn_env(envs, steps)
    np.testing.assert_array_equal(whole.memory.step_state, pieces.memory.step_state)
    np.testing.assert_array_equal(whole.memory.q, pieces.memory.q)


def test_each_run_is_the_same_alone_as_among_others_and_differs_from_them() -> None:
    mdp = random_mdp(6, 7, False)
    many = QLearning.for_mdp(mdp, config_of("q-learning"), runs=4, seed=2)
    many.learn_mdp(mdp, WEIGHTS, 500)
    few = QLearning.for_mdp(mdp, config_of("q-learning"), runs=2, seed=2)
    few.learn_mdp(mdp, WEIGHTS, 500)
    np.testing.assert_array_equal(many.memory.q[:2], few.memory.q)
    assert len({table.tobytes() for table in many.memory.q}) == 4


class Interrupting(gym.Wrapper[Any, Any, Any, Any]):
    """Presses Ctrl-C in the n-th step."""

    def __init__(self, env: gym.Env[Any, Any], after: int) -> None:
        super().__init__(env)
        self.left = after

    def step(self, action: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().step(action)


@pytest.mark.parametrize("n_step", [1, 3])
def test_an_interrupted_walk_in_an_environment_leaves_an_agent_that_goes_on(n_step: int) -> None:
    env = Interrupting(gym.make("CliffWalking-v1"), after=333)
    agent = QLearning.for_env(env, config_of("double-q", n_step=n_step), seed=1)
    with pytest.raises(KeyboardInterrupt):
        agent.learn_env(env, 1000)
    assert agent.steps == 332
    q = agent.memory.q[0]
    np.testing.assert_array_equal(q[2], (q[0] + q[1]) / 2)
    agent.learn_env(env, 668)
    assert agent.steps == 1000
    assert agent.memory.visits.sum() > 900


def test_an_interruption_between_compiled_chunks_changes_nothing_in_the_end() -> None:
    mdp = random_mdp(5, 7, False)
    whole, halted = (QLearning.for_mdp(mdp, config_of("sarsa", n_step=3), runs=3, seed=1) for _ in range(2))
    whole.learn_mdp(mdp, WEIGHTS, 3000)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        halted.learn_mdp(mdp, WEIGHTS, 3000, on_progress=stop, progress_every=0.0)
    assert 0 < halted.steps < 3000
    halted.learn_mdp(mdp, WEIGHTS, 3000 - halted.steps)
    np.testing.assert_array_equal(whole.memory.q, halted.memory.q)


def test_ctrl_c_in_the_compiled_loop_is_heard_soon_and_leaves_a_whole_agent() -> None:
    mdp = random_mdp(5, 7, False)
    agent, twin = (QLearning.for_mdp(mdp, config_of("sarsa", n_step=3), seed=1) for _ in range(2))
    agent.learn_mdp(mdp, WEIGHTS, 1)  # compiled by now
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        began = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            agent.learn_mdp(mdp, WEIGHTS, 10**10)
        took = time.perf_counter() - began
    finally:
        signal.signal(signal.SIGALRM, before)
    assert took < 3
    assert 1 < agent.steps < 10**10
    twin.learn_mdp(mdp, WEIGHTS, agent.steps)
    np.testing.assert_array_equal(twin.memory.q, agent.memory.q)


def test_runs_left_behind_by_an_interruption_catch_up() -> None:
    mdp = random_mdp(5, 7, False)
    whole, halted = (QLearning.for_mdp(mdp, config_of("q-learning"), runs=2, seed=1) for _ in range(2))
    whole.learn_mdp(mdp, WEIGHTS, 500)
    halted.learn_mdp(mdp, WEIGHTS, 200)
    behind = {
        name: part[1].copy() for name, part in halted.memory._asdict().items() if name != "log_reference"
    }
    state = halted.generators[1].bit_generator.state
    halted.learn_mdp(mdp, WEIGHTS, 100)
    for name, part in behind.items():  # as if Ctrl-C had come after the first run's walk
        getattr(halted.memory, name)[1] = part
    halted.generators[1].bit_generator.state = state
    halted.learn_mdp(mdp, WEIGHTS, 200)
    np.testing.assert_array_equal(whole.memory.q, halted.memory.q)


def test_progress_is_reported_at_the_end_and_no_more_often_than_asked() -> None:
    mdp, reports = random_mdp(5, 7, False), []
    agent = QLearning.for_mdp(mdp, config_of("q-learning"), runs=2)
    agent.learn_mdp(
        mdp, WEIGHTS, 500, on_progress=lambda step, tags: reports.append((step, tags)), progress_every=1e9
    )
    assert [step for step, _ in reports] == [500]
    tags = reports[0][1]
    assert tags["train/epsilon"] == 0.2
    assert 0 < tags["train/step_size"] < 0.3
    assert tags["rollout/ep_rew_mean"] == pytest.approx(agent.recent_returns.mean(), rel=1e-12)
    assert 1 <= tags["rollout/ep_len_mean"] <= 7


def test_the_recorded_returns_are_those_of_the_last_hundred_episodes() -> None:
    agent = QLearning.for_mdp(mdp := random_mdp(5, 7, False), config_of("q-learning"), seed=3)
    walk = TableWalk(mdp, agent.generators[0], False)
    recorder = gym.wrappers.RecordEpisodeStatistics(walk, buffer_length=100)
    assert np.isnan(agent.recent_returns).all()
    agent.learn_env(recorder, 3000)
    assert agent.recent_returns[0] == pytest.approx(np.mean(recorder.return_queue), rel=1e-6)
    assert agent.recent_lengths[0] == np.mean(recorder.length_queue)


def test_an_environment_that_an_agent_returns_to_begins_with_a_new_seed() -> None:
    seeds: list[int] = []

    class Noting(gym.Wrapper[Any, Any, Any, Any]):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            seeds.append(-1 if seed is None else seed)
            return super().reset(seed=seed, options=options)

    agent = QLearning.for_env(gym.make("CliffWalking-v1"), QLearningConfig(), seed=5)
    first, second = (Noting(gym.make("CliffWalking-v1")) for _ in range(2))
    for env in (first, second, first):
        agent.learn_env(env, 1)
    assert len(set(seeds)) == 3
    assert min(seeds) >= 0


def test_the_table_driver_begins_an_episode_after_the_environment_driver_and_the_other_way_round() -> None:
    env = gym.make("FrozenLake-v1")
    mdp = tabular_mdp(env)
    agent = QLearning.for_mdp(mdp, QLearningConfig(), seed=5)
    for _ in range(3):
        agent.learn_env(env, 50)
        agent.learn_mdp(mdp, {"gold": 1.0}, 50)
    assert agent.steps == 300


@pytest.mark.parametrize("steps", [-1, 1.5, True, "many"])
def test_steps_that_are_no_count_are_refused(steps: Any) -> None:
    mdp = random_mdp(1, 5, False)
    agent = QLearning.for_mdp(mdp, QLearningConfig())
    with pytest.raises(ValueError, match=r"steps is .*: give an integer of 0 or more"):
        agent.learn_mdp(mdp, WEIGHTS, steps)


def test_tables_of_another_size_and_environments_of_other_spaces_are_refused() -> None:
    agent = QLearning.for_env(gym.make("FrozenLake-v1"), QLearningConfig())
    with pytest.raises(ValueError, match=r"48 states, 4 actions and 1 times.*agent 16, 4 and 1.*for_mdp"):
        agent.learn_mdp(tabular_mdp(gym.make("CliffWalking-v1")), {"gold": 1.0}, 1)
    with pytest.raises(ValueError, match=r"not made for the spaces of .*CliffWalking.*for_env"):
        agent.learn_env(gym.make("CliffWalking-v1"), 1)
    with pytest.raises(ValueError, match=r"2 environments for 1 runs: give one for each"):
        agent.learn_env([gym.make("FrozenLake-v1")] * 2, 1)
    masked = random_mdp(1, 5, False)
    unaware = QLearning(QLearningConfig(), ObservationIndex([5], [0]), 3)
    with pytest.raises(ValueError, match="takes actions that are not available there"):
        unaware.learn_mdp(masked, WEIGHTS, 1)


@pytest.mark.parametrize(("env_id", "which"), [("CartPole-v1", "observations"), ("Pendulum-v1", "actions")])
def test_spaces_that_the_agent_cannot_take_are_refused_with_those_that_it_can(
    env_id: str, which: str
) -> None:
    with pytest.raises(UnsupportedSpaceError, match=rf"cannot take the {which} Box.*it takes .*Discrete"):
        QLearning.for_env(gym.make(env_id), QLearningConfig())


@pytest.mark.parametrize("runs", [0, -1, 1.0, True])
def test_a_number_of_runs_below_one_is_refused(runs: Any) -> None:
    with pytest.raises(ValueError, match=r"runs is .*: give an integer of 1 or more"):
        QLearning.for_env(gym.make("FrozenLake-v1"), QLearningConfig(), runs=runs)


@pytest.mark.parametrize("seed", [-1, 1.5, None])
def test_a_seed_that_is_no_integer_of_0_or_more_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match="seed"):
        QLearning.for_env(gym.make("FrozenLake-v1"), QLearningConfig(), seed=seed)


def test_a_reward_that_is_not_finite_stops_the_run_and_changes_no_value() -> None:
    env = gym.wrappers.TransformReward(gym.make("FrozenLake-v1"), lambda reward: float("nan"))
    agent = QLearning.for_env(env, QLearningConfig())
    with pytest.raises(ValueError, match=r"the reward of .* is nan: it must be finite"):
        agent.learn_env(env, 10)
    assert not agent.values.any()


def test_walks_that_stop_short_of_their_chunks_do_not_let_the_chunk_outgrow_the_steps() -> None:
    agent = QLearning(QLearningConfig(), ObservationIndex([2], [0]), 2)
    asked = []

    def walk(run: int, steps: int) -> None:
        asked.append(steps)
        agent.memory.step_state["step"][run] += 1  # as in a growing index, which is walked in small pieces

    agent._learn(2000, walk, None, 1.0)
    assert agent.steps == 2000
    assert max(asked) <= 2000
