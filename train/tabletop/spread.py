"""From a policy's actions at 10 Hz to CALVIN's relative actions at 30 Hz."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handloom.errors import UserError
from handloom.train.tabletop.world import STEP_M, STEP_RAD, Floats

SUBSTEPS = 3  # 30 Hz / 10 Hz
UNITS = np.array([STEP_M] * 3 + [STEP_RAD] * 3)


class Chunked(Protocol):
    """A policy that acts in physical units, ten times a second."""

    def reset(self) -> None:
        """Called before every task."""

    def act(self, obs: Mapping[str, Any], instruction: str, /) -> NDArray[Any]:
        """The actions to carry out before the next call.

        Returns:
            [n, 7] `ee_delta`: displacement in metres, rotation vector, gripper 0 closed to 1 open.
        """


class SpreadOut:
    """Makes such a policy a model for the evaluation, which asks for an action at each 1/30 s.

    A displacement is divided over three steps, a rotation as the difference of roll pitch yaw that
    it makes from the orientation at the first of them. What is more than a step can do (0.02 m,
    0.05 rad) is made up for in the following steps, but never more than one action's worth: an arm
    that cannot follow should not go on when the policy has stopped.
    """

    def __init__(self, policy: Chunked) -> None:
        self._policy = policy
        self._actions: Floats = np.zeros((0, 7))  # that are still to be begun
        self._owed: Floats = np.zeros(6)  # what is left to do, metres and radians
        self._left = 0  # steps of the action that was begun
        self._gripper = 1.0

    def reset(self) -> None:
        """Begin a task: forget what was left to do."""
        self._policy.reset()
        self._actions, self._owed, self._left = np.zeros((0, 7)), np.zeros(6), 0

    def step(self, obs: Mapping[str, Any], instruction: str) -> Floats:
        """The next relative action, float64 [7]: six numbers within -1 and 1, gripper -1 or 1.

        Raises:
            UserError: the policy gave something else than finite actions [n, 7].
        """
        if self._left == 0:
            if not len(self._actions):
                self._actions = _checked(self._policy.act(obs, instruction))
            self._begin(self._actions[0], np.asarray(obs["robot_obs"], np.float64)[3:6])
            self._actions = self._actions[1:]
        part = np.clip(self._owed / self._left, -UNITS, UNITS)
        self._owed = self._owed - part
        self._left -= 1
        return np.append(part / UNITS, self._gripper)

    def _begin(self, action: Floats, angles: Floats) -> None:
        most = SUBSTEPS * UNITS
        change = np.concatenate([action[:3], turn(action[3:6], angles)])
        self._owed = np.clip(self._owed, -most, most) + change
        self._gripper = 1.0 if action[6] > 0.5 else -1.0
        self._left = SUBSTEPS


def turn(rotation: ArrayLike, angles: ArrayLike) -> Floats:
    """The difference [3] of roll pitch yaw that a rotation vector makes from an orientation.

    R = Rz Ry Rx, as in docs/robot-episodes.md; differences are within -pi and pi.
    """
    from scipy.spatial.transform import Rotation

    before = np.asarray(angles, np.float64)
    turned = Rotation.from_rotvec(rotation) * Rotation.from_euler("xyz", before)
    return np.asarray((turned.as_euler("xyz") - before + np.pi) % (2 * np.pi) - np.pi)


def _checked(actions: ArrayLike) -> Floats:
    given = np.asarray(actions, np.float64)
    if given.ndim != 2 or given.shape[1] != 7 or not len(given) or not np.isfinite(given).all():
        raise UserError(
            f"the policy's actions are {list(given.shape)} with "
            f"{np.count_nonzero(~np.isfinite(given))} numbers that are not finite, expected at "
            "least one action of 7 finite numbers (ee_delta of one arm): choose a checkpoint that "
            "was fine-tuned on such episodes."
        )
    return given
