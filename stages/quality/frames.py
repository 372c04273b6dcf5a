"""Image quality of a clip, for the thresholds of `select`: `measure_frame` and `measure_clip`.

All measures use the few frames that were decoded to detect hands, and of these the luma at one
size, `small_luma`: so a value means the same for videos of any size, and a worker that keeps a
frame for the next clip keeps 65 kB.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handloom.stages.quality import bars_and_stereo

FrameHWC = npt.NDArray[np.uint8]
LumaHW = npt.NDArray[np.uint8]

SHORT_SIDE = 192  # pixels; smaller than almost any video, and large enough to show a soft edge
CELL = 4  # pixels: averages noise of sensor and coding away, while a distant hand spans several
REBLUR = 9  # pixels over which the picture is blurred once more
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # down, right
STRONGEST_SHARE = 0.02  # share of the steps that count
MIN_STEP = 4  # levels of 255; a lower step is noise
FLAT_RANGE = 2  # levels by which coding changes one flat colour


@dataclass(frozen=True)
class FrameQuality:
    """Measures of one frame, each 0 to 1."""

    brightness: float
    """Mean luma, 0 black to 1 white."""
    contrast: float
    """Luma range without the darkest and the brightest twentieth; 0 is one flat colour."""
    sharpness: float
    """Share of the strongest edges that a further blur removes, see `sharpness`."""
    flat_share: float
    """Largest share of the picture with one luma: the background of a slide or a title."""


@dataclass(frozen=True)
class ClipQuality:
    """Measures of all frames of a clip."""

    change: float
    """Largest change of the picture, 0 to 1, see `change`."""
    picture_xyxy: tuple[float, float, float, float]
    """The picture without black bars, relative to the frame's width and height."""
    bar_share: float
    """Share of the frame that is bars, 0 to 1."""
    stereo: str
    """Layout of two eyes' images, if it is stereo: `side_by_side` or `top_bottom`."""
    stereo_score: float
    """Correlation of the two images, 0 to 1; if it is low, the clip is not stereo."""


def measure_frame(luma_hw: LumaHW) -> FrameQuality:
    """Measures of one frame, from its `small_luma`."""
    counts = level_counts(luma_hw)
    return FrameQuality(
        brightness=float(counts @ np.arange(256)) / luma_hw.size / 255,
        contrast=(level_at(counts, 0.95) - level_at(counts, 0.05)) / 255,
        sharpness=sharpness(luma_hw),
        flat_share=float(np.convolve(counts, np.ones(2 * FLAT_RANGE + 1)).max()) / luma_hw.size,
    )


def measure_clip(lumas: Sequence[LumaHW]) -> ClipQuality:
    """Measures of a clip, from the `small_luma` of one or more frames, ascending in time."""
    left, top, right, bottom = box_xyxy = bars_and_stereo.picture_box(lumas)
    kind, score = bars_and_stereo.detect_stereo(lumas, box_xyxy)
    return ClipQuality(
        change=change(lumas),
        picture_xyxy=box_xyxy,
        bar_share=1 - (right - left) * (bottom - top),
        stereo=kind,
        stereo_score=score,
    )


def small_luma(frame_hwc: FrameHWC) -> LumaHW:
    """Luma (ITU-R BT.601) of a frame of any size, resized to SHORT_SIDE; uint8 [H', W']."""
    import cv2

    luma = cv2.cvtColor(frame_hwc, cv2.COLOR_RGB2GRAY)
    scale = SHORT_SIDE / min(luma.shape)
    size = round(luma.shape[1] * scale), round(luma.shape[0] * scale)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(luma, size, interpolation=how), np.uint8)


def level_counts(levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Histogram of levels, int64 [256]."""
    import cv2

    # A sixth of the time of numpy's bincount, which widens each level to eight bytes first.
    counts = cv2.calcHist([np.ascontiguousarray(levels)], [0], None, [256], [0, 256])
    return np.asarray(counts, np.int64).ravel()


def level_at(counts: npt.NDArray[np.int64], share: float) -> int:
    """The quantile of a histogram: the lowest level that a share of the pixels does not exceed."""
    summed = counts.cumsum()
    return int(np.searchsorted(summed, share * summed[-1]))


def sharpness(luma_hw: LumaHW) -> float:
    """Share of a picture's strongest steps (edges between pixels) that a further blur removes.

    A sharp edge loses most of its height, an edge wider than the blur almost none. After Crete et
    al., "The blur effect" (2007), but only over the strongest fiftieth of the steps: a sharp hand
    before a soft background counts as sharp, and the noise of a blurred picture does not count.
    Motion blur softens one direction only, so that the lowest of four directions counts. Directions
    without a step are left out; a picture without any has 0. Sharp footage has 0.65 to 0.9; after a
    Gaussian blur of a hundredth of its height 0.2 to 0.38, after motion blur over a twentieth 0.15
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

    def shifted(by: int) -> LumaHW:
        top, left = reach + by * down, reach + by * right
        return luma_hw[top : top + height - 2 * reach, left : left + width - 2 * reach]

    steps = np.asarray(cv2.absdiff(shifted(1), shifted(0)), np.uint8)
    is_strong = steps >= max(level_at(level_counts(steps), 1 - STRONGEST_SHARE), MIN_STEP)
    if is_strong.sum() < 50:
        return None
    # Step between neighbours of the blurred picture: their two means share all but two pixels.
    blurred_steps = cv2.absdiff(shifted(reach), shifted(1 - reach))[is_strong] / REBLUR
    kept = np.minimum(blurred_steps, steps[is_strong]).sum()
    return float(1 - kept / steps[is_strong].sum())


def change(lumas: Sequence[LumaHW]) -> float:
    """Change of the most changing 0.2 % of the picture over all frames, 0 to 1.

    The change of a cell of 4 by 4 pixels is its largest minus its smallest mean over all frames.
    Objects of a twentieth of the picture's height count; noise averages out within a cell.

    Args:
        lumas: at least one, uint8 [H, W] of `small_luma`.
    """
    import cv2

    height, width = lumas[0].shape
    grid = width // CELL, height // CELL
    cells = np.stack([cv2.resize(luma, grid, interpolation=cv2.INTER_AREA) for luma in lumas])
    ranges = np.ptp(cells, axis=0).ravel()
    rank = max(1, round(ranges.size * 0.002))
    return float(np.partition(ranges, -rank)[-rank] / 255)
