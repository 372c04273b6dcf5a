"""Rotations of end effectors, on scipy: angles in radians, batches in the first axis.

roll pitch yaw means rotation about the fixed axes x, then y, then z: R = Rz Ry Rx, scipy's
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
    """[T, 3] roll pitch yaw; yaw is 0 where pitch is a right angle."""
    rpy: Floats = rotations.as_euler("xyz", suppress_warnings=True)
    return rpy


def deltas(rotations: Rotation) -> Floats:
    """Rotation vectors [T-1, 3] in base axes that lead from each rotation to the next."""
    w: Floats = (rotations[1:] * rotations[:-1].inv()).as_rotvec()
    return w


def rpy_delta_to_rotvec(rpy: ArrayLike) -> Floats:
    """Rotation vectors [T, 3] of rotations given as roll pitch yaw about base-parallel axes."""
    w: Floats = from_rpy(rpy).as_rotvec()
    return w


def rotvec_to_rpy_delta(w: ArrayLike) -> Floats:
    """The inverse of `rpy_delta_to_rotvec`."""
    return to_rpy(Rotation.from_rotvec(np.asarray(w, np.float64)))


def wrapped(angles: ArrayLike) -> Floats:
    """Angles in (-pi, pi]."""
    values = np.asarray(angles, np.float64)
    return np.pi - (np.pi - values) % (2 * np.pi)
