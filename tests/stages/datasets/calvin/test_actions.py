"""CALVIN's relative actions, computed by hand and back again."""

import numpy as np
from scipy.spatial.transform import Rotation

from handloom.stages.datasets.calvin import adapter as calvin
from handloom.stages.datasets.formats import rotations


def test_angles_are_differences_and_not_rotations() -> None:
    """At yaw 90 degrees, a difference in pitch of 0.05 turns about the world's -x, not y."""
    robot = np.zeros((1, 15))
    robot[0, 5] = np.pi / 2
    relative = np.array([[1.0, -0.5, 0.0, 0.0, 1.0, 0.0, 1.0]])
    action = calvin.actions_from_relative(relative, robot)
    assert np.allclose(action, [[0.02, -0.01, 0.0, -0.05, 0.0, 0.0, 1.0]], atol=1e-7)
    roll = calvin.actions_from_relative([[0, 0, 0, 1.0, 0, 0, -1.0]], robot)
    assert np.allclose(roll, [[0, 0, 0, 0, 0.05, 0, 0]], atol=1e-7)
    yaw = calvin.actions_from_relative([[0, 0, 0, 0, 0, -1.0, -1.0]], robot)
    assert np.allclose(yaw, [[0, 0, 0, 0, 0, -0.05, 0]], atol=1e-7)


def test_relative_actions_come_back() -> None:
    rng = np.random.default_rng(0)
    relative = rng.uniform(-1, 1, (200, 7))
    relative[:, 6] = np.sign(relative[:, 6])
    robot = rng.uniform(-1.2, 1.2, (200, 15))
    robot[:, 3] = rotations.wrap_angles(np.pi + rng.uniform(-0.1, 0.1, 200))  # crosses the wrap
    action = calvin.actions_from_relative(relative, robot)
    turned = Rotation.from_rotvec(action[:, 3:6]) * rotations.from_rpy(robot[:, 3:6])
    differences = rotations.wrap_angles(rotations.to_rpy(turned) - robot[:, 3:6])
    back = np.column_stack([action[:, :3] / 0.02, differences / 0.05, 2 * action[:, 6] - 1])
    assert np.allclose(back, relative, atol=1e-4)
