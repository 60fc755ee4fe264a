"""Tables against the steps that they describe: our transition's, and those of Gymnasium's toy-text."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
from gymnasium import wrappers

from tokenwalk.envs.counter_walk import CounterWalkEnv, CounterWalkModel
from tokenwalk.envs.registration import TABLE, resolve_id
from tokenwalk.envs.tabular import TabularMDP, check_size, enumerate_transitions, tabular_mdp

TOY_TEXT: dict[str, dict[str, Any]] = {
    "FrozenLake": {},
    "FrozenLake8x8": {},
    "CliffWalking": {},
    "CliffWalkingSlippery": {},
    "Taxi": {},
    "Taxi in the rain": {"is_rainy": True},
}
DETERMINISTIC = ("CliffWalking", "Taxi")


def toy_text(name: str) -> gym.Env[Any, Any]:
    return gym.make(resolve_id(name.split(" ")[0]), **TOY_TEXT[name])


@pytest.mark.parametrize(
    "arguments", [{}, {"slip": 0.25}, {"n_states": 7, "start": 3, "goal": 6, "terminate_at_goal": True}]
)
def test_the_tables_are_the_transition_of_every_state_action_and_outcome(arguments: dict[str, Any]) -> None:
    model = CounterWalkModel(**arguments)
    tables = enumerate_transitions(model)
    for s, a, k in np.ndindex(tables.next_state.shape):
        step = model.transition(np.array([s]), np.array([a]), np.array([k]))
        entry = tables.next_state[s, a, k], tables.terminated[s, a, k], tables.rewards["gold"][s, a, k]
        assert entry == (step.next_state[0], step.terminated[0], step.rewards["gold"][0])
        assert tables.probability[s, a, k] == model.outcome_probability(np.array([s]), np.array([a]))[0, k]
    assert np.allclose(tables.probability.sum(axis=2), 1, rtol=0, atol=1e-15)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_the_tables_of_a_registered_id_carry_its_spaces_and_its_horizon(row: Any) -> None:
    env = gym.make(row.id)
    mdp = tabular_mdp(env)
    assert mdp.n_actions == env.action_space.n  # type: ignore[attr-defined]
    assert "gold" in mdp.rewards
    if row.max_episode_steps is not None:
        assert (mdp.horizon, mdp.horizon_terminates) == (row.max_episode_steps, False)
        assert mdp.without_time_limit().horizon is None
    else:
        assert mdp.horizon_terminates
        assert mdp.without_time_limit() is mdp


def test_the_counter_walks_tables_are_the_documented_walk() -> None:
    mdp = tabular_mdp(gym.make("tokenwalk/CounterWalk-v0"))
    assert mdp.next_state[:, :, 0].tolist() == [[1, 0], [2, 0], [2, 1]]
    assert mdp.rewards["gold"][:, :, 0].tolist() == [[1, -1], [-1, -1], [-1, 1]]
    assert mdp.start.tolist() == [1, 0, 0]
    assert not mdp.terminated.any()
    assert np.exp(mdp.log_reference).tolist() == [[0.5, 0.5]] * 3
    assert mdp.available.all()
    assert mdp.last_rewards == {}


def frequencies(
    env: gym.Env[Any, Any], mdp: TabularMDP, steps: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Walk at random; return how often each (state, action) was left, [S, A], and where it led, [S, A, S]."""
    rng = np.random.default_rng(0)
    visits, arrivals = (
        np.zeros((mdp.n_states, mdp.n_actions)),
        np.zeros((mdp.n_states, mdp.n_actions, mdp.n_states)),
    )
    state, _ = env.reset(seed=1)
    for action in rng.integers(mdp.n_actions, size=steps).tolist():
        following, _, terminated, truncated, _ = env.step(action)
        visits[state, action] += 1
        arrivals[state, action, following] += 1
        state = env.reset()[0] if terminated or truncated else following
    return visits, arrivals


def arrival_probability(mdp: TabularMDP) -> npt.NDArray[np.float64]:
    """Return the probability of each next state, [S, A, S]: outcomes that lead to the same state are one."""
    probability = np.zeros((mdp.n_states, mdp.n_actions, mdp.n_states))
    for s, a, k in np.ndindex(mdp.next_state.shape):
        probability[s, a, mdp.next_state[s, a, k]] += mdp.probability[s, a, k]
    return probability


def worst_excess(
    visits: npt.NDArray[Any], arrivals: npt.NDArray[Any], probability: npt.NDArray[Any]
) -> float:
    """Return the largest distance of a frequency from its probability, in standard errors.

    It is infinite where a step went where its probability is 0, or did not where it is 1.
    """
    expected = visits[..., None] * probability
    error = np.sqrt(expected * (1 - probability))
    away = np.abs(arrivals - expected)
    certain = error < 1e-9
    assert (~certain).any()
    if away[certain].max() > 1e-6:
        return np.inf
    return float((away[~certain] / error[~certain]).max())


