"""CALVIN's evaluation: its list of chains, what is counted, and how slow actions are spread."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handloom.errors import UserError
from handloom.train.tabletop import chains, protocol, spread, starts, tasks
from handloom.train.tabletop.chains import Chain
from handloom.train.tabletop.oracle import Oracle
from handloom.train.tabletop.spread import SpreadOut

Floats = NDArray[np.float64]

FIVE = ("open_drawer", "turn_on_led", "move_slider_left", "push_red_block_left",
        "lift_blue_block_table")  # fmt: skip
BEGINS: chains.State = {
    "led": 0,
    "lightbulb": 0,
    "slider": "right",
    "drawer": "closed",
    "red_block": "table",
    "blue_block": "table",
    "pink_block": "table",
    "grasped": 0,
}


OF_THE_LAST_STATE = {  # those of the 1,000 that begin with all lights on, red to the left, ...
    ("move_slider_right", "push_into_drawer", "turn_off_led", "lift_pink_block_drawer",
     "place_in_drawer"),
    ("turn_off_lightbulb", "move_slider_right", "lift_pink_block_table", "place_in_slider",
     "lift_red_block_slider"),
    ("lift_blue_block_slider", "place_in_drawer", "lift_blue_block_drawer", "stack_block",
     "close_drawer"),
    ("lift_blue_block_slider", "stack_block", "unstack_block", "push_blue_block_left",
     "lift_pink_block_table"),
    ("rotate_pink_block_left", "turn_off_led", "push_into_drawer", "close_drawer",
     "move_slider_right"),
}  # fmt: skip


@pytest.mark.slow
def test_the_thousand_chains_are_calvins() -> None:
    """The hash is that of the list which CALVIN's own get_sequences(1000) returned."""
    found = chains.calvin_chains()
    assert len(found) == 1000
    assert chains.digest(found) == chains.SHA256
    assert json.loads(next(chains.canonical(found))) == [found[0].initial, list(found[0].tasks)]


def test_the_chains_of_one_state_are_calvins() -> None:
    """A share of the above that takes a moment: each state has a generator of its own."""
    state, generator = chains.initial_states()[191], np.random.RandomState(191)
    drawn = {chains._draw_chain(state, tuple(chains.TRANSITIONS), generator) for _ in range(5)}
    assert drawn == OF_THE_LAST_STATE


def test_chains_begin_in_one_of_192_states_and_every_task_can_be_done() -> None:
    states = chains.initial_states()
    assert len(states) == 192  # 2 * 2 * 2 * 2 * 12
    for state in states:
        assert [state[f"{c}_block"] for c in chains.COLOURS].count("table") in (1, 2)
    assert len(chains.TRANSITIONS) == 34
    assert set(tasks.TASKS) < set(chains.TRANSITIONS)


def test_what_a_chain_may_not_hold() -> None:
    assert chains.is_possible(BEGINS, FIVE)
    assert not chains.is_possible(BEGINS, ("open_drawer", "close_drawer")), "one category"
    assert not chains.is_possible(BEGINS, ("close_drawer",)), "it is closed"
    assert not chains.is_possible(BEGINS, ("lift_red_block_table", "turn_on_led")), "hand is full"
    held = ("open_drawer", "lift_red_block_table", "place_in_drawer", "turn_on_led")
    assert chains.is_possible(BEGINS, held)


def test_tabletop_chains_are_possible_varied_and_the_same_for_the_same_seed() -> None:
    found = chains.tabletop_chains(50, seed=3)
    assert found == chains.tabletop_chains(50, seed=3)
    assert found != chains.tabletop_chains(50, seed=4)
    assert len({chain.tasks for chain in found}) > 40
    for chain in found:
        assert chains.is_possible(chain.initial, chain.tasks)
        assert set(chain.tasks) <= set(tasks.TASKS)
    with pytest.raises(ValueError, match="different categories"):
        chains.tabletop_chains(5, only=["open_drawer", "turn_on_led"])


