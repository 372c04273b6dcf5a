"""Second detections: what they confirm, and which hands the first one missed.

The first detection, at a palm score of 0.5, is right about a clip where it shows hands in several
frames, or in none. A second one is for the others:

1. One frame with a hand is not enough: a gripper shows one in one frame of eight. The other frames
   of a clip with a *lone* hand are searched at a palm score of 0.3 for *weak* hands, which count if
   they are detected again in a window around them. If there is none, the frame is searched again
   with black around the picture and magnified at the lower corners: false hands seldom show there.
2. *Gaps*, frames without a hand in clips that have some, are searched for weak hands and in the
   same views, for hands that are cut by the picture's edges or close to the camera.
3. A still without a hand is searched for weak hands, with black around, and upside down.
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
OTHER_VIEWS = "far", "lower left", "lower right"
FAR = 0.25  # of width and height, added as black on each side
CHECK = 4.0  # side of a check's window, in hands: a palm is found by its surroundings too
SMALLEST_PX = 16.0  # side of a hand for it: less would magnify noise
SAME_PLACE = 0.5  # distance of two centres, in hands, below which they are one hand


@dataclass(frozen=True)
class DetectOptions:
    """Options of the hand detector and of its second pass."""

    max_hands: int = 2
    """Hands in a frame at most."""
    detection_confidence: float = 0.5
    """Palm scores below this are ignored, 0 to 1."""
    weak_confidence: float = 0.3
    """The same for weak hands, which need another detection to count, 0 to 1."""
    presence_confidence: float = 0.3
    """Landmark scores below this are ignored, 0 to 1."""
    gap_share: float = 0.1
    """Search frames without a hand again where at least this share of the clip's frames shows
    one, 0 to 1."""
    min_hand_px: float = 20.0
    """Hands whose longer side is below this are ignored, pixels of the decoded frame. False
    detections are mostly smaller, hands at work mostly twice as large."""


def detect(frame_hwc: npt.NDArray[np.uint8], frame: int, options: DetectOptions) -> list[Hand]:
    """Hands in a frame that are large enough, with a confidence of `CONFIRMED`.

    Args:
        frame_hwc: uint8 [H, W, 3] RGB.
        frame: number that the hands are given.
        options: limits.
    """
    hands = _detect(frame_hwc, frame, options, WHOLE, options.detection_confidence)
    return [_with_confidence(hand, CONFIRMED) for hand in hands]


def detect_weak(
    frame_hwc: npt.NDArray[np.uint8], frame: int, options: DetectOptions, kind: str = "whole"
) -> list[Hand]:
    """Hands from `weak_confidence`, with a confidence of `CONFIRMED` if a second detection, in the
    same part of the picture or around them, shows them with `detection_confidence`; else 0.

    Args:
        frame_hwc: uint8 [H, W, 3] RGB.
        frame: number that the hands are given.
        options: limits.
        kind: `whole`, `far` (black around the picture), `turned` (upside down).
    """
    crop, score = _crop(frame_hwc, kind), options.detection_confidence
    weak = _detect(frame_hwc, frame, options, crop, options.weak_confidence)
    again = _detect(frame_hwc, frame, options, crop, score) if weak else []
    rated = []
    for hand in weak:
        confirmed = _is_among(hand, again)
        if not confirmed:
            window = _around(hand, frame_hwc), crop[1]
            confirmed = _is_among(hand, _detect(frame_hwc, frame, options, window, score))
        rated.append(_with_confidence(hand, CONFIRMED if confirmed else 0.0))
    return rated


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
        """Search a still again, which has no other frames, until it shows a hand."""
        for kind in ("whole", "far", "turned"):
            if not self.confirmed():
                self.hands[0] += detect_weak(self.frames[0], 0, self.options, kind)

    def rate(self) -> None:
        """Set confidences: 1 for hands of several frames or searches; of weak ones the share of
        frames with others."""
        sure = len(self.confirmed()) > 1 or (len(self.confirmed()) == 1 and self.is_not_lone())
        support = len(self.confirmed()) / max(len(self.hands), 4)  # few never support fully
        for hands in self.hands:
            for n, hand in enumerate(hands):
                value = (1.0 if sure else CONFIRMED) if hand["confidence"] else support
                hands[n] = _with_confidence(hand, value)

    def is_not_lone(self) -> bool:
        """Whether the hands of the only frame with some show in another search; adds weak hands."""
        (frame,) = self.confirmed()
        for other, picture_hwc in enumerate(self.frames):
            if other != frame:
                self.hands[other] += detect_weak(picture_hwc, other, self.options)
        if len(self.confirmed()) > 1:
            return True
        again = (self.detect(frame, kind) for kind in OTHER_VIEWS)
        return any(hand["confidence"] for hands in again for hand in hands)

    def fill_gaps(self) -> None:
        """Search frames without a hand again, in clips with enough hands."""
        shown = np.array([shows_hand(hands) for hands in self.hands])
        if shown.sum() < 2 or shown.mean() < self.options.gap_share:
            return
        for frame in map(int, np.flatnonzero(~shown)):
            for kind in ("whole", *OTHER_VIEWS):
                for hand in self.detect(frame, kind):
                    value = 1.0 if hand["confidence"] else float(shown.mean())
                    self.hands[frame].append(_with_confidence(hand, value))
                if shows_hand(self.hands[frame]):
                    break

    def detect(self, frame: int, kind: str) -> list[Hand]:
        picture_hwc = self.frames[frame]
        if not kind.startswith("lower"):
            return detect_weak(picture_hwc, frame, self.options, kind)
        # Magnified parts raise more false alarms.
        score, crop = self.options.detection_confidence, _crop(picture_hwc, kind)
        hands = _detect(picture_hwc, frame, self.options, crop, score)
        return [_with_confidence(hand, CONFIRMED) for hand in hands]


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
    if kind == "whole":
        return WHOLE
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