@pytest.mark.parametrize("name", ["a slipping walk", "FrozenLake", "CliffWalkingSlippery"])
def test_steps_lead_where_the_tables_say_as_often_as_they_say(name: str) -> None:
    env: gym.Env[Any, Any]
    env = (
        CounterWalkEnv(n_states=4, slip=0.3, goal=3, terminate_at_goal=True)
        if name == "a slipping walk"
        else toy_text(name)
    )
    mdp = tabular_mdp(env)
    visits, arrivals = frequencies(env, mdp, 30_000)
    probability = arrival_probability(mdp)
    assert worst_excess(visits, arrivals, probability) < 4
    broken = np.roll(probability, 1, axis=1)  # the tables of the neighbouring actions
    assert worst_excess(visits, arrivals, broken) > 4


@pytest.mark.parametrize("name", list(TOY_TEXT))
def test_a_step_of_toy_text_is_an_entry_of_its_tables(name: str) -> None:
    env = toy_text(name)
    mdp = tabular_mdp(env)
    inner: Any = env.unwrapped
    env.reset(seed=0)
    for state, action in np.ndindex(mdp.n_states, mdp.n_actions):
        inner.s = state
        following, reward, terminated, _, _ = inner.step(action)
        entries = zip(
            mdp.next_state[state, action],
            mdp.rewards["gold"][state, action],
            mdp.terminated[state, action],
            mdp.probability[state, action],
            strict=True,
        )
        likely = [tuple(entry) for *entry, probability in entries if probability > 0]
        assert (following, reward, terminated) in likely
        assert len(likely) == 1 or name not in DETERMINISTIC


@pytest.mark.parametrize("name", list(TOY_TEXT))
def test_toy_texts_starts_are_those_that_reset_draws(name: str) -> None:
    env = toy_text(name)
    mdp = tabular_mdp(env)
    drawn = np.bincount([env.reset(seed=seed)[0] for seed in range(1_000)], minlength=mdp.n_states)
    assert set(np.flatnonzero(drawn)) <= set(np.flatnonzero(mdp.start))
    assert mdp.start.sum() == pytest.approx(1)
    assert np.abs(drawn / 1_000 - mdp.start).max() < 4 * np.sqrt(mdp.start.max() / 1_000)


@pytest.mark.parametrize(
    ("name", "limit"), [("FrozenLake", 100), ("FrozenLake8x8", 200), ("Taxi", 200), ("CliffWalking", None)]
)
def test_the_time_limit_becomes_the_horizon_and_is_a_truncation(name: str, limit: int | None) -> None:
    mdp = tabular_mdp(toy_text(name))
    assert (mdp.horizon, mdp.horizon_terminates) == (limit, False)


