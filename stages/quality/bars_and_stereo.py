"""Layout of a video's frames: `picture_box` finds black bars, `detect_stereo` two eyes' images."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

LumaHW = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)

BLACK = 30  # of 255: bars reach 16 where the range of levels was mistaken, and coding adds noise
ABOVE_RIM = 12  # levels above the rim that count as picture, if the rim is darker than BLACK
DARK = 0.1  # lines of a bar are lit over at most this share of their length
LIT = 0.5  # the first lines of the picture are lit over at least this share, in some frame
MAX_TEXT = 0.1  # largest height of text or logos in a bar, as a share of the frame
MIN_BAR = 0.02  # a narrower bar, as a share of the frame, is the edge of a sensor or of a coder

EYE_SIZE = 96  # pixels: the image of each eye is resized to a square of this size
BLOCK_SIZE = 24  # pixels; blocks are compared one by one
# Pixels to either side. The disparity of a hand 40 cm from eyes 6 cm apart, at a field of view of
# 90 degrees, is 7.
REACH = 12
DETAIL_BLUR = 13  # pixels over which the means along rows and columns are taken
MIN_TEXTURE = 2.0  # levels of 255; blocks with a smaller deviation are not compared
MIN_BLOCKS = 4  # textured blocks of the 16 of a frame, on average: a logo is not enough
STEREO_FRAMES = 3  # frames, spread over the clip, that decide
MAYBE_STEREO = 0.25  # if the halves of the middle frame correlate less, no other frame is compared


def picture_box(lumas: Sequence[LumaHW]) -> Box:
    """The box of the picture within black bars: x0, y0, x1, y1 relative to the frame.

    A bar is dark in every frame, except for a line of text, and ends in a straight line at which
    most of the picture's width lights up in some frame: a dark scene has no such line. Bars come in
    pairs: a black wall above a bright table is not one. The line itself, soft by a pixel, is left
    out.

    Args:
        lumas: at least one, uint8 [H, W], all of one size, ascending in time.
    """
    lit = [luma > min(BLACK, _rim_level(luma) + ABOVE_RIM) for luma in lumas]
    height, width = lumas[0].shape
    top, bottom, left, right = 0, height, 0, width
    for _ in range(2):  # with bars all around, the second pair is found once the first is cut off
        columns = np.stack([x[top:bottom, left:right].mean(axis=0) for x in lit])
        first, last = _between_bars(columns, MIN_BAR * width)
        left, right = left + first, left + last
        rows = np.stack([x[top:bottom, left:right].mean(axis=1) for x in lit])
        first, last = _between_bars(rows, MIN_BAR * height)
        top, bottom = top + first, top + last
    return left / width, top / height, right / width, bottom / height


def _rim_level(luma_hw: LumaHW) -> float:
    """Luma of the darker pair of the frame's outermost lines: the bars', if there are any."""
    rows, columns = luma_hw[[0, -1]], luma_hw[:, [0, -1]]
    return float(min(np.median(rows), np.median(columns)))


def _between_bars(lit_tn: npt.NDArray[np.float64], thin: float) -> tuple[int, int]:
    """First line of the picture and the one after its last, from lit shares of frames and lines."""
    max_lit_n = lit_tn.max(axis=0)
    before, behind = _bar_width(max_lit_n), _bar_width(max_lit_n[::-1])
    if min(before, behind) < thin:
        return 0, max_lit_n.size
    return before + 1, max_lit_n.size - behind - 1


def _bar_width(max_lit_n: npt.NDArray[np.float64]) -> int:
    """Width of the bar at the beginning in lines, 0 without a bar."""
    dark = np.flatnonzero(max_lit_n[: max_lit_n.size // 2] <= DARK)
    if not dark.size or dark[0] > 1:
        return 0
    gaps = np.flatnonzero(np.diff(dark) > MAX_TEXT * max_lit_n.size)
    count = int(dark[gaps[0] if gaps.size else -1]) + 1
    # Three lines: where the video was scaled the border is soft by a pixel or two.
    is_straight = max_lit_n[count : count + 3].max() >= LIT
    is_dark = np.count_nonzero(dark < count) > count / 2
    return count if is_straight and is_dark else 0


def detect_stereo(lumas: Sequence[LumaHW], box_xyxy: Box = WHOLE) -> tuple[str, float]:
    """Whether the frames hold two images of the same scene, one for each eye.

    Each block of one half is searched in the other half at about the same place: shifted sideways
    by up to an eighth of the width but not mirrored, which distinguishes a second eye from a
    symmetric scene.

    Args:
        lumas: at least one, uint8 [H, W], all of one size, ascending in time.
        box_xyxy: box of the picture within the frames.

    Returns:
        `side_by_side` or `top_bottom`, whichever is likelier, and the mean normalised correlation
        of the textured blocks at their best places, 0 to 1.
    """
    middle = _crop(lumas[len(lumas) // 2], box_xyxy)
    kind, score = _score_layouts([middle])
    if score < MAYBE_STEREO:
        return kind, score
    chosen = np.linspace(0, len(lumas) - 1, min(STEREO_FRAMES, len(lumas))).astype(int)
    return _score_layouts([_crop(lumas[i], box_xyxy) for i in chosen])


def _score_layouts(pictures: list[LumaHW]) -> tuple[str, float]:
    scores = {
        "side_by_side": _mean_correlation([np.array_split(p, 2, axis=1) for p in pictures]),
        "top_bottom": _mean_correlation([np.array_split(p, 2, axis=0) for p in pictures]),
    }
    kind = max(scores, key=lambda name: scores[name])
    return kind, scores[kind]


def _crop(luma_hw: LumaHW, box_xyxy: Box) -> LumaHW:
    height, width = luma_hw.shape
    x0, y0, x1, y1 = box_xyxy
    return luma_hw[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)]


def _mean_correlation(pairs: list[list[LumaHW]]) -> float:
    scores = [score for one, other in pairs for score in _block_scores(one, other)]
    return max(0.0, float(np.mean(scores))) if len(scores) >= MIN_BLOCKS * len(pairs) else 0.0


def _block_scores(one_hw: LumaHW, other_hw: LumaHW) -> Iterator[float]:
    import cv2

    one, other = _detail(one_hw), _detail(other_hw)
    padded = cv2.copyMakeBorder(other, 1, 1, REACH, REACH, cv2.BORDER_REPLICATE)
    for top, bottom in pairwise(range(0, EYE_SIZE + 1, BLOCK_SIZE)):
        for left, right in pairwise(range(0, EYE_SIZE + 1, BLOCK_SIZE)):
            block = one[top:bottom, left:right]
            if block.std() < MIN_TEXTURE:
                continue
            near = padded[top : bottom + 2, left : right + 2 * REACH]
            yield float(cv2.matchTemplate(near, block, cv2.TM_CCOEFF_NORMED).max())


def _detail(luma_hw: LumaHW) -> npt.NDArray[np.float32]:
    """Luma minus its means along rows and columns: a table's edge would match anywhere along it."""
    import cv2

    square = cv2.resize(luma_hw, (EYE_SIZE, EYE_SIZE), interpolation=cv2.INTER_AREA)
    luma = square.astype(np.float32)
    level = luma - cv2.blur(luma, (DETAIL_BLUR, 1))
    return np.asarray(level - cv2.blur(level, (1, DETAIL_BLUR)), np.float32)
