"""What a dataset says of a clip's camera: intrinsics, its poses, and those of tracked joints.

A pose is seven numbers: position x y z (m) and orientation as a quaternion x y z w, of the camera
or a joint, in a world that stays where it is for one recording. Axes of a camera are those of
OpenCV: x to the right, y down, z into the picture.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError

Floats = NDArray[np.float64]
CameraModel = Literal["pinhole", "fisheye"]
"""As in OpenCV: `fisheye` is Kannala and Brandt's equidistant projection with k1 to k4."""

ORTHONORMAL = 1e-3
"""How far R R^T of a rotation may be from the identity: files hold float32."""


def _nothing(*shape: int) -> Floats:
    return np.zeros(shape)


@dataclass(frozen=True)
class CameraTrack:
    """The camera of a clip, and poses over time where there are any.

    Attributes:
        model: of the projection.
        size: width and height of the picture that the intrinsics are for, pixels.
        intrinsics: fx, fy, cx, cy, pixels.
        distortion: coefficients of the model; none where the picture is undistorted.
        times_s: float64 [T], ascending, when the poses hold; seconds from the start of the video.
        camera: float64 [T, 7], poses of the camera.
        joints: names of J tracked joints, the source's own.
        joint_poses: float64 [T, J, 7].
        confidences: float64 [T, J], 0 to 1; [0, 0] where the source gives none.
        every_frame: whether there is a pose for each frame of the video.
    """

    model: CameraModel
    size: tuple[int, int]
    intrinsics: tuple[float, float, float, float]
    distortion: tuple[float, ...] = ()
    times_s: Floats = field(default_factory=lambda: _nothing(0))
    camera: Floats = field(default_factory=lambda: _nothing(0, 7))
    joints: tuple[str, ...] = ()
    joint_poses: Floats = field(default_factory=lambda: _nothing(0, 0, 7))
    confidences: Floats = field(default_factory=lambda: _nothing(0, 0))
    every_frame: bool = False


def pinhole(matrix: Floats, where: str) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy of an intrinsic matrix [3, 3].

    Raises:
        MediaError: it is none.
    """
    rest = matrix - [[matrix[0, 0], 0, matrix[0, 2]], [0, matrix[1, 1], matrix[1, 2]], [0, 0, 1]]
    if min(matrix[0, 0], matrix[1, 1]) <= 0 or np.abs(rest).max() > 1e-6:
        raise MediaError(
            f"{where} is no intrinsic matrix ({matrix.round(3).tolist()}), expected fx and fy "
            "above 0, cx and cy, and no skew; download the file again"
        )
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    return float(fx), float(fy), float(cx), float(cy)


def poses_of(matrices: Floats, where: str) -> Floats:
    """Poses float64 [T, 7] of transforms [T, 4, 4] or [T, 3, 4] into the world.

    Raises:
        MediaError: a matrix is no rotation and translation.
    """
    from scipy.spatial.transform import Rotation  # a third of a second, and `--help` comes by here

    turns, last = matrices[:, :3, :3], matrices[:, 3:]
    off = np.abs(turns @ turns.transpose(0, 2, 1) - np.eye(3)).max(initial=0.0)
    if off > ORTHONORMAL or (np.linalg.det(turns) < 0).any() or (last != [0, 0, 0, 1]).any():
        raise MediaError(
            f"{where} holds matrices that are no rotation and translation, expected the poses of a "
            "rigid body; download the file again"
        )
    quaternions = Rotation.from_matrix(turns).as_quat(canonical=True)
    return np.concatenate([matrices[:, :3, 3], quaternions], axis=1)
