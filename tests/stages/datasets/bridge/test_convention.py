"""BridgeData's states and actions in handloom's convention, by hand."""

from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from handloom.errors import MediaError
from handloom.stages.datasets.bridge import convention


def test_rotations_become_vectors() -> None:
    half = np.pi / 2
    raw = [[1, 2, 3, half, 0, 0, 1], [0, 0, 0, 0, 0, -half, 0], [0, 0, 0, half, 0, half, 1]]
    third = 2 * np.pi / 3  # Rz(90) Rx(90) turns x to y, y to z, z to x
    wanted = [
        [1, 2, 3, half, 0, 0, 1],
        [0, 0, 0, 0, 0, -half, 0],
        [0, 0, 0, *np.full(3, third / np.sqrt(3)), 1],
    ]
    action = convention.convert_actions(raw)
    assert action.dtype == np.float32
    assert np.allclose(action, wanted, atol=1e-6)


def test_states_are_wrapped_and_clipped() -> None:
    raw = [[0.2, 0.1, 0.17, 3.5, -0.2, -np.pi, 1.0008], [0.2, 0.1, 0.17, 0, 0, 0, -0.01]]
    state = convention.convert_states(raw)
    assert np.allclose(state[0], [0.2, 0.1, 0.17, 3.5 - 2 * np.pi, -0.2, np.pi, 1.0], atol=1e-6)
    assert np.allclose(state[1], [0.2, 0.1, 0.17, 0, 0, 0, 0])
    assert raw[0][6] == 1.0008


@pytest.mark.parametrize(
    ("gripper", "wanted"),
    [
        ([1, 0.5, 0, 0.9, 0.06, 1], [1, 0, 0, 1, 1, 1]),  # between: the next decided value
        ([0.5, 0.3, 0.96], [1, 1, 1]),
        ([0.0, 0.6, 0.4], [0, 1, 0]),  # nothing decided follows
        ([0.6, 0.4, 0.5], [1, 0, 0]),
        ([0.95, 0.05, 0.04], [0, 0, 0]),  # the bounds themselves are between
        ([], []),
    ],
)
def test_the_gripper_takes_the_next_decided_value(gripper: list[float], wanted: list[int]) -> None:
    assert convention.binarize_gripper(gripper).tolist() == wanted


def test_relabelled_actions_lead_from_state_to_state() -> None:
    rng = np.random.default_rng(0)
    states = convention.convert_states(rng.uniform(-1.4, 1.4, (20, 7)))
    action = convention.relabel(states, np.arange(20) % 2)
    assert np.allclose(states[:-1, :3] + action[:-1, :3], states[1:, :3], atol=1e-6)
    turns = Rotation.from_euler("xyz", states[:, 3:6])
    after = Rotation.from_rotvec(action[:-1, 3:6]) * turns[:-1]
    assert (after * turns[1:].inv()).magnitude().max() < 1e-6
    assert (action[:, 6] == np.arange(20) % 2).all()
    assert not action[-1, :6].any()
    assert convention.relabel(states[:1], [1]).tolist() == [[0, 0, 0, 0, 0, 0, 1]]


def test_a_first_action_of_zero_is_idle() -> None:
    raw = np.full((3, 7), 0.01)
    assert convention.idle_first_step(raw) is None
    raw[0] = [3.6e-10, 3.3e-11, 2.0e-10, -1.9e-07, -5.0e-07, 7.5e-08, 1.0]
    idle = convention.idle_first_step(raw)
    assert idle is not None
    assert idle.tolist() == [True, False, False]


@pytest.mark.parametrize("raw", [np.zeros((3, 6)), np.zeros((0, 7)), np.full((2, 7), np.nan), "x"])
def test_other_numbers_are_refused(raw: Any) -> None:
    with pytest.raises(MediaError):
        convention.convert_actions(raw)
    with pytest.raises(MediaError):
        convention.convert_states(raw)
