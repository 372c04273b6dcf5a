"""Numbers that tell whether a clip's pictures are worth keeping; `select` compares them.

All are computed from the few small frames in which hands were looked for, and of these from their
luma at one size, `small_luma`: so a number means the same whatever the size of the video, and a
worker that keeps a frame for the next clip keeps 65 kB.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handloom.stages.quality import bars_and_stereo as layout

FrameHWC = npt.NDArray[np.uint8]
LumaHW = npt.NDArray[np.uint8]

SHORT_SIDE = 192  # pixels; smaller than almost any video, and large enough to see a soft edge
CELL = 4  # pixels: averages sensor noise and coding noise away, and a distant hand spans several
REBLUR = 9  # pixels over which the picture is blurred once more
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # down, right
STRONGEST = 0.02  # share of the steps that tell
EDGE = 4  # levels of 255; a lower step is noise
NEAR = 2  # levels around a colour that coding leaves of one flat colour


@dataclass(frozen=True)
class FrameQuality:
    """What one frame looks like; all values from 0 to 1."""

    brightness: float
    """Mean luma, 0 black to 1 white."""
    contrast: float
    """Luma between the darkest and the brightest twentieth of the picture; 0 is one flat colour."""
    sharpness: float
    """How much of its strongest edges a further blur takes away, see `sharpness`."""
    flat_share: float
    """Share of the picture that has one and the same luma: the ground of a slide or a title."""


@dataclass(frozen=True)
class ClipQuality:
    """What the frames of a clip tell together."""

    change: float
    """How far the picture ever moves, 0 to 1, see `change`."""
    picture_xyxy: tuple[float, float, float, float]
    """The picture without black bars, relative to the frame's width and height."""
    bar_share: float
    """Share of the frame that is bars, 0 to 1."""
    stereo: str
    """Where the second eye's picture would be: `side_by_side` or `top_bottom`."""
    stereo_score: float
    """How alike the two pictures are, 0 to 1; `stereo` means nothing where this is low."""


def measure_frame(luma_hw: LumaHW) -> FrameQuality:
    """The numbers of one frame's `small_luma`."""
    counts = level_counts(luma_hw)
    return FrameQuality(
        brightness=float(counts @ np.arange(256)) / luma_hw.size / 255,
        contrast=(level_at(counts, 0.95) - level_at(counts, 0.05)) / 255,
        sharpness=sharpness(luma_hw),
        flat_share=float(np.convolve(counts, np.ones(2 * NEAR + 1)).max()) / luma_hw.size,
    )


def measure_clip(lumas: Sequence[LumaHW]) -> ClipQuality:
    """The numbers of a clip: the `small_luma` of at least one frame, ascending in time."""
    left, top, right, bottom = box_xyxy = layout.picture_box(lumas)
    kind, score = layout.stereo(lumas, box_xyxy)
    return ClipQuality(
        change=change(lumas),
        picture_xyxy=box_xyxy,
        bar_share=1 - (right - left) * (bottom - top),
        stereo=kind,
        stereo_score=score,
    )


def small_luma(frame_hwc: FrameHWC) -> LumaHW:
    """Luma (ITU-R BT.601) of a frame of any size at `SHORT_SIDE`, uint8 [H', W']."""
    import cv2

    luma = cv2.cvtColor(frame_hwc, cv2.COLOR_RGB2GRAY)
    scale = SHORT_SIDE / min(luma.shape)
    size = round(luma.shape[1] * scale), round(luma.shape[0] * scale)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(luma, size, interpolation=how), np.uint8)


def level_counts(levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """How many pixels have each level, int64 [256]."""
    return np.bincount(levels.ravel(), minlength=256)


def level_at(counts: npt.NDArray[np.int64], share: float) -> int:
    """The lowest level that at least this share of the pixels do not exceed."""
    summed = counts.cumsum()
    return int(np.searchsorted(summed, share * summed[-1]))


def sharpness(luma_hw: LumaHW) -> float:
    """How much of its strongest steps a picture loses when it is blurred once more, 0 to 1.

    A sharp edge loses most of its height, an edge that is wider than the blur almost none. After
    Crete et al., "The blur effect" (2007), but over the strongest fiftieth of the steps alone: a
    sharp hand before a soft ground counts as sharp, and the noise of a blurred picture as nothing.
    Blur by motion softens one direction only, so that the worst of four counts. Directions without
    a step are left out; a picture without any has 0. Sharp footage has 0.65 to 0.9; blurred by a
    Gaussian of a hundredth of its height it has 0.2 to 0.38, a twentieth smeared along a line 0.15
    to 0.4.

    Args:
        luma_hw: uint8 [H, W] of `small_luma`.
    """
    scores = [_step_loss(luma_hw, down, right) for down, right in DIRECTIONS]
    return min((score for score in scores if score is not None), default=0.0)


def _step_loss(luma_hw: LumaHW, down: int, right: int) -> float | None:
    import cv2

    height, width = luma_hw.shape
    reach = REBLUR // 2 + 1

    def moved(by: int) -> LumaHW:
        top, left = reach + by * down, reach + by * right
        return luma_hw[top : top + height - 2 * reach, left : left + width - 2 * reach]

    steps = np.asarray(cv2.absdiff(moved(1), moved(0)), np.uint8)
    strong = steps >= max(level_at(level_counts(steps), 1 - STRONGEST), EDGE)
    if strong.sum() < 50:
        return None
    # The step between two neighbours of the blurred picture: their means share all but two pixels.
    left_over = cv2.absdiff(moved(reach), moved(1 - reach))[strong] / REBLUR
    kept = np.minimum(left_over, steps[strong]).sum()
    return float(1 - kept / steps[strong].sum())


def change(lumas: Sequence[LumaHW]) -> float:
    """How far the picture ever moves: by this much the most changing 0.2 % of it vary, 0 to 1.

    The picture is cut into cells of 4 by 4 pixels; a cell varies by its largest less its smallest
    mean over all frames. What is a twentieth of the picture's height in size is seen; noise
    averages out within a cell.

    Args:
        lumas: at least one, uint8 [H, W] of `small_luma`.
    """
    import cv2

    height, width = lumas[0].shape
    size = width // CELL, height // CELL
    cells = np.stack([cv2.resize(luma, size, interpolation=cv2.INTER_AREA) for luma in lumas])
    ranges = np.ptp(cells, axis=0).ravel()
    rank = max(1, round(ranges.size * 0.002))
    return float(np.partition(ranges, -rank)[-rank] / 255)
