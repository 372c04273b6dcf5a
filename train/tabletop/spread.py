"""Adapter from policies that act at 10 Hz in metres to CALVIN's relative actions at 30 Hz."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handloom.errors import UserError
from handloom.train.tabletop.world import STEP_M, STEP_RAD, Floats

SUBSTEPS = 3  # 30 Hz / 10 Hz
UNITS = np.array([STEP_M] * 3 + [STEP_RAD] * 3)


class ChunkPolicy(Protocol):
    """A policy that acts at 10 Hz in physical units, some actions at a time."""

    def reset(self) -> None:
        """Called before every task."""

    def act(self, obs: Mapping[str, Any], instruction: str, /) -> NDArray[Any]:
        """The actions to execute before the next call.

        Returns:
            [n, 7] `ee_delta`: displacement in metres, rotation vector, gripper 0 closed to 1 open.
        """


class SpreadOut:
    """A ChunkPolicy as a model of the evaluation, which asks for an action each 1/30 s.

    A displacement is divided over three steps, and so is a rotation, as the difference of roll
    pitch yaw that it makes from the orientation at the first of them. The part that exceeds a
    step's limit (0.02 m, 0.05 rad) carries over to the following steps, up to one action's worth:
    an arm that cannot follow should not move on after the policy has stopped.
    """

    def __init__(self, policy: ChunkPolicy) -> None:
        self._policy = policy
        self._actions: Floats = np.zeros((0, 7))  # not yet begun
        self._remaining: Floats = np.zeros(6)  # motion still to be made, metres and radians
        self._substeps_left = 0  # steps left of the action in progress
        self._gripper = 1.0

    def reset(self) -> None:
        """Begin a task: drop the remaining motion."""
        self._policy.reset()
        self._actions, self._remaining, self._substeps_left = np.zeros((0, 7)), np.zeros(6), 0

    def step(self, obs: Mapping[str, Any], instruction: str) -> Floats:
        """The next relative action, float64 [7]: six numbers within -1 and 1, gripper -1 or 1.

        Raises:
            UserError: the policy did not return finite actions [n, 7].
        """
        if self._substeps_left == 0:
            if not len(self._actions):
                self._actions = _validated(self._policy.act(obs, instruction))
            self._begin_action(self._actions[0], np.asarray(obs["robot_obs"], np.float64)[3:6])
            self._actions = self._actions[1:]
        # Divided by the steps left: what an earlier step could not do is spread again.
        part = np.clip(self._remaining / self._substeps_left, -UNITS, UNITS)
        self._remaining = self._remaining - part
        self._substeps_left -= 1
        return np.append(part / UNITS, self._gripper)

    def _begin_action(self, action: Floats, angles: Floats) -> None:
        most = SUBSTEPS * UNITS
        change = np.concatenate([action[:3], rpy_difference(action[3:6], angles)])
        # Carried-over motion is limited to one action's worth.
        self._remaining = np.clip(self._remaining, -most, most) + change
        self._gripper = 1.0 if action[6] > 0.5 else -1.0
        self._substeps_left = SUBSTEPS


def rpy_difference(rotation: ArrayLike, angles: ArrayLike) -> Floats:
    """The difference of roll pitch yaw [3] that a rotation vector makes from an orientation.

    R = Rz Ry Rx, as in docs/robot-episodes.md; differences are within -pi and pi.
    """
    from scipy.spatial.transform import Rotation

    before = np.asarray(angles, np.float64)
    turned = Rotation.from_rotvec(rotation) * Rotation.from_euler("xyz", before)
    return np.asarray((turned.as_euler("xyz") - before + np.pi) % (2 * np.pi) - np.pi)


def state_of(robot_obs: ArrayLike) -> NDArray[np.float32]:
    """State [7] of robot_obs [15]: position, angles in (-pi, pi], the last command's gripper."""
    obs = np.asarray(robot_obs, np.float64)
    angles = np.pi - (np.pi - obs[3:6]) % (2 * np.pi)
    return np.concatenate([obs[:3], angles, [(obs[14] + 1) / 2]]).astype(np.float32)


def _validated(actions: ArrayLike) -> Floats:
    values = np.asarray(actions, np.float64)
    if values.ndim != 2 or values.shape[1] != 7 or not len(values) or not np.isfinite(values).all():
        raise UserError(
            f"the policy's actions are {list(values.shape)} with "
            f"{np.count_nonzero(~np.isfinite(values))} numbers that are not finite, expected at "
            "least one action of 7 finite numbers (ee_delta of one arm): choose a checkpoint that "
            "was fine-tuned on such episodes."
        )
    return values
