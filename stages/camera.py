"""Camera: the intrinsics of a clip's camera and the poses that its dataset gives, in columns.

A table of its own, in the runs of datasets that have such: what others record stays as it is. It is
joined by `clip_id`. Pictures are not opened.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from handloom.errors import MediaError
from handloom.stages.datasets.camera_track import CameraTrack
from handloom.stages.ingest.videos import Ingest
from handloom.stages.stage import Stage
from handloom.stages.tables.rows import Footage, Row

SPARE_FRAMES = 1
"""Poses that may be missing or too many at the end of a video: encoders drop a last frame."""


@dataclass(frozen=True, kw_only=True)
class CameraRow(Row):
    """A row of the `camera` table.

    A pose is seven numbers: position x y z (m), orientation as a quaternion x y z w. Axes of the
    camera are x to the right, y down, z into the picture; the world is the source's own.
    """

    model: str = ""
    """pinhole, or fisheye (OpenCV's, with k1 to k4); empty where nothing is known of a clip."""
    width: int = 0
    """Of the picture that the intrinsics are for, pixels."""
    height: int = 0
    intrinsics: list[float] = field(default_factory=list)
    """fx, fy, cx, cy, pixels."""
    distortion: list[float] = field(default_factory=list)
    """Coefficients of the model; empty where the picture is undistorted."""
    times_s: list[float] = field(default_factory=list)
    """[T], when the poses hold: seconds from the start of the video."""
    camera: list[list[float]] = field(default_factory=list)
    """[T, 7], poses of the camera in the world."""
    joints: list[str] = field(default_factory=list)
    """[J], the source's names of the joints that were tracked."""
    joint_poses: list[list[float]] = field(default_factory=list)
    """[T, 7 J], poses of the joints in the world, joint by joint."""
    confidences: list[list[float]] = field(default_factory=list)
    """[T, J], 0 to 1; empty where the source gives none."""
    poses: int = 0
    """Number of poses in the source, of the whole video."""
    frames: int = 0
    """Number of frames of the whole video, by its length and rate."""


@dataclass(frozen=True)
class Camera(Stage):
    """Options of `camera`."""

    name: ClassVar[str] = "camera"
    row_type: ClassVar[type[Row]] = CameraRow
    clip_type: ClassVar[type[Footage]] = Footage

    joints: tuple[str, ...] = ()
    """Joints to keep the poses of, by the source's own names; by default wrists and fingertips."""

    def __call__(self, clip: Footage) -> Iterator[CameraRow]:
        """Read what is known of a clip's camera; reject one whose poses are not of its frames."""
        source = self.source
        assert isinstance(source, Ingest)
        if source.adapter.camera is None:
            raise MediaError(f"{clip.media_path}: the dataset says nothing of its camera")
        track = source.adapter.camera(self.data, clip, self.joints)
        if track is None:
            yield CameraRow(clip_id=clip.clip_id)
            return
        poses, frames = len(track.camera), round(clip.duration_s * clip.fps)
        if track.every_frame and abs(poses - frames) > SPARE_FRAMES:
            yield CameraRow(
                clip_id=clip.clip_id,
                status="rejected",
                reason="poses_differ",
                poses=poses,
                frames=frames,
            )
        else:
            yield camera_row(clip, track, frames)


def camera_row(clip: Footage, track: CameraTrack, frames: int) -> CameraRow:
    """The row of a clip: poses of its span alone."""
    inside = (track.times_s >= clip.start_s - 1e-6) & (track.times_s < clip.end_s)
    poses = track.joint_poses[inside] if len(track.joints) else track.joint_poses
    sure = track.confidences[inside] if len(track.confidences) else track.confidences
    return CameraRow(
        clip_id=clip.clip_id,
        model=track.model,
        width=track.size[0],
        height=track.size[1],
        intrinsics=list(track.intrinsics),
        distortion=list(track.distortion),
        times_s=track.times_s[inside].tolist(),
        camera=track.camera[inside].tolist(),
        joints=list(track.joints),
        joint_poses=poses.reshape(len(poses), 7 * len(track.joints)).tolist(),
        confidences=sure.tolist(),
        poses=len(track.camera),
        frames=frames,
    )