def test_single_tasks_come_in_turn_and_can_be_done() -> None:
    found = chains.single_tasks(34, seed=1)
    assert [chain.tasks for chain in found[:17]] == [chain.tasks for chain in found[17:]]
    assert {chain.tasks[0] for chain in found} == set(tasks.TASKS) - {"place_in_drawer"}
    begin = [starts.tabletop_start(chain) for chain in found]
    assert len({robot.tobytes() for robot, _ in begin}) == 34, "each has a start of its own"
    result = protocol.evaluate(protocol.tabletop(render=False), Oracle(), found)
    assert result.average_length == 1.0
    round_pillar = chains.single_tasks(5, only=[tasks.GO_ROUND])
    pillar = protocol.tabletop(render=False, scene="go_round")
    assert protocol.evaluate(pillar, Oracle(), round_pillar).lengths == (1,) * 5


def test_the_official_start_hashes_a_state_as_pyhash_does() -> None:
    # Both values are asserted by pyhash's own tests and README.
    assert starts._fnv1("test") == 3910690890


def test_the_official_start_says_what_the_state_says() -> None:
    seen = set()
    for state in chains.initial_states():
        robot, scene = starts.get_env_state_for_initial_condition(state)
        assert robot.shape == (15,)
        assert scene.shape == (24,)
        assert (scene[0] > 0) == (state["slider"] == "left")
        assert (scene[1] > 0) == (state["drawer"] == "open")
        assert (scene[3] > 0) == bool(state["lightbulb"])
        places = scene[6:].reshape(3, 6)[:, :3]
        assert len({tuple(place) for place in places.round(3).tolist()}) == 3, "two in one place"
        for colour, place in zip(chains.COLOURS, places, strict=True):
            assert (place[1] > 0) == str(state[f"{colour}_block"]).startswith("slider")
        again = starts.get_env_state_for_initial_condition(state)[1]
        np.testing.assert_array_equal(scene, again)
        seen.add(tuple(scene[[11, 17, 23]].tolist()))
    assert len(seen) == 192, "each state has turns of its own"


class FailsAt:
    """The oracle, but for one task at which it stands still."""

    def __init__(self, task: str) -> None:
        self.oracle = Oracle()
        self.task = task

    def reset(self) -> None:
        self.oracle.reset()

    def step(self, obs: Mapping[str, Any], goal: str) -> Floats:
        if tasks.task_of(goal) == self.task:
            return np.append(np.zeros(6), 1.0)
        return self.oracle.step(obs, goal)


def test_success_is_counted_up_to_the_first_task_that_fails() -> None:
    other = (FIVE[2], *FIVE[:2], *FIVE[3:])
    three = [Chain(BEGINS, FIVE), Chain(BEGINS, other), Chain(BEGINS, FIVE)]
    ended: list[tuple[int, int]] = []
    result = protocol.evaluate(
        protocol.tabletop(render=False),
        FailsAt("move_slider_left"),
        three,
        steps_per_task=120,
        on_chain=lambda number, length: ended.append((number, length)),
    )
    assert result.lengths == (2, 0, 2)
    assert ended == [(0, 2), (1, 0), (2, 2)]
    assert result.in_a_row == [2 / 3, 2 / 3, 0, 0, 0]
    assert result.average_length == pytest.approx(4 / 3)
    told = json.loads(json.dumps(result.to_dict()))
    assert told["tasks"]["move_slider_left"] | {"steps": 0} == {
        "done": 0, "tried": 3, "rate": 0.0, "steps": 0,
    }  # fmt: skip
    assert told["tasks"]["open_drawer"]["done"] == told["tasks"]["open_drawer"]["tried"] == 2
    assert "lift_blue_block_table" not in told["tasks"], "nobody came that far"
    assert "66.7%" in result.table()


def test_a_task_has_so_many_steps_and_every_one_is_shown() -> None:
    moments: list[protocol.RolloutStep] = []
    result = protocol.evaluate(
        protocol.tabletop(render=False), FailsAt("turn_on_led"), [Chain(BEGINS, FIVE)], 90,
        on_frame=moments.append,
    )  # fmt: skip
    took = result.steps["open_drawer"]
    shown = [(m.position, m.task, m.step) for m in moments]
    assert shown == [(0, "open_drawer", s) for s in range(took + 1)] + [
        (1, "turn_on_led", s) for s in range(91)
    ]
    assert moments[-1].instruction == tasks.VALIDATION["turn_on_led"]


