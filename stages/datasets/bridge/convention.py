"""BridgeData's numbers in handloom's convention, whichever of its layouts they come from.

A raw state is x y z (m, robot base), roll pitch yaw (rad), gripper (about 0 closed to 1 open). The
angles are relative to the gripper's default pose, in which it points down: (0, 0, 0) is that pose.
So they are the orientation of a frame that is fixed to the gripper and parallel to the base in the
default pose. RT-1's angles are those of another frame: the two do not mix.

A raw action is dx dy dz (m, base axes), droll dpitch dyaw (rad, about axes through the end effector
that are parallel to the base's, R = Rz Ry Rx), gripper target (0 closed to 1 open). It is relative
to the previous *target*, not to the pose that was reached: `relabel` computes the latter.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handloom.errors import MediaError
from handloom.stages.datasets.formats import rotations

Floats = NDArray[np.float64]

OPEN_ABOVE = 0.95  # of the gripper's width, 0 to 1
CLOSED_BELOW = 0.05
NO_MOTION = 1e-5  # m and rad


def convert_actions(raw: ArrayLike) -> NDArray[np.float32]:
    """Raw actions [T, 7] as displacement, rotation vector (base axes), gripper 0 or 1; float32.

    Raises:
        MediaError: the array has another shape or holds values that are not finite.
    """
    values = _validated(raw, "actions")
    rotvec = rotations.rpy_delta_to_rotvec(values[:, 3:6])
    gripper = binarize_gripper(values[:, 6])
    return np.column_stack([values[:, :3], rotvec, gripper]).astype(np.float32)


def convert_states(raw: ArrayLike) -> NDArray[np.float32]:
    """Raw states [T, 7] with angles in (-pi, pi] and the gripper clipped to [0, 1]; float32.

    Raises:
        MediaError: the array has another shape or holds values that are not finite.
    """
    values = _validated(raw, "states")
    values[:, 3:6] = rotations.wrap_angles(values[:, 3:6])
    values[:, 6] = values[:, 6].clip(0.0, 1.0)  # measured widths exceed both ends a little
    return values.astype(np.float32)


def binarize_gripper(gripper: ArrayLike) -> NDArray[np.float32]:
    """Gripper targets [T] as 0 (closed) or 1 (open); float32.

    Above 0.95 is open and below 0.05 closed. A value between them is on its way: it takes the next
    value outside of them, or where none follows is compared with 0.5.
    """
    values = np.asarray(gripper, np.float64)
    binary = (values > 0.5).astype(np.float32)
    decided = np.flatnonzero((values > OPEN_ABOVE) | (values < CLOSED_BELOW))
    # Of each step the next decided one.
    following = np.searchsorted(decided, np.arange(len(values)))
    has_next = following < len(decided)
    binary[has_next] = binary[decided[following[has_next]]]
    return binary


def relabel(states: ArrayLike, gripper: ArrayLike) -> NDArray[np.float32]:
    """Actions between the poses that were reached, float32 [T, 7].

    Args:
        states: [T, 7] from `convert_states`.
        gripper: target of each step [T], 0 or 1.

    Returns:
        The step from state t to t + 1. The last one has no successor and no motion: the caller
        marks it idle.
    """
    values = np.asarray(states, np.float64)
    actions = np.zeros((len(values), 7), np.float32)
    actions[:, 6] = np.asarray(gripper)
    if len(values) > 1:
        actions[:-1, :3] = np.diff(values[:, :3], axis=0)
        actions[:-1, 3:6] = rotations.successive_rotvecs(rotations.from_rpy(values[:, 3:6]))
    return actions


def idle_first_step(raw: ArrayLike) -> NDArray[np.bool_] | None:
    """Idle steps, bool [T]: the first of the raw actions [T, 7] if it moves nothing, else None.

    The recorder writes the first action before anything is commanded: zero but for rounding.
    """
    values = np.asarray(raw, np.float64)
    if not len(values) or np.abs(values[0, :6]).max() > NO_MOTION:
        return None
    idle = np.zeros(len(values), np.bool_)
    idle[0] = True
    return idle


def _validated(raw: ArrayLike, name: str) -> Floats:
    """A float64 copy [T, 7], after a check that all numbers are finite."""
    try:
        values = np.array(raw, np.float64)
    except (TypeError, ValueError):
        raise MediaError(f"{name} are not an array of numbers, expected [steps, 7]") from None
    # A record without steps is damaged, too.
    if values.ndim != 2 or values.shape[1] != 7 or not len(values):
        raise MediaError(
            f"{name} of shape {list(values.shape)}, expected [steps, 7] with position, angles and "
            "gripper: this is not a recording of BridgeData's WidowX arm"
        )
    if not np.isfinite(values).all():
        raise MediaError(f"{name} hold values that are not finite; download the episode again")
    return values
