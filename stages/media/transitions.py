"""Transitions between two shots in consecutive frames: cuts, dissolves and fades.

A transition is told from a moving camera by what predicts a frame. Where the camera moves, the
frame before predicts it once the motion is compensated (dense optical flow), and the mean of the
frames before and after does not. In a dissolve or fade it is the other way round. At a cut, the
frame before predicts it far worse than at any frame around. In each case both sides must show
different pictures: a flash or a change of exposure is no transition.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

LumaHW = npt.NDArray[np.uint8]
"""A frame of `SIZE`."""
Values = npt.NDArray[np.float64]

SIZE = 64, 36  # width and height, pixels, whatever the frame's shape
BORDER = 7, 12  # rows and columns by which two frames may be displaced when they are compared
SAME_BRIGHTNESS = 20.0  # of luma: flat frames that differ by less are similar
FLAT = 6.0  # standard deviation of luma below which a frame shows one brightness alone

CUT_AROUND_S = 0.25  # a cut is the only one within this time: a burst is a pan or a flash
APART_S = 0.1  # between the frames that a blend is measured on, and at a gradual change's sides
SMOOTH_S = 0.07
NO_BLEND = -0.5  # about what `_blend_share` is where a camera moves


@dataclass(frozen=True)
class TransitionOptions:
    """Thresholds; differences are mean absolute ones of luma, of 255."""

    cut_difference: float = 12.0
    """What motion leaves unexplained at a cut, at least."""
    cut_ratio: float = 2.5
    """And how many times what it leaves at any frame around."""
    cut_similarity: float = 0.7
    """Correlation of the pictures before and after a cut, at most."""
    blend_difference: float = 4.0
    """Difference of two frames 0.2 s apart within a dissolve or fade, at least."""
    blend_share: float = 0.15
    """By how much of it a blend predicts the frame between them better than motion does, at the
    clearest frame of the transition."""
    blend_rest: float = -0.1
    """And at its other frames."""
    blend_similarity: float = 0.65
    """Correlation of the pictures before and after a gradual transition, at most; one through a
    single brightness, black or white, needs none."""
    sides_difference: float = 12.0
    """Difference of these two, at least."""


@dataclass(frozen=True)
class Transition:
    """Where one shot ends and the next begins; for a cut both are its first frame."""

    start_s: float
    end_s: float


def luma(frame_hwc: npt.NDArray[np.uint8]) -> LumaHW:
    """A frame [H, W, 3], RGB, as the measures want it."""
    import cv2

    grey = cv2.cvtColor(frame_hwc, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, SIZE, interpolation=cv2.INTER_AREA), np.uint8)


def transitions(
    times_s: Values, lumas: list[LumaHW], options: TransitionOptions
) -> list[Transition]:
    """Transitions in consecutive frames, ascending, none within another.

    Args:
        times_s: of the frames, float64 [T], ascending.
        lumas: from `luma`, T of them.
        options: thresholds.
    """
    if len(lumas) < 3:
        return []
    rate = 1.0 / max(float(np.median(np.diff(times_s))), 1e-3)  # frames a second
    spans = [*_blends(lumas, rate, options), *((i, i) for i in _cuts(lumas, rate, options))]
    return [Transition(float(times_s[a]), float(times_s[b])) for a, b in _merged(spans)]


def similarity(one: LumaHW, other: LumaHW) -> float:
    """Highest correlation of the middle of one with a part of the other, -1 to 1.

    Brightness and contrast do not count; a flat picture is similar to an equally bright flat one.
    """
    if min(one.std(), other.std()) < FLAT:
        same = (
            abs(float(one.mean()) - float(other.mean())) < SAME_BRIGHTNESS
            and max(one.std(), other.std()) < 2 * FLAT
        )
        return float(same)
    import cv2

    rows, columns = BORDER

    def matched(part: LumaHW, whole: LumaHW) -> float:
        middle = part[rows:-rows, columns:-columns]
        return float(cv2.matchTemplate(whole, middle, cv2.TM_CCOEFF_NORMED).max())

    return max(matched(one, other), matched(other, one))


def _cuts(lumas: list[LumaHW], rate: float, options: TransitionOptions) -> Iterator[int]:
    """First frames of new shots."""
    residual = np.array([0.0, *(_cut_residual(a, b, options) for a, b in pairwise(lumas))])
    around, beside = max(2, round(CUT_AROUND_S * rate)), max(1, round(SMOOTH_S * rate))
    for i in np.flatnonzero(residual >= options.cut_difference).tolist():
        others = np.concatenate([residual[max(i - around, 0) : i], residual[i + 1 :][:around]])
        if residual[i] < options.cut_ratio * others.max(initial=0.0):
            continue
        before, after = lumas[max(i - beside, 0)], lumas[min(i + beside, len(lumas) - 1)]
        sides = max(similarity(lumas[i - 1], lumas[i]), similarity(before, after))
        if sides <= options.cut_similarity:
            yield i


def _blends(
    lumas: list[LumaHW], rate: float, options: TransitionOptions
) -> Iterator[tuple[int, int]]:
    """First and last frames of dissolves and fades."""
    apart, smooth = max(1, round(APART_S * rate)), max(1, round(SMOOTH_S * rate))
    shares = np.full(len(lumas), NO_BLEND)
    for i in range(apart, len(lumas) - apart):
        shares[i] = _blend_share(lumas[i - apart], lumas[i], lumas[i + apart], options)
    window = np.full(2 * smooth + 1, 1 / (2 * smooth + 1))
    shares = np.convolve(np.pad(shares, smooth, mode="edge"), window, "valid")
    for start, end in _runs(shares > options.blend_rest):
        first, last = max(start - apart, 0), min(end + apart, len(lumas) - 1)
        if shares[start : end + 1].max() > options.blend_share and _sides_differ(
            lumas[first : last + 1], options
        ):
            yield first, last


def _sides_differ(lumas: list[LumaHW], options: TransitionOptions) -> bool:
    """Whether the frames of a gradual transition lead from one picture to another."""
    before, after = lumas[0], lumas[-1]
    contrasts = [float(one.std()) for one in lumas]
    if min(contrasts) < FLAT and min(contrasts[0], contrasts[-1]) > 3 * FLAT:
        return True  # two pictures, and nothing between them
    return (
        similarity(before, after) < options.blend_similarity
        and _difference(before, after) > options.sides_difference
    )


def _blend_share(before: LumaHW, luma: LumaHW, after: LumaHW, options: TransitionOptions) -> float:
    """By how much a blend predicts a frame better than motion does; 1 is half of the difference
    between the frames before and after."""
    difference = _difference(before, after)
    if difference <= options.blend_difference:
        return NO_BLEND
    blend = _difference((before.astype(np.float32) + after) / 2, luma)
    if blend > difference / 2:  # motion hardly predicts worse, so optical flow is spared
        return NO_BLEND
    motion = min(_residual(before, luma), _residual(after, luma))
    return 2.0 * (motion - blend) / difference


def _cut_residual(before: LumaHW, luma: LumaHW, options: TransitionOptions) -> float:
    """What motion leaves unexplained; where the difference is too small for a cut, that."""
    difference = _difference(before, luma)
    return difference if difference < options.cut_difference / 2 else _residual(before, luma)


def _residual(before: LumaHW, luma: LumaHW) -> float:
    """Difference of a frame and its prediction from another by optical flow."""
    import cv2

    places = _grid() + _optical_flow().calc(luma, before, None)
    moved = cv2.remap(
        before, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return _difference(moved, luma)


def _difference(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    return float(np.abs(one.astype(np.float32) - other).mean())


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last indices of runs of true values."""
    steps = np.diff(np.concatenate([[0], flags.astype(np.int8), [0]]))
    firsts, ends = np.flatnonzero(steps > 0).tolist(), np.flatnonzero(steps < 0).tolist()
    return [(first, end - 1) for first, end in zip(firsts, ends, strict=True)]


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, those that share a frame as one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            start, end = merged[-1][0], max(end, merged.pop()[1])
        merged.append((start, end))
    return merged


@cache
def _grid() -> npt.NDArray[np.float32]:
    """Coordinates of the pixels, float32 [H, W, 2]."""
    return np.stack(np.meshgrid(*(np.arange(side, dtype=np.float32) for side in SIZE)), axis=-1)


@cache
def _optical_flow() -> Any:
    """Dense inverse search (Kroeger et al., 2016) at full resolution, for pictures are small."""
    import cv2

    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    flow.setFinestScale(0)
    return flow
