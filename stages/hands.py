"""Hands: sample a clip's frames and store what MediaPipe's hand landmarker sees in each.

The decision is not made here: `select` reads the stored numbers, so thresholds cost no decoding.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from handloom.errors import RunError
from handloom.stages.base import Stage
from handloom.stages.records import Clip, Hand, HandRow, Row
from handloom.stages.video import Video
from handloom.tokenize.shards import sha256_file

MODEL = Path(__file__).parent / "models" / "hand_landmarker.task"
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Hands(Stage):
    """Options of `hands`."""

    name: ClassVar[str] = "hands"
    row_type: ClassVar[type[Row]] = HandRow

    frames_per_second: float = 2.0
    """Sampling rate; a clip gets at least `min_frames`."""
    min_frames: int = 4
    max_hands: int = 2
    detection_confidence: float = 0.5
    """Palm detection score from which a palm counts."""
    presence_confidence: float = 0.3
    """Landmark model's score from which a hand counts."""
    short_side: int = 384
    """Larger frames are shrunk to this before detection; 384 loses no recall on real footage."""

    def models(self) -> dict[str, str]:
        """SHA-256 of the landmarker."""
        return {MODEL.name: sha256_file(MODEL)}

    def setup(self) -> None:
        """Load the landmarker on this worker."""
        _landmarker(self.max_hands, self.detection_confidence, self.presence_confidence)

    def __call__(self, clip: Clip) -> Iterator[HandRow]:
        """Detect hands in the clip's sampled frames."""
        times_s = sample_times(clip, self.frames_per_second, self.min_frames)
        video = open_video(self.data / clip.media_path)
        counts: list[int] = []
        detections: list[Hand] = []
        luma: list[npt.NDArray[np.float32]] = []
        # A few frames at a time: a long clip of a large picture would not fit in memory at once.
        for first in range(0, len(times_s), 8):
            for frame_hwc in video.frames_at(times_s[first : first + 8]):
                small_hwc = shrink(frame_hwc, self.short_side)
                hands = self._detect(small_hwc, frame=len(counts))
                counts.append(len(hands))
                detections += hands
                luma.append(thumbnail_luma(small_hwc))
        yield HandRow(
            clip_id=clip.clip_id,
            times_s=times_s.tolist(),
            hand_counts=counts,
            brightness=[float(y.mean()) for y in luma],
            motion=[0.0, *(float(np.abs(b - a).mean()) for a, b in pairwise(luma))],
            detections=detections,
        )

    def failed(self, error: str, clip: Clip) -> Iterator[HandRow]:
        """A row without frames."""
        yield HandRow(
            clip_id=clip.clip_id,
            status="failed",
            error=error,
            times_s=[],
            hand_counts=[],
            brightness=[],
            motion=[],
            detections=[],
        )

    def _detect(self, frame_hwc: npt.NDArray[np.uint8], frame: int) -> list[Hand]:
        import mediapipe as mp

        landmarker = _landmarker(
            self.max_hands, self.detection_confidence, self.presence_confidence
        )
        picture = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(frame_hwc))
        result = landmarker.detect(picture)
        return [
            _hand(frame, points, sides[0])
            for points, sides in zip(result.hand_landmarks, result.handedness, strict=True)
        ]


def sample_times(clip: Clip, per_second: float, at_least: int) -> npt.NDArray[np.float64]:
    """Times in the middle of equal slices of the clip, float64 [T], seconds."""
    seconds = clip.end_s - clip.start_s
    count = max(at_least, round(seconds * per_second))
    return clip.start_s + (np.arange(count) + 0.5) * seconds / count


def shrink(frame_hwc: npt.NDArray[np.uint8], short_side: int) -> npt.NDArray[np.uint8]:
    """Scale a frame down so that its short side is at most `short_side` pixels."""
    height, width = frame_hwc.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1:
        return frame_hwc
    size = round(width * scale), round(height * scale)
    return np.asarray(Image.fromarray(frame_hwc).resize(size, Image.Resampling.BILINEAR))


def thumbnail_luma(frame_hwc: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Luma of a 32x32 thumbnail, float32 [32, 32], 0 to 1."""
    small = Image.fromarray(frame_hwc).resize((32, 32), Image.Resampling.BOX)
    return (np.asarray(small, np.float32) @ LUMA / 255).astype(np.float32)


_open: dict[Path, Video] = {}


def open_video(path: Path) -> Video:
    """The video at path; the last one stays open, since a video's clips come one after another."""
    if path not in _open:
        _open.clear()
        _open[path] = Video(path)
    return _open[path]


@cache
def _landmarker(max_hands: int, detection: float, presence: float) -> Any:
    os.environ.setdefault("GLOG_minloglevel", "3")  # before the library loads, or it logs a line
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # for every model it opens
    try:
        from mediapipe.tasks.python import BaseOptions, vision
    except (ImportError, OSError) as error:
        raise RunError(
            f"MediaPipe does not load ({error}); it needs the system's OpenGL libraries, on Debian "
            "and Ubuntu `apt-get install libgl1 libegl1 libgles2 libglib2.0-0`."
        ) from None
    options = vision.HandLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(MODEL)),
        num_hands=max_hands,
        min_hand_detection_confidence=detection,
        min_hand_presence_confidence=presence,
    )
    return vision.HandLandmarker.create_from_options(options)


def _hand(frame: int, points: list[Any], side: Any) -> Hand:
    xs, ys = [p.x for p in points], [p.y for p in points]
    return Hand(
        frame=frame,
        handedness=side.category_name,
        score=side.score,
        box_xyxy=[min(xs), min(ys), max(xs), max(ys)],
        landmarks_xyz=[value for p in points for value in (p.x, p.y, p.z)],
    )