def test_the_smallest_of_several_limits_counts_through_wrappers_that_change_nothing() -> None:
    env: gym.Env[Any, Any] = wrappers.TimeLimit(gym.make("tokenwalk/CounterWalk-v0", render_mode="ansi"), 30)
    env = wrappers.RenderCollection(wrappers.RecordEpisodeStatistics(wrappers.OrderEnforcing(env)))
    assert tabular_mdp(env).horizon == 30
    assert tabular_mdp(gym.make("tokenwalk/CounterWalk-v0", max_episode_steps=-1)).horizon is None


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: wrappers.TransformReward(env, lambda reward: reward),
        lambda env: wrappers.TransformObservation(env, lambda seen: seen, env.observation_space),
        lambda env: wrappers.TransformAction(env, lambda action: action, env.action_space),
        wrappers.NormalizeReward,
        lambda env: wrappers.StickyAction(env, 0.25),
        lambda env: wrappers.TimeLimit(wrappers.TimeAwareObservation(env), 5),
    ],
    ids=[
        "TransformReward",
        "TransformObservation",
        "TransformAction",
        "NormalizeReward",
        "StickyAction",
        "TimeAwareObservation",
    ],
)
def test_a_wrapper_that_may_change_the_task_is_refused_by_name(
    wrap: Any, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    with pytest.raises(ValueError, match=f"the wrapper {name} may change"):
        tabular_mdp(wrap(gym.make("tokenwalk/CounterWalk-v0")))


def test_a_fickle_taxi_is_refused_because_its_tables_do_not_tell_all() -> None:
    with pytest.raises(ValueError, match="fickle_passenger=True changes its destination outside P"):
        tabular_mdp(gym.make(resolve_id("Taxi"), fickle_passenger=True))


def test_an_environment_without_tables_is_refused() -> None:
    with pytest.raises(ValueError, match="has no tables: it needs a finite model"):
        tabular_mdp(gym.make("CartPole-v1"))


def test_too_many_entries_are_refused_with_their_count() -> None:
    with pytest.raises(
        ValueError, match=r"101 states x 2 actions x 1 outcomes are 202 table entries.*the limit of 200"
    ):
        tabular_mdp(gym.make("tokenwalk/CounterWalkLong-v0"), max_entries=200)
    with pytest.raises(ValueError, match=r"500 states x 6 actions x 1 outcomes are 3,000"):
        tabular_mdp(toy_text("Taxi"), max_entries=2_999)
    assert check_size(10, 2, 5, max_entries=100) is None


MDP = tabular_mdp(CounterWalkEnv(slip=0.2))


def with_entry(table: npt.NDArray[Any], value: float) -> npt.NDArray[Any]:
    """Return ``table`` with its first entry replaced."""
    table = table.copy()
    table.flat[0] = value
    return table


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"next_state": np.zeros((3, 2), dtype=np.int64)},
            r"next_state has shape \(3, 2\): give \[S, A, K\]",
        ),
        ({"next_state": np.zeros((3, 0, 2), dtype=np.int64)}, r"next_state has shape \(3, 0, 2\)"),
        (
            {"probability": MDP.probability[:2]},
            r"probability has shape \(2, 2, 2\): next_state asks for \(3, 2, 2\)",
        ),
        ({"terminated": MDP.terminated[:, :1]}, "terminated has shape"),
        ({"available": MDP.available.T}, "available has shape"),
        ({"log_reference": MDP.log_reference[0]}, "log_reference has shape"),
        ({"start": MDP.start[:2]}, "start has shape"),
        ({"rewards": {"gold": MDP.available}}, r"rewards\['gold'\] has shape"),
        ({"last_rewards": {"gold": MDP.start}}, r"last_rewards\['gold'\] has shape"),
        (
            {"rewards": {"gold": with_entry(MDP.rewards["gold"], np.nan)}},
            r"rewards\['gold'\] holds a value that is not finite",
        ),
        (
            {"last_rewards": {"gold": np.full((3, 2), np.inf)}},
            r"last_rewards\['gold'\] holds a value that is not finite",
        ),
        (
            {"next_state": with_entry(MDP.next_state, 3)},
            "next_state leaves the states 0 to 2: it spans 0 to 3",
        ),
        ({"next_state": with_entry(MDP.next_state, -1)}, "it spans -1 to 2"),
        ({"rewards": {}}, "rewards is empty: name at least one channel"),
        (
            {"last_rewards": {"proxy": np.zeros((3, 2))}},
            r"last_rewards names \['proxy'\], which rewards does not",
        ),
        ({"probability": with_entry(MDP.probability, 0.9)}, "probability sums to 1.1"),
        ({"probability": with_entry(MDP.probability, np.nan)}, "probability sums to nan"),
        ({"start": np.array([0.5, 0.0, 0.0])}, "start sums to 0.5"),
        ({"start": np.array([1.5, -0.5, 0.0])}, "a probability is negative"),
        (
            {"available": with_entry(np.ones((3, 2), dtype=bool), False) & [True, False]},
            "state 0 has no available action",
        ),
        (
            {"log_reference": with_entry(MDP.log_reference, -1.0)},
            "the reference policy of state 0 does not sum to 1",
        ),
        ({"log_reference": with_entry(MDP.log_reference, np.nan)}, "the reference policy of state 0"),
        ({"horizon": 0}, "horizon is 0: give an integer of 1 or more, or None"),
        ({"horizon": 2.5}, "horizon is 2.5"),
    ],
)
def test_tables_that_disagree_are_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(MDP, **fields)


def test_reward_is_the_weighted_sum_of_the_named_channels() -> None:
    ones = np.ones(MDP.next_state.shape)
    mdp = replace(MDP, rewards={**MDP.rewards, "proxy": ones}, last_rewards={"proxy": np.full((3, 2), 5.0)})
    per_step, last = mdp.reward({"gold": 2.0, "proxy": -0.5})
    assert np.array_equal(per_step, 2 * MDP.rewards["gold"] - 0.5)
    assert np.array_equal(last, np.full((3, 2), -2.5))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"silver": 1.0}, "no reward channel is called 'silver': there are gold"),
        ({}, "give at least one channel a finite weight"),
        ({"gold": np.inf}, "give at least one channel a finite weight"),
    ],
)
def test_bad_weights_are_refused_by_name(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MDP.reward(weights)
