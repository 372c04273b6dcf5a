"""Rotations of end effectors, on scipy: radians, the batch in the first axis.

Roll pitch yaw are rotations about the fixed axes x, then y, then z: R = Rz Ry Rx, scipy's
lower-case "xyz". Quaternions are x y z w.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

Floats = NDArray[np.float64]


def from_rpy(rpy: ArrayLike) -> Rotation:
    """Rotations from [T, 3] roll pitch yaw."""
    return Rotation.from_euler("xyz", np.asarray(rpy, np.float64))


def to_rpy(rotations: Rotation) -> Floats:
    """Roll pitch yaw [T, 3]; yaw is 0 where pitch is a right angle (gimbal lock)."""
    rpy: Floats = rotations.as_euler("xyz", suppress_warnings=True)
    return rpy


def successive_rotvecs(rotations: Rotation) -> Floats:
    """Rotation vectors float64 [T-1, 3], base axes, from each rotation to the next."""
    # R[t+1] = exp(w) R[t]: the step stands on the left, since its axes are those of the base.
    w: Floats = (rotations[1:] * rotations[:-1].inv()).as_rotvec()
    return w


def rpy_delta_to_rotvec(rpy: ArrayLike) -> Floats:
    """Rotation vectors float64 [T, 3] of rotations given as roll pitch yaw [T, 3]."""
    w: Floats = from_rpy(rpy).as_rotvec()
    return w


def rotvec_to_rpy_delta(w: ArrayLike) -> Floats:
    """Roll pitch yaw [T, 3] of rotation vectors: the inverse of `rpy_delta_to_rotvec`."""
    return to_rpy(Rotation.from_rotvec(np.asarray(w, np.float64)))


def wrap_angles(angles: ArrayLike) -> Floats:
    """Angles of any shape brought into (-pi, pi]."""
    values = np.asarray(angles, np.float64)
    return np.pi - (np.pi - values) % (2 * np.pi)
