"""A second look at a clip's frames: hands that the first look missed, and how far to trust each.

Looks are spent only where they can change what is known of the clip:

1. *Doubtful* hands, in clips few of whose frames show one, are looked for again at a higher score,
   then in a window around them. Hands are found again, most other things are not.
2. *Gaps*, frames without a hand in clips that have some, are looked at again with black around the
   picture, for hands cut by its edges or close to the camera.
3. *Blind looks*, a few, are all that a clip without any hand gets where few frames were looked at:
   with black around, then at the lower left and right, magnified; a still upside down instead. What
   they find is checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handloom.stages.hands.landmarker import Window, find_hands
from handloom.stages.hands.rows import CONFIDENT, Hand

Look = tuple[Window | None, bool]
"""What is looked at (None is the whole picture), and whether upside down."""

CLEAR_NO = 8  # looks without a hand, first and blind ones, after which there is none
NEVER = 2.0  # a `gap_share` that no clip reaches
FAR = 0.25  # of width and height, added as black on each side
CHECK = 4.0  # side of a check's window, in hands: a palm is found by its surroundings too
SMALLEST_PX = 16.0  # side of a hand for it: less would magnify noise
SAME_PLACE = 0.5  # distance of two centres, in hands, below which they are one hand


@dataclass(frozen=True)
class LookOptions:
    """How hands are looked for."""

    max_hands: int = 2
    """Hands in a frame at most."""
    detection_confidence: float = 0.3
    """Palm detection score from which a palm is taken down."""
    check_confidence: float = 0.5
    """Palm detection score that a doubtful hand has to reach when it is looked for again."""
    presence_confidence: float = 0.3
    """Landmark model's score from which a hand counts."""
    gap_share: float = 1 / 3
    """Share of frames with trusted hands from which a clip's other frames are looked at again."""
    blind_looks: int = 3
    """Looks at most spent on a clip without any trusted hand, 0 to 3; a still gets two."""
    check_lone: bool = True
    """Look again for a hand that one frame of four or more shows; `select` takes it for none."""
    min_hand_px: float = 20.0
    """Longer side, in the decoded frame, from which a hand counts. What is wrongly taken for a hand
    is mostly smaller, hands at work are mostly twice as large."""


def first_look(frame_hwc: npt.NDArray[np.uint8], frame: int, options: LookOptions) -> list[Hand]:
    """Hands in a whole picture, as `look_again` wants them: uint8 [H, W, 3] RGB."""
    return _large(frame_hwc, options, None, False, options.detection_confidence, frame)


def _large(
    frame_hwc: npt.NDArray[np.uint8],
    options: LookOptions,
    window: Window | None,
    half_turn: bool,
    confidence: float,
    frame: int,
) -> list[Hand]:
    """Hands that are found and not too small."""
    count, presence = options.max_hands, options.presence_confidence
    hands = find_hands(frame_hwc, frame, count, confidence, presence, window, half_turn)
    height, width = frame_hwc.shape[:2]
    return [hand for hand in hands if _side_px(hand, width, height) >= options.min_hand_px]


def _side_px(hand: Hand, width: int, height: int) -> float:
    left, top, right, bottom = hand["box_xyxy"]
    return max((right - left) * width, (bottom - top) * height)


def look_again(
    frames: Sequence[npt.NDArray[np.uint8]], found: Sequence[Sequence[Hand]], options: LookOptions
) -> list[list[Hand]]:
    """Rate the hands of a clip, and look again where some may have been missed.

    Args:
        frames: uint8 [H, W, 3] RGB, in order of time; any number, any distance.
        found: hands of each frame, of `first_look`; their `frame` is its position in `frames`.
        options: how to look.

    Returns:
        The hands of each frame with `trust`: those given, in their order, then new ones.
    """
    clip = _Clip(frames, [list(hands) for hands in found], options)
    clip.rate()
    if frames and not any(map(shows_hand, clip.hands)):
        clip.look_blindly()
    clip.fill_gaps()
    return clip.hands


def shows_hand(hands: Sequence[Hand]) -> bool:
    """Whether a frame shows a hand: one of its hands is trusted."""
    return any(hand["confidence"] >= CONFIDENT for hand in hands)