def test_without_the_simulator_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UserError, match=r"calvin_env.*github\.com/mees/calvin"):
        protocol.official(tmp_path)


def test_a_task_without_words_is_an_error() -> None:
    with pytest.raises(UserError, match="stack_block"):
        protocol.try_task(protocol.tabletop(render=False), Oracle(), "stack_block")


class Gives:
    """A policy that gives rows, so many at a time."""

    def __init__(self, rows: Floats, at_once: int) -> None:
        self.rows = rows
        self.at_once = at_once
        self.calls = 0

    def reset(self) -> None:
        self.calls = 0

    def act(self, obs: Mapping[str, Any], instruction: str) -> Floats:
        self.calls += 1
        return self.rows[(self.calls - 1) * self.at_once : self.calls * self.at_once]


def spread_out(rows: Floats, at_once: int, angles: Floats) -> Floats:
    """The relative actions of all rows, as an arm that follows exactly is told them."""
    model = SpreadOut(Gives(rows, at_once))
    model.reset()
    robot, told = np.zeros(15), []
    robot[3:6] = angles
    for _ in range(3 * len(rows)):
        told.append(model.step({"robot_obs": robot.copy()}, "go"))
        robot[:6] += spread.UNITS * told[-1][:6]
    return np.array(told)


@pytest.mark.parametrize("at_once", [1, 2, 6])
def test_what_is_spread_out_adds_up(at_once: int) -> None:
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.uniform(-0.05, 0.05, (6, 6)), [1, 0, 1, 0.6, 0.4, 0]])
    angles = np.array([3.1, -0.1, 1.4])  # next to pi: the differences are wrapped
    told = spread_out(rows, at_once, angles)
    assert told.shape == (18, 7)
    assert np.abs(told[:, :6]).max() <= 1
    np.testing.assert_allclose(
        0.02 * told[:, :3].reshape(6, 3, 3).sum(axis=1), rows[:, :3], atol=1e-12
    )
    for row, three in zip(rows, told.reshape(6, 3, 7), strict=True):
        before = Rotation.from_euler("xyz", angles)
        angles = angles + 0.05 * three[:, 3:6].sum(axis=0)
        turned = Rotation.from_euler("xyz", angles) * before.inv()
        np.testing.assert_allclose(turned.as_rotvec(), row[3:6], atol=1e-9)
    np.testing.assert_array_equal(told[:, 6], np.repeat([1, -1, 1, 1, -1, -1], 3))


def test_what_was_clipped_is_made_up_for() -> None:
    rows = np.zeros((3, 7))
    rows[0, :2] = 0.09, -0.4  # three steps do 0.06: 0.03 is left, and far too much of the other
    told = spread_out(rows, 3, np.array([3.09, 0.0, 1.5]))
    assert np.abs(told[:, :6]).max() == 1
    np.testing.assert_allclose(0.02 * told[:3, 0].sum(), 0.06)
    np.testing.assert_allclose(0.02 * told[:6, 0].sum(), 0.09)
    np.testing.assert_allclose(
        0.02 * told[:6, 1].sum(), -0.12, err_msg="at most one action's worth"
    )
    np.testing.assert_allclose(told[6:, :2], 0.0, atol=1e-12)


def test_a_reset_forgets_what_was_left() -> None:
    model = SpreadOut(Gives(np.full((4, 7), 0.5), 4))
    model.step({"robot_obs": np.zeros(15)}, "go")
    model.reset()
    model._policy = Gives(np.zeros((1, 7)), 1)
    told = model.step({"robot_obs": np.zeros(15)}, "go")
    np.testing.assert_array_equal(told, [0, 0, 0, 0, 0, 0, -1])


@pytest.mark.parametrize("bad", [np.full((2, 7), np.nan), np.zeros((2, 14)), np.zeros((0, 7))])
def test_what_is_no_action_is_an_error(bad: Floats) -> None:
    with pytest.raises(UserError, match="expected at least one action of 7 finite numbers"):
        SpreadOut(Gives(bad, 2)).step({"robot_obs": np.zeros(15)}, "go")
