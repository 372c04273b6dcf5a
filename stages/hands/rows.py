"""Rows of the `hands` table."""

from dataclasses import dataclass
from typing import TypedDict

from handloom.stages.tables.rows import Row

CONFIDENT = 1 / 3
"""Hands of this `confidence` count."""
CONFIRMED = 0.5
"""The least `confidence` of a hand with a palm score of `detection_confidence`."""


class Hand(TypedDict):
    """One detected hand; coordinates are relative to the picture's width and height."""

    frame: int
    handedness: str
    score: float
    """MediaPipe's probability of the handedness, 0 to 1."""
    confidence: float
    """1 where several frames of the clip, or two searches of this one, show a hand; 0.5 where it is
    the only one; of weak hands the share of the clip's frames with others, 0 to 1."""
    box_xyxy: list[float]
    landmarks_xyz: list[float]
    """21 points, x y z each, in MediaPipe's order."""
    world_xyz: list[float]
    """The same points in metres from the hand's centre: x right, y down, z away from the camera, as
    the hand's own size is estimated."""


@dataclass(frozen=True, kw_only=True)
class HandRow(Row):
    """A row of the `hands` table. Lists are parallel to `times_s`."""

    times_s: list[float]
    """Times of the sampled frames, seconds from the start of the video, ascending."""
    detector_ran: list[bool]
    """False where the detector did not run on the frame; its count is then 0."""
    hand_counts: list[int]
    """Hands of at least `CONFIDENT` confidence."""
    confidence: list[float]
    """The highest among the frame's hands, 0 to 1; 0 where there is none."""
    brightness: list[float]
    """Mean luma, 0 black to 1 white."""
    contrast: list[float]
    """Range of the luma without its extremes; 0 is one flat colour."""
    sharpness: list[float]
    """Share of its strongest edges that a further blur takes away, 0 to 1."""
    flat_share: list[float]
    """Share of the frame that has one and the same luma."""
    change: float
    """Largest change among all frames, 0 to 1."""
    picture_xyxy: list[float]
    """The picture without letterbox bars, relative to width and height."""
    bar_share: float
    stereo: str
    """Place of a second eye's picture, if there were one: side_by_side or top_bottom."""
    stereo_score: float
    """Likeness of the two halves, 0 to 1."""
    cuts_s: list[float]
    """Shot changes, from the start of the video: of a cut the first frame of the new shot, of a
    dissolve or fade its start and its end; empty where none were detected."""
    shot_start_s: float
    """The longest stretch without a shot change."""
    shot_end_s: float
    fingerprints: bytes
    """uint8 [frames, 1152], see fingerprints.py."""
    detections: list[Hand]


@dataclass(frozen=True, kw_only=True)
class Framing(Row):
    """The part of a clip that is worth showing: columns of the `hands` table."""

    shot_start_s: float
    """The longest stretch without a shot change; the whole clip where none was detected."""
    shot_end_s: float
    picture_xyxy: list[float]
    """The picture without letterbox bars, relative to width and height."""
