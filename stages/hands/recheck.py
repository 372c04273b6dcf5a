"""Second pass over a clip's frames: hands that the first pass missed, and the confidence of each.

The detector runs again only where that can change what is known of the clip:

1. *Doubtful* hands, in clips few of whose frames show one, are checked: detected again with a
   higher palm score, then in a window around them. Most other things are not detected twice.
2. *Gaps*, frames without a hand in clips that have some, are searched with black around the
   picture, for hands cut by its edges or close to the camera.
3. *Blind searches*, a few, are all that a clip without any hand gets where few frames were searched
   before: with black around, then at the lower left and right, magnified; a still upside down
   instead. Hands that they find are checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handloom.stages.hands.landmarker import Window, detect_hands
from handloom.stages.hands.rows import CONFIDENT, Hand

Crop = tuple[Window | None, bool]
"""The part of a picture that is searched (None is all of it), and whether upside down."""
WHOLE: Crop = (None, False)

ENOUGH_MISSES = 8  # searches without a hand, blind ones included, after which there is none
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
    gap_share: float = 1 / 3
    """Search frames without a hand again where at least this share of the clip's frames shows
    one, 0 to 1."""
    blind_looks: int = 3
    """Blind searches at most in a clip without any hand, 0 to 3; a still gets two."""
    check_lone: bool = True
    """Check a hand that shows in one frame alone, of four or more; `select` rejects such clips."""
    min_hand_px: float = 20.0
    """Hands whose longer side is below this are ignored, pixels of the decoded frame. False
    detections are mostly smaller, hands at work mostly twice as large."""


def detect(
    frame_hwc: npt.NDArray[np.uint8],
    frame: int,
    options: DetectOptions,
    crop: Crop = WHOLE,
    palm_score: float | None = None,
) -> list[Hand]:
    """Hands in a frame that are large enough, with a confidence of 0.

    Args:
        frame_hwc: uint8 [H, W, 3] RGB.
        frame: number that the hands are given.
        options: limits.
        crop: the part that is searched.
        palm_score: palm scores below this are ignored; by default `detection_confidence`.
    """
    min_score = options.detection_confidence if palm_score is None else palm_score
    limits = (options.max_hands, min_score, options.presence_confidence)
    size = np.array(frame_hwc.shape[1::-1])
    hands = detect_hands(frame_hwc, frame, *limits, *crop)
    return [hand for hand in hands if (_size(hand) * size).max() >= options.min_hand_px]


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
    clip.rate()
    if frames and not any(map(shows_hand, clip.hands)):
        clip.search_blindly()
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

    def rate(self) -> None:
        """Set the confidence of the first pass's hands: by support of other frames, or a check."""
        support = self.support()
        # A hand in one frame of four or more is mostly a gripper (docs/decisions.md).
        lone = support == 0 and len(self.hands) > 3
        unchecked = support >= CONFIDENT or (lone and not self.options.check_lone)
        for hands in self.hands:
            hands[:] = [
                _with_confidence(hand, support)
                if unchecked
                else self.checked(hand, WHOLE, (self.around(hand), False))
                for hand in hands
            ]

    def support(self) -> float:
        """Share of the other frames that show hands, of three at least: few never support fully."""
        with_hands = sum(bool(hands) for hands in self.hands)
        return max(with_hands - 1, 0) / max(len(self.hands) - 1, 3)

    def checked(self, hand: Hand, *crops: Crop) -> Hand:
        """The hand with confidence 1 if it is detected again in one of the crops, else 0."""
        score = self.options.check_confidence
        passes = (self.detect(hand["frame"], crop, score) for crop in crops)
        again = any(_same_place(hand, other) for hands in passes for other in hands)
        return _with_confidence(hand, float(again))

    def search_blindly(self) -> None:
        """Search a few frames spread over the clip, until one shows a hand."""
        # Magnified parts raise more false alarms; a still has no other frames to outvote them.
        kinds = ["far", "lower left", "lower right"] if len(self.frames) > 1 else ["far", "turned"]
        spare = max(ENOUGH_MISSES - len(self.frames), 0)
        kinds = kinds[: min(self.options.blind_looks, spare)]
        for turn, kind in enumerate(kinds):
            frame = int((turn + 0.5) * len(self.frames) / len(kinds))
            if self.search(frame, kind, 0.0):
                return

    def fill_gaps(self) -> None:
        """Search frames without a hand again, in clips with enough hands."""
        sure = np.array([shows_hand(hands) for hands in self.hands])
        if not sure.any() or sure.mean() < self.options.gap_share:
            return
        for frame in map(int, np.flatnonzero(~sure)):
            self.search(frame, "far", float(sure.mean()))

    def search(self, frame: int, kind: str, support: float) -> bool:
        """Add the hands of one more detection; returns whether the frame now shows one."""
        crop = _crop(self.frames[frame], kind)
        palm_score = self.options.check_confidence if kind.startswith("lower") else None
        for hand in self.detect(frame, crop, palm_score):
            if support >= CONFIDENT:
                rated = _with_confidence(hand, support)
            else:
                rated = self.checked(hand, (self.around(hand), crop[1]))
            self.hands[frame].append(rated)
        return shows_hand(self.hands[frame])

    def detect(self, frame: int, crop: Crop, palm_score: float | None) -> list[Hand]:
        return detect(self.frames[frame], frame, self.options, crop, palm_score)

    def around(self, hand: Hand) -> Window:
        """A square around a hand's place, cut at the picture's edges."""
        height, width = self.frames[hand["frame"]].shape[:2]
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