@dataclass
class _Clip:
    frames: Sequence[npt.NDArray[np.uint8]]
    hands: list[list[Hand]]
    options: LookOptions

    def rate(self) -> None:
        """Trust what the first look found by the support of other frames, or by looking again."""
        support = self.support()
        lone = support == 0 and len(self.hands) > 3
        unchecked = support >= CONFIDENT or (lone and not self.options.check_lone)
        for frame, hands in enumerate(self.hands):
            self.hands[frame] = [
                _with_confidence(hand, support)
                if unchecked
                else self.checked(hand, (None, False), (self.around(frame, hand, CHECK), False))
                for hand in hands
            ]

    def support(self) -> float:
        """Share of a frame's fellows with hands; fewer than three never support in full."""
        with_hands = sum(bool(hands) for hands in self.hands)
        return max(with_hands - 1, 0) / max(len(self.hands) - 1, 3)

    def checked(self, hand: Hand, *looks: Look) -> Hand:
        """The hand, trusted if one of the looks finds it again."""
        seen = (self.look(hand["frame"], look, self.options.check_confidence) for look in looks)
        again = any(_same_place(hand, other) for others in seen for other in others)
        return _with_confidence(hand, float(again))

    def look_blindly(self) -> None:
        """Spend a few looks on frames spread over the clip, until one finds a hand."""
        # Magnified parts find more things that are no hands; a still has nothing to outvote them.
        kinds = ["far", "lower left", "lower right"] if len(self.frames) > 1 else ["far", "turned"]
        spare = max(CLEAR_NO - len(self.frames), 0)
        kinds = kinds[: min(self.options.blind_looks, spare)]
        for turn, kind in enumerate(kinds):
            frame = int((turn + 0.5) * len(self.frames) / len(kinds))
            look, magnified = self.blind_look(frame, kind)
            if self.found_anew(frame, look, 0.0, magnified):
                return

    def blind_look(self, frame: int, kind: str) -> tuple[Look, bool]:
        """Where a blind look goes, and whether it magnifies."""
        if kind == "far":
            return (self.far(frame), False), False
        if kind == "turned":
            return (None, True), False
        return (self.lower(frame, 0.0 if kind == "lower left" else 0.4), False), True

    def fill_gaps(self) -> None:
        """Look again at frames without a trusted hand, in clips with enough of them."""
        sure = np.array([shows_hand(hands) for hands in self.hands])
        if not sure.any() or sure.mean() < self.options.gap_share:
            return
        for frame in map(int, np.flatnonzero(~sure)):
            self.found_anew(frame, (self.far(frame), False), float(sure.mean()))

    def found_anew(self, frame: int, look: Look, support: float, magnified: bool = False) -> bool:
        """Whether one more look at a frame finds a hand to trust."""
        options = self.options
        confidence = options.check_confidence if magnified else options.detection_confidence
        for hand in self.look(frame, look, confidence):
            closer = self.around(frame, hand, CHECK), look[1]
            sure = support >= CONFIDENT
            rated = _with_confidence(hand, support) if sure else self.checked(hand, closer)
            self.hands[frame].append(rated)
        return shows_hand(self.hands[frame])

    def look(self, frame: int, look: Look, confidence: float) -> list[Hand]:
        return _large(self.frames[frame], self.options, *look, confidence, frame)

    def far(self, frame: int) -> Window:
        """The picture with black around it."""
        height, width = self.frames[frame].shape[:2]
        x, y = round(FAR * width), round(FAR * height)
        return -x, -y, width + x, height + y

    def lower(self, frame: int, left: float) -> Window:
        """Three fifths of the lower part, where hands of a first person come in."""
        height, width = self.frames[frame].shape[:2]
        return round(left * width), round(0.4 * height), round((left + 0.6) * width), height

    def around(self, frame: int, hand: Hand, hands_wide: float) -> Window:
        """A square of a frame around a hand's place, cut at the picture's edges."""
        height, width = self.frames[frame].shape[:2]
        left, top, right, bottom = np.array(hand["box_xyxy"]) * (width, height, width, height)
        half = hands_wide * max(right - left, bottom - top, SMALLEST_PX) / 2
        # A hand may be guessed to lie beyond the edge; some picture is left all the same.
        x, y = np.clip((left + right) / 2, 0, width), np.clip((top + bottom) / 2, 0, height)
        return (
            int(max(x - half, 0)),
            int(max(y - half, 0)),
            int(min(np.ceil(x + half), width)),
            int(min(np.ceil(y + half), height)),
        )


def _with_confidence(hand: Hand, confidence: float) -> Hand:
    return {**hand, "confidence": confidence}


def _same_place(one: Hand, other: Hand) -> bool:
    a, b = np.array(one["box_xyxy"]).reshape(2, 2), np.array(other["box_xyxy"]).reshape(2, 2)
    size = np.maximum(a[1] - a[0], b[1] - b[0]).max()
    return bool(np.abs(a.mean(0) - b.mean(0)).max() < SAME_PLACE * size)
