"""Detecting hands in a picture with MediaPipe's hand landmarker."""

import os
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from handloom.errors import RunError
from handloom.stages.hands.rows import Hand

MODEL = Path(__file__).parent / "models" / "hand_landmarker.task"

Window = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; may reach beyond the picture, where it is black."""


def detect_hands(
    frame_hwc: npt.NDArray[np.uint8],
    frame: int,
    max_hands: int,
    detection_confidence: float,
    presence_confidence: float,
    window: Window | None = None,
    half_turn: bool = False,
) -> list[Hand]:
    """Hands in a part of a picture, not yet rated.

    The palm detector gets 192 pixels along the picture's long side, whatever its size: a window
    smaller than the picture magnifies, a larger one shrinks hands that are too close for it.

    Args:
        frame_hwc: uint8 [H, W, 3] RGB.
        frame: number that the hands are given.
        max_hands: how many at most.
        detection_confidence: palm scores below this are ignored, 0 to 1.
        presence_confidence: landmark scores below this are ignored, 0 to 1.
        window: the part that is searched; None is the whole picture.
        half_turn: search it upside down.

    Returns:
        Hands with coordinates relative to the whole picture and a `confidence` of 0.
    """
    import mediapipe as mp

    height, width = frame_hwc.shape[:2]
    window = window or (0, 0, width, height)
    view_hwc = crop(frame_hwc, window)
    if half_turn:
        view_hwc = view_hwc[::-1, ::-1]
    landmarker = load(max_hands, detection_confidence, presence_confidence)
    picture = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(view_hwc))
    result = landmarker.detect(picture)
    hands = []
    parts = zip(result.hand_landmarks, result.hand_world_landmarks, result.handedness, strict=True)
    for points, world_points, sides in parts:
        xyz, world_xyz = _array(points), _array(world_points)
        if half_turn:
            xyz[:, :2] = 1 - xyz[:, :2]
            world_xyz[:, :2] *= -1
        hands.append(_hand(frame, _to_picture(xyz, window, width, height), world_xyz, sides[0]))
    return hands


def crop(frame_hwc: npt.NDArray[np.uint8], window: Window) -> npt.NDArray[np.uint8]:
    """A window of a picture, black where it reaches beyond."""
    height, width = frame_hwc.shape[:2]
    left, top, right, bottom = window
    if min(left, top) >= 0 and right <= width and bottom <= height:
        return frame_hwc[top:bottom, left:right]
    view_hwc = np.zeros((bottom - top, right - left, 3), np.uint8)
    x, y = slice(max(left, 0), min(right, width)), slice(max(top, 0), min(bottom, height))
    view_hwc[y.start - top : y.stop - top, x.start - left : x.stop - left] = frame_hwc[y, x]
    return view_hwc


_open: list[Any] = []


@cache
def load(max_hands: int, detection: float, presence: float) -> Any:
    """The landmarker with these options, one for each process.

    Raises:
        RunError: MediaPipe does not load.
    """
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
    landmarker = vision.HandLandmarker.create_from_options(options)
    if not _open:
        # A landmarker closes itself on a thread pool. `atexit` runs when pools have ended, and
        # `__del__` when modules are gone: both print an exception.
        threading._register_atexit(close)  # type: ignore[attr-defined]
    _open.append(landmarker)
    return landmarker


def close() -> None:
    """Close the landmarkers of this process; `load` makes new ones."""
    load.cache_clear()
    while _open:
        _open.pop().close()


def _to_picture(
    xyz: npt.NDArray[np.float64], window: Window, width: int, height: int
) -> npt.NDArray[np.float64]:
    """Points relative to a window, [21, 3], as points relative to the picture."""
    left, top, right, bottom = window
    scale_x, scale_y = (right - left) / width, (bottom - top) / height
    # z has the unit of x: the picture's width.
    return xyz * (scale_x, scale_y, scale_x) + (left / width, top / height, 0.0)


def _array(points: Sequence[Any]) -> npt.NDArray[np.float64]:
    return np.array([(p.x, p.y, p.z) for p in points], np.float64)


def _hand(
    frame: int, xyz: npt.NDArray[np.float64], world_xyz: npt.NDArray[np.float64], side: Any
) -> Hand:
    (left, top), (right, bottom) = xyz[:, :2].min(0), xyz[:, :2].max(0)
    return Hand(
        frame=frame,
        handedness=side.category_name,
        score=side.score,
        confidence=0.0,
        box_xyxy=[float(left), float(top), float(right), float(bottom)],
        landmarks_xyz=xyz.ravel().tolist(),
        world_xyz=world_xyz.ravel().tolist(),
    )
