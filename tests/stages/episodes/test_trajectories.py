"""Resampling keeps the motion; measures of smoothness are those computed by hand."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from handloom.stages.datasets.formats import rotations
from handloom.stages.episodes.trajectories import Floats, Trajectory, resample, smoothness


def trajectory(
    state: object, action: object, hz: float, kind: str = "ee_delta", idle: object = None
) -> Trajectory:
    states = np.asarray(state, np.float64)
    told = np.zeros(len(states), np.bool_) if idle is None else np.asarray(idle, np.bool_)
    return Trajectory(hz, kind, states, np.asarray(action, np.float64), told)


def moving(steps: int, hz: float, seed: int = 0) -> Trajectory:
    """A smooth random motion whose actions lead exactly from state to state."""
    rng = np.random.default_rng(seed)
    moved = rng.normal(0, 0.02, (steps, 3))
    turned = rng.normal(0, 0.05, (steps, 3))
    grip = (np.arange(steps) // 5) % 2
    start = np.array([0.3, 0.0, 0.2])
    positions = np.vstack([start, start + np.cumsum(moved, 0)])
    poses = [Rotation.from_euler("xyz", [3.0, 0.2, -0.4])]
    for w in turned:
        poses.append(Rotation.from_rotvec(w) * poses[-1])
    rpy = np.stack([pose.as_euler("xyz") for pose in poses])
    state = np.hstack([positions[:-1], rpy[:-1], grip[:, None]])
    return trajectory(state, np.hstack([moved, turned, grip[:, None]]), hz)


def end_pose(t: Trajectory) -> tuple[Floats, Rotation]:
    """Where the actions lead to from the first state."""
    position, pose = t.state[0, :3], rotations.from_rpy(t.state[0, 3:6])
    for step in t.action:
        position, pose = position + step[:3], Rotation.from_rotvec(step[3:6]) * pose
    return position, pose


@pytest.mark.parametrize(("hz", "steps"), [(30.0, 31), (5.0, 11), (20.0, 21), (10.0, 11)])
def test_resampled_actions_lead_to_the_same_pose(hz: float, steps: int) -> None:
    source = moving(steps, hz)
    found, shown = resample(source, 10.0)
    whole = min(int(len(found) / 10.0 * hz + 1e-9), steps)  # source steps that are covered whole
    covered = trajectory(source.state[:whole], source.action[:whole], hz)
    if hz < 10.0:  # upsampled: leave out the part of a source step at the end
        found = trajectory(*(v[: int(whole / hz * 10)] for v in (found.state, found.action)), 10.0)
    position, pose = end_pose(found)
    true_position, true_pose = end_pose(covered)
    np.testing.assert_allclose(position, true_position, atol=1e-9)
    assert (pose * true_pose.inv()).magnitude() < 1e-9
    assert shown[0] == 0
    assert np.all(np.diff(shown) >= 0)


def test_each_state_is_where_the_actions_before_it_led() -> None:
    found, _ = resample(moving(61, 30.0), 10.0)
    for at in range(len(found) - 1):
        moved = found.state[at + 1, :3] - found.state[at, :3]
        np.testing.assert_allclose(moved, found.action[at, :3], atol=1e-9)
        turn = (
            rotations.from_rpy(found.state[at + 1, 3:6])
            * rotations.from_rpy(found.state[at, 3:6]).inv()
        )
        np.testing.assert_allclose(turn.as_rotvec(), found.action[at, 3:6], atol=1e-9)


def test_three_hertz_become_ten_by_hand() -> None:
    # 0.3 m in one step of a third of a second is 0.09 m in a tenth.
    state = [[0, 0, 0, 0, 0, 0, 1], [0.3, 0, 0, 0, 0, 0, 0]]
    action = [[0.3, 0, 0, 0, 0, 0.6, 0], [0, 0, 0, 0, 0, 0, 1]]
    found, shown = resample(trajectory(state, action, 3.0), 10.0)
    assert len(found) == 4  # 0.0, 0.1, 0.2 and 0.3 s; the last observation is at 0.333 s
    np.testing.assert_allclose(found.state[:, 0], [0, 0.09, 0.18, 0.27])
    np.testing.assert_allclose(found.action[:3, 0], 0.09)
    np.testing.assert_allclose(found.action[:3, 5], 0.18)
    np.testing.assert_allclose(found.action[3, 0], 0.03)  # a third of it is left, then standstill
    assert shown.tolist() == [0, 0, 0, 0]
    assert found.state[:, 6].tolist() == [1, 1, 1, 1]
    assert found.action[:, 6].tolist() == [0, 0, 0, 1]  # the second command rules at 0.4 s


def test_joint_targets_are_interpolated_and_stored_numbers_are_left_alone() -> None:
    state = np.arange(9.0)[:, None] * np.ones((1, 2))
    joints = trajectory(state, state + 1, 20.0, "joints")
    found, shown = resample(joints, 10.0)
    assert found.state[:, 0].tolist() == [0, 2, 4, 6, 8]
    assert found.action[:, 0].tolist() == [2, 4, 6, 8, 9]  # nothing is told beyond the last target
    assert shown.tolist() == [0, 2, 4, 6, 8]
    stored = trajectory(state, state, 20.0, "as_stored")
    assert resample(stored, 10.0)[0] is stored


def test_a_step_is_idle_where_all_it_covers_is() -> None:
    source = moving(13, 30.0)
    idle = np.array([True] * 4 + [False] * 9)
    found, _ = resample(trajectory(source.state, source.action, 30.0, idle=idle), 10.0)
    assert found.idle.tolist() == [True, False, False, False, False]


def test_two_arms_are_resampled_each_by_itself() -> None:
    left, right = moving(31, 30.0, 1), moving(31, 30.0, 2)
    both = trajectory(
        np.hstack([left.state, right.state]), np.hstack([left.action, right.action]), 30.0
    )
    found = resample(both, 10.0)[0]
    np.testing.assert_array_equal(found.state[:, 7:], resample(right, 10.0)[0].state)
    np.testing.assert_array_equal(found.action[:, :7], resample(left, 10.0)[0].action)


def test_smoothness_by_hand() -> None:
    # x = t^3 at 10 Hz has the jerk 6 m/s^3 everywhere.
    t = np.arange(11) / 10
    state = np.zeros((11, 7))
    state[:, 0] = t**3
    state[:, 5] = 0.5 * t  # half a radian a second
    found = smoothness(trajectory(state, np.zeros((11, 7)), 10.0))
    assert found.jerk_m_s3 == pytest.approx(6.0)
    assert found.max_turn_rad_s == pytest.approx(0.5)
    assert found.max_speed_m_s == pytest.approx((1 - 0.9**3) * 10)
    assert found.still_share == 0.0


def test_a_state_that_stays_while_the_action_moves_is_frozen() -> None:
    action = np.zeros((5, 7))
    action[:, 0] = 0.01
    state = np.zeros((5, 7))
    state[3:, 0] = 0.01
    assert smoothness(trajectory(state, action, 10.0)).still_share == 0.75
    assert smoothness(trajectory(state, action * 0, 10.0)).still_share == 0.0


def test_turns_through_the_end_of_the_angle_range_are_small() -> None:
    state = np.zeros((4, 7))
    state[:, 3] = [3.1, -3.1, 3.1, -3.1]  # roll about pi: 0.083 rad from one to the next
    found = smoothness(trajectory(state, np.zeros((4, 7)), 10.0))
    assert found.max_turn_rad_s == pytest.approx(10 * (2 * np.pi - 6.2))


def test_angles_wrap_into_the_half_open_circle() -> None:
    found = rotations.wrap_angles([np.pi, -np.pi, 3.5, -3.5, 0.0])
    np.testing.assert_allclose(found, [np.pi, np.pi, 3.5 - 2 * np.pi, 2 * np.pi - 3.5, 0.0])


def test_rpy_deltas_and_rotation_vectors_are_inverse() -> None:
    rpy = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3))
    w = rotations.rpy_delta_to_rotvec(rpy)
    np.testing.assert_allclose(rotations.rotvec_to_rpy_delta(w), rpy, atol=1e-12)
    np.testing.assert_allclose(rotations.rpy_delta_to_rotvec([[0, 0, 0.3]]), [[0, 0, 0.3]])
