"""Samples of a whole video: when hands are in the picture, and how fast they move.

`ingest` cuts a folder's videos by it, before there are clips. Frames are those that cost least:
in each step of time the first key frame, where it holds one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from handloom.stages.hands import landmarker
from handloom.stages.hands.recheck import DetectOptions, detect
from handloom.stages.hands.rows import Hand
from handloom.stages.media.display import FrameHWC
from handloom.stages.media.key_frames import SmallVideo
from handloom.stages.media.shots import SHORT_SIDE as SHOTS_SIDE
from handloom.tokenize.shards import sha256_file

SHORT_SIDE = 384  # pixels, as `hands` shrinks frames for the detector
TOP_SPEED = 4.0  # of a hand that is detected in one of two neighbouring samples alone
DETECTOR = DetectOptions()


@dataclass(frozen=True)
class Sample:
    """A frame of a video and the hands in it.

    Attributes:
        time_s: when it is shown.
        picture_hwc: uint8 [H, W, 3] RGB, as small as shots are detected in.
        hands_xys: float64 [hands, 3]: centre x and y, and size, relative to the picture's height.
    """

    time_s: float
    picture_hwc: FrameHWC
    hands_xys: npt.NDArray[np.float64]

    @property
    def shows_hand(self) -> bool:
        """Whether a hand was detected."""
        return len(self.hands_xys) > 0


@cache
def models() -> dict[str, str]:
    """SHA-256 of the landmarker; each file that is cut asks for it."""
    return {landmarker.MODEL.name: sha256_file(landmarker.MODEL)}


def load() -> None:
    """Load the landmarker in this process."""
    landmarker.load(DETECTOR.max_hands, DETECTOR.detection_confidence, DETECTOR.presence_confidence)


def samples(
    video: SmallVideo, start_s: float, end_s: float, step_s: float, detects: bool = True
) -> Iterator[Sample]:
    """Samples of a part of a video, in the order of time.

    Args:
        video: open, with frames of `SHORT_SIDE`.
        start_s: start of the part.
        end_s: its end.
        step_s: one sample for each step of so many seconds.
        detects: whether hands are searched for.

    Raises:
        MediaError: the file is damaged there or ends earlier.
    """
    for time_s in sample_times(video.keys_around(start_s, end_s), start_s, end_s, step_s):
        frame = video.frame_at(time_s)
        hands = detect(frame.picture_hwc, 0, DETECTOR) if detects else []
        height, width = frame.picture_hwc.shape[:2]
        yield Sample(time_s, _small(frame.picture_hwc), _places(hands, width / height))


def sample_times(
    keys_s: npt.NDArray[np.float64], start_s: float, end_s: float, step_s: float
) -> list[float]:
    """For each step of time its first key frame, or else its middle.

    Args:
        keys_s: float64 [K], ascending, when key frames are shown.
        start_s: start of the first step.
        end_s: end of the last one, which may be shorter.
        step_s: seconds.
    """
    firsts_s = np.arange(start_s, max(end_s - step_s / 4, start_s + 1e-6), step_s)
    lasts_s = np.minimum(firsts_s + step_s, end_s)
    keys_s = keys_s if len(keys_s) else np.array([np.inf])
    at = np.searchsorted(keys_s, firsts_s).clip(max=len(keys_s) - 1)
    has_key = (keys_s[at] >= firsts_s) & (keys_s[at] < lasts_s)
    times_s: list[float] = np.where(has_key, keys_s[at], (firsts_s + lasts_s) / 2).tolist()
    return times_s


def speed(one: Sample, following: Sample) -> float:
    """Speed of the fastest hand from one sample to the next, in hands' sizes a second; 0 in a pause
    without hands, which is the best place for a cut."""
    dt_s = max(following.time_s - one.time_s, 1e-3)
    if one.shows_hand != following.shows_hand:
        return TOP_SPEED
    if not one.shows_hand:
        return 0.0
    before, after = one.hands_xys, following.hands_xys
    distance = np.linalg.norm(before[:, None, :2] - after[None, :, :2], axis=-1)  # [hands, hands]
    sizes = (before[:, None, 2] + after[None, :, 2]) / 2
    moved = (distance / np.maximum(sizes, 1e-3)).min(axis=1).max()
    return min(float(moved) / dt_s, TOP_SPEED)


def _places(hands: list[Hand], aspect: float) -> npt.NDArray[np.float64]:
    boxes = np.array([hand["box_xyxy"] for hand in hands], np.float64).reshape(-1, 2, 2)
    boxes *= (aspect, 1.0)
    sizes = (boxes[:, 1] - boxes[:, 0]).max(axis=1, initial=0.0)
    return np.concatenate([boxes.mean(axis=1), sizes[:, None]], axis=1)


def _small(frame_hwc: FrameHWC) -> FrameHWC:
    """A copy at the size in which shots are detected, so that an hour's samples fit in memory."""
    import cv2

    height, width = frame_hwc.shape[:2]
    scale = min(1.0, SHOTS_SIDE / min(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(frame_hwc, size, interpolation=cv2.INTER_AREA), np.uint8)
