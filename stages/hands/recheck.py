"""Second detections: which hands of the first pass are confirmed, and which hands it missed.

A palm score of 0.3 finds hands at the picture's edge and in the dark, and a drawer handle too. So

1. A hand *counts* if it is detected again in the same picture, with a palm score of 0.5: in the
   whole, or in a window around it. Others have to be in a clip that shows hands anyway.
2. One frame with a hand is not enough: a gripper shows one in one frame of eight. The hand of a
   *lone* frame is detected once more with black around the picture, where false ones seldom show.
3. *Gaps*, frames without a hand in clips that have some, are searched for hands that are cut by the
   picture's edges or close to the camera: with black around, then magnified at the lower corners.
4. A still without a hand is searched with black around, then upside down.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handloom.stages.hands.landmarker import Window, detect_hands
from handloom.stages.hands.rows import CONFIDENT, CONFIRMED, Hand

Crop = tuple[Window | None, bool]
"""The part of a picture that is searched (None is all of it), and whether upside down."""
WHOLE: Crop = (None, False)

NEVER = 2.0  # a `gap_share` that no clip reaches
FAR = 0.25  # of width and height, added as black on each side
CHECK = 4.0  # side of a check's window, in hands: a palm is found by its surroundings too
SMALLEST_PX = 16.0  # side of a hand for it: less would magnify noise
SAME_PLACE = 0.5  # distance of two centres, in hands, below which they are one hand


@dataclass(frozen=True)
class DetectOptions:
    """Options of the hand detector and of its second pass."""

    max_hands: int = 2
    """Hands in a frame at most."""
    detection_confidence: float = 0.3
    """Palm scores below this are ignored, 0 to 1."""
    check_confidence: float = 0.5
    """Palm score that a doubtful hand must reach in a second detection, 0 to 1."""
    presence_confidence: float = 0.3
    """Landmark scores below this are ignored, 0 to 1."""
    gap_share: float = 0.25
    """Search frames without a hand again where at least this share of the clip's frames shows
    one, 0 to 1."""
    min_hand_px: float = 20.0
    """Hands whose longer side is below this are ignored, pixels of the decoded frame. False
    detections are mostly smaller, hands at work mostly twice as large."""


def detect(
    frame_hwc: npt.NDArray[np.uint8], frame: int, options: DetectOptions, crop: Crop = WHOLE
) -> list[Hand]:
    """Hands in a frame, with confidence `CONFIRMED` if they are detected again, else 0.

    Args:
        frame_hwc: uint8 [H, W, 3] RGB.
        frame: number that the hands are given.
        options: limits.
        crop: the part that is searched.
    """
    found = _detect(frame_hwc, frame, options, crop, options.detection_confidence)
    if not found:
        return []
    again = _detect(frame_hwc, frame, options, crop, options.check_confidence)
    rated = []
    for hand in found:
        confirmed = _is_among(hand, again)
        if not confirmed:
            around = _around(hand, frame_hwc), crop[1]
            nearby = _detect(frame_hwc, frame, options, around, options.check_confidence)
            confirmed = _is_among(hand, nearby)
        rated.append(_with_confidence(hand, CONFIRMED if confirmed else 0.0))
    return rated


def far(frame_hwc: npt.NDArray[np.uint8]) -> Crop:
    """The whole picture with black around it."""
    return _crop(frame_hwc, "far")


def recheck(
    frames: Sequence[npt.NDArray[np.uint8]],
    detected: Sequence[Sequence[Hand]],
    options: DetectOptions,
) -> list[list[Hand]]:
    """Rate the hands of a clip, and search again where some may have been missed.

    Args:
        frames: uint8 [H, W, 3] RGB, in order of time; any number, any distance.
        detected: hands of each frame, from `detect`; their `frame` is its position in `frames`.
        options: what the second pass may do.

    Returns:
        The hands of each frame with their `confidence`: those detected before, then new ones.
    """
    clip = _Clip(frames, [list(hands) for hands in detected], options)
    if len(frames) == 1:
        clip.search_still()
    clip.rate()
    clip.fill_gaps()
    return clip.hands


def shows_hand(hands: Sequence[Hand]) -> bool:
    """Whether one of a frame's hands reaches `CONFIDENT`."""
    return any(hand["confidence"] >= CONFIDENT for hand in hands)


