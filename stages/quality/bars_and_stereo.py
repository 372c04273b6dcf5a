"""How a video lays its picture out: black bars around it, or one picture for each eye."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

LumaHW = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)

BLACK = 30  # of 255: bars reach 16 where the range of levels was mistaken, and coding adds noise
ABOVE = 12  # levels above the frame's rim that are picture, where the rim is darker than that
DARK = 0.1  # a line of a bar is lit over less than this share of its length
LIT = 0.5  # and the first lines of the picture over more than this, in some frame
TEXT = 0.1  # of the frame's height: subtitles and logos in a bar are no larger
THIN = 0.02  # a bar narrower than this share of the frame is the edge of a sensor or of a coder

EYE = 96  # pixels: each eye's picture is brought to a square of this size
BLOCK = 24  # pixels, compared as one
REACH = (
    12  # pixels to either side: a hand 40 cm from eyes 6 cm apart, seen at 90 degrees, is 7 away
)
AROUND = 13  # pixels over which such a mean is taken
TEXTURE = 2.0  # levels of 255: a block with less deviation has nothing to compare
ENOUGH = 4  # textured blocks of the 16 of a frame, on average: a logo says nothing about halves
LOOKS = 3  # frames, spread over the clip, are enough to tell
UNLIKE = 0.25  # where the halves of one frame are less alike, no other frame is looked at


def picture_box(lumas: Sequence[LumaHW]) -> Box:
    """Where the picture is within black bars, as relative x0, y0, x1, y1.

    A bar is dark in every frame, save for a line of text, and ends in a straight line at which the
    greater part of the picture's width lights up in some frame: a dark scene has no such line. Bars
    come in pairs: a black wall above a bright table is none. The line itself, soft by a pixel, is
    left outside.

    Args:
        lumas: at least one, uint8 [H, W], all of one size, ascending in time.
    """
    lit = [luma > min(BLACK, _rim_level(luma) + ABOVE) for luma in lumas]
    height, width = lumas[0].shape
    top, bottom, left, right = 0, height, 0, width
    for _ in range(2):  # bars all around: the second pair shows once the first is cut off
        columns = np.stack([x[top:bottom, left:right].mean(axis=0) for x in lit])
        first, last = _between_bars(columns, THIN * width)
        left, right = left + first, left + last
        rows = np.stack([x[top:bottom, left:right].mean(axis=1) for x in lit])
        first, last = _between_bars(rows, THIN * height)
        top, bottom = top + first, top + last
    return left / width, top / height, right / width, bottom / height


def _rim_level(luma_hw: LumaHW) -> float:
    """Luma of the darker pair of the frame's outermost lines: the bars', where there are any."""
    rows, columns = luma_hw[[0, -1]], luma_hw[:, [0, -1]]
    return float(min(np.median(rows), np.median(columns)))


def _between_bars(lit_tn: npt.NDArray[np.float64], thin: float) -> tuple[int, int]:
    """First line of the picture and the one after its last; lit_tn: lit share of each line."""
    most_n = lit_tn.max(axis=0)
    before, behind = _bar(most_n), _bar(most_n[::-1])
    if min(before, behind) < thin:
        return 0, most_n.size
    return before + 1, most_n.size - behind - 1


def _bar(most_n: npt.NDArray[np.float64]) -> int:
    """How many lines at the beginning are a bar, 0 if none."""
    dark = np.flatnonzero(most_n[: most_n.size // 2] <= DARK)
    if not dark.size or dark[0] > 1:
        return 0
    gaps = np.flatnonzero(np.diff(dark) > TEXT * most_n.size)
    count = int(dark[gaps[0] if gaps.size else -1]) + 1
    straight = most_n[count : count + 3].max() >= LIT  # soft by a pixel or two where it was scaled
    mostly_dark = np.count_nonzero(dark < count) > count / 2
    return count if straight and mostly_dark else 0


def stereo(lumas: Sequence[LumaHW], box_xyxy: Box = WHOLE) -> tuple[str, float]:
    """Whether the frames hold two pictures of the same scene, one for each eye.

    Each block of one half is searched for in the other half, near the same place, as eyes see it:
    moved sideways by up to an eighth of the width, and not turned over, which tells a second eye
    from a symmetric scene.

    Args:
        lumas: at least one, uint8 [H, W], all of one size, ascending in time.
        box_xyxy: where the picture is within the frames.

    Returns:
        `side_by_side` or `top_bottom`, whichever is likelier, and the mean normalised correlation
        of the textured blocks at their best places, 0 to 1.
    """
    middle = _within(lumas[len(lumas) // 2], box_xyxy)
    kind, score = _stereo([middle])
    if score < UNLIKE:
        return kind, score
    chosen = np.linspace(0, len(lumas) - 1, min(LOOKS, len(lumas))).astype(int)
    return _stereo([_within(lumas[i], box_xyxy) for i in chosen])


def _stereo(pictures: list[LumaHW]) -> tuple[str, float]:
    scores = {
        "side_by_side": _likeness([np.array_split(p, 2, axis=1) for p in pictures]),
        "top_bottom": _likeness([np.array_split(p, 2, axis=0) for p in pictures]),
    }
    kind = max(scores, key=lambda name: scores[name])
    return kind, scores[kind]


def _within(luma_hw: LumaHW, box_xyxy: Box) -> LumaHW:
    height, width = luma_hw.shape
    x0, y0, x1, y1 = box_xyxy
    return luma_hw[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)]


def _likeness(pairs: list[list[LumaHW]]) -> float:
    found = [score for one, other in pairs for score in _block_scores(one, other)]
    return max(0.0, float(np.mean(found))) if len(found) >= ENOUGH * len(pairs) else 0.0


def _block_scores(one_hw: LumaHW, other_hw: LumaHW) -> Iterator[float]:
    import cv2

    one, other = _detail(one_hw), _detail(other_hw)
    padded = cv2.copyMakeBorder(other, 1, 1, REACH, REACH, cv2.BORDER_REPLICATE)
    for top, bottom in pairwise(range(0, EYE + 1, BLOCK)):
        for left, right in pairwise(range(0, EYE + 1, BLOCK)):
            block = one[top:bottom, left:right]
            if block.std() < TEXTURE:
                continue
            near = padded[top : bottom + 2, left : right + 2 * REACH]
            yield float(cv2.matchTemplate(near, block, cv2.TM_CCOEFF_NORMED).max())


def _detail(luma_hw: LumaHW) -> npt.NDArray[np.float32]:
    """Luma less its means along rows and columns: an edge of a table is alike all along itself."""
    import cv2

    square = cv2.resize(luma_hw, (EYE, EYE), interpolation=cv2.INTER_AREA)
    luma = square.astype(np.float32)
    level = luma - cv2.blur(luma, (AROUND, 1))
    return np.asarray(level - cv2.blur(level, (1, AROUND)), np.float32)