@dataclass
class _Clip:
    frames: Sequence[npt.NDArray[np.uint8]]
    hands: list[list[Hand]]
    options: DetectOptions

    def confirmed(self) -> list[int]:
        """The frames with a confirmed hand."""
        return [n for n, hands in enumerate(self.hands) if _is_confirmed(hands)]

    def search_still(self) -> None:
        """Search a still again, which has no other frames, until it shows a confirmed hand."""
        for kind in ("far", "turned"):
            if not self.confirmed():
                self.hands[0] += self.detect(0, kind)

    def rate(self) -> None:
        """Confidence 1 for confirmed hands of two frames or more, or of two searches; weak hands
        get the share of frames with confirmed ones."""
        confirmed = self.confirmed()
        sure = len(confirmed) > 1 or any(map(self.shows_again, confirmed))
        support = len(confirmed) / max(len(self.hands), 4)  # few frames never support fully
        for hands in self.hands:
            for n, hand in enumerate(hands):
                value = (1.0 if sure else CONFIRMED) if hand["confidence"] else support
                hands[n] = _with_confidence(hand, value)

    def shows_again(self, frame: int) -> bool:
        """Whether a confirmed hand of a frame is confirmed with black around, too."""
        hands = [hand for hand in self.hands[frame] if hand["confidence"]]
        found = self.detect(frame, "far")
        again = [hand for hand in found if hand["confidence"]]
        return any(_is_among(hand, again) and hand not in again for hand in hands)

    def fill_gaps(self) -> None:
        """Search frames without a hand again, in clips with enough hands."""
        shown = np.array([shows_hand(hands) for hands in self.hands])
        if shown.sum() < 2 or shown.mean() < self.options.gap_share:
            return
        for frame in map(int, np.flatnonzero(~shown)):
            for kind in ("far", "lower left", "lower right"):
                for hand in self.detect(frame, kind):
                    value = 1.0 if hand["confidence"] else float(shown.mean())
                    self.hands[frame].append(_with_confidence(hand, value))
                if shows_hand(self.hands[frame]):
                    break

    def detect(self, frame: int, kind: str) -> list[Hand]:
        picture_hwc = self.frames[frame]
        # Magnified parts raise more false alarms.
        if kind.startswith("lower"):
            score = self.options.check_confidence
            hands = _detect(picture_hwc, frame, self.options, _crop(picture_hwc, kind), score)
            return [_with_confidence(hand, CONFIRMED) for hand in hands]
        return detect(picture_hwc, frame, self.options, _crop(picture_hwc, kind))


def _detect(
    frame_hwc: npt.NDArray[np.uint8],
    frame: int,
    options: DetectOptions,
    crop: Crop,
    palm_score: float,
) -> list[Hand]:
    """Hands of one detection that are large enough, with a confidence of 0."""
    limits = (options.max_hands, palm_score, options.presence_confidence)
    size = np.array(frame_hwc.shape[1::-1])
    hands = detect_hands(frame_hwc, frame, *limits, *crop)
    return [hand for hand in hands if (_size(hand) * size).max() >= options.min_hand_px]


def _around(hand: Hand, frame_hwc: npt.NDArray[np.uint8]) -> Window:
    """A square around a hand's place, cut at the picture's edges."""
    height, width = frame_hwc.shape[:2]
    left, top, right, bottom = np.array(hand["box_xyxy"]) * (width, height, width, height)
    half = CHECK * max(right - left, bottom - top, SMALLEST_PX) / 2
    # MediaPipe may place a hand beyond the edge; some picture is left all the same.
    x, y = np.clip((left + right) / 2, 0, width), np.clip((top + bottom) / 2, 0, height)
    return (
        int(max(x - half, 0)),
        int(max(y - half, 0)),
        int(min(np.ceil(x + half), width)),
        int(min(np.ceil(y + half), height)),
    )


def _crop(frame_hwc: npt.NDArray[np.uint8], kind: str) -> Crop:
    """`far` has black around it; `lower left` and `right` are where first-person hands come in."""
    height, width = frame_hwc.shape[:2]
    if kind == "turned":
        return None, True
    if kind == "far":
        x, y = round(FAR * width), round(FAR * height)
        return (-x, -y, width + x, height + y), False
    left = 0.0 if kind == "lower left" else 0.4
    return (round(left * width), round(0.4 * height), round((left + 0.6) * width), height), False


def _is_confirmed(hands: Sequence[Hand]) -> bool:
    return any(hand["confidence"] for hand in hands)


def _is_among(hand: Hand, others: Sequence[Hand]) -> bool:
    """Whether one of the others is at a hand's place."""
    return any(_same_place(hand, other) for other in others)


def _with_confidence(hand: Hand, confidence: float) -> Hand:
    return {**hand, "confidence": confidence}


def _size(hand: Hand) -> npt.NDArray[np.float64]:
    """Width and height relative to the picture's."""
    left, top, right, bottom = hand["box_xyxy"]
    return np.array([right - left, bottom - top])


def _same_place(one: Hand, other: Hand) -> bool:
    centres = [np.array(hand["box_xyxy"]).reshape(2, 2).mean(0) for hand in (one, other)]
    size = np.maximum(_size(one), _size(other)).max()
    return bool(np.abs(centres[0] - centres[1]).max() < SAME_PLACE * size)
