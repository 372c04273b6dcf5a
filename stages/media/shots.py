"""Shot changes inside a clip: where edited video jumps or blends from one camera to another.

Frames half a second apart do not tell a cut from a turn of the head. So colours that differ
between two sampled frames only raise a suspicion; what lies between the two is then decoded frame
by frame, and `transitions` confirms the change and places it. A shot that comes and goes
between two sampled frames, and a change between two shots of the same colours, are not seen.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from handloom.stages.media.transitions import Transition, TransitionOptions, luma, transitions

FrameHWC = npt.NDArray[np.uint8]
Decode = Callable[[float, float], Iterator[tuple[float, FrameHWC]]]

SHORT_SIDE = 96  # pixels: a cut shows at any size, and noise does not at this one
BINS = (8, 4, 4)  # of hue, saturation and value
AROUND_S = 0.25  # seconds: a change is compared with what lies before and after it


@dataclass(frozen=True)
class ShotOptions:
    """When the colours of two frames are suspicious, and what confirms a change."""

    suspicion: float = 0.3
    """Colour distance of two sampled frames from which the frames between them are decoded."""
    transitions: TransitionOptions = field(default_factory=TransitionOptions)


def shot_changes(
    times_s: Sequence[float], frames: Sequence[FrameHWC], decode: Decode, options: ShotOptions
) -> list[Transition]:
    """Shot changes between the first and the last sampled frame, ascending.

    Args:
        times_s: of the sampled frames, ascending, seconds.
        frames: uint8 [H, W, 3] RGB of any one size; the sampled frames.
        decode: gives every frame, with its time, from one time to another, both included; the
            frames may be as small as 96 pixels. It is called for suspicious spans alone, in order.
        options: thresholds.
    """
    colours = [_colours(_small(frame)) for frame in frames]
    found: list[Transition] = []
    for start_s, end_s in suspicious_spans(times_s, colours, options.suspicion):
        seen_s, lumas = [], []
        for time_s, frame_hwc in decode(max(start_s - AROUND_S, 0.0), end_s + AROUND_S):
            seen_s.append(time_s)
            lumas.append(luma(frame_hwc))
        for change in transitions(np.array(seen_s), lumas, options.transitions):
            # What lies beside the span belongs to the next one, or is none.
            if change.start_s <= end_s and change.end_s > start_s:
                found.append(change)
    return found


def suspicious_spans(
    times_s: Sequence[float], colours: Sequence[npt.NDArray[np.float32]], suspicion: float
) -> list[tuple[float, float]]:
    """Spans between neighbouring frames whose colours differ, joined where they touch."""
    spans: list[tuple[float, float]] = []
    for (start_s, before), (end_s, after) in pairwise(zip(times_s, colours, strict=True)):
        if colour_distance(before, after) < suspicion:
            continue
        if spans and spans[-1][1] == start_s:
            start_s = spans.pop()[0]
        spans.append((start_s, end_s))
    return spans


def colour_distance(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Hellinger distance of two histograms that each sum to 1; 0 the same, 1 nothing in common."""
    return float(np.sqrt(max(0.0, 1.0 - float(np.sqrt(one * other).sum()))))


def change_times(changes: Sequence[Transition]) -> list[float]:
    """Ascending: of a cut the first frame of the new shot, of a dissolve or fade start and end."""
    return sorted({time_s for change in changes for time_s in (change.start_s, change.end_s)})


def longest_run(start_s: float, end_s: float, changes: Sequence[Transition]) -> tuple[float, float]:
    """The longest part of a span that no change touches, the first of equals."""
    edges_s = [start_s]
    for change in sorted(changes, key=lambda one: one.start_s):
        if start_s < change.end_s and change.start_s < end_s:
            edges_s += [max(change.start_s, start_s), min(change.end_s, end_s)]
    runs = list(zip(edges_s[::2], [*edges_s[1::2], end_s], strict=True))
    return max(runs, key=lambda run: run[1] - run[0])


def _small(frame_hwc: FrameHWC) -> FrameHWC:
    """The frame at `SHORT_SIDE`, in OpenCV's order of colours."""
    import cv2

    height, width = frame_hwc.shape[:2]
    scale = SHORT_SIDE / min(height, width)
    size = round(width * scale), round(height * scale)
    small = cv2.resize(frame_hwc, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2BGR), np.uint8)


def _colours(frame_bgr: FrameHWC) -> npt.NDArray[np.float32]:
    """Histogram over hue, saturation and value, float32, summing to 1."""
    import cv2

    hsv = cv2.cvtColor(frame_bgr, cv2.COLOR_BGR2HSV)
    counts = cv2.calcHist([hsv], [0, 1, 2], None, list(BINS), [0, 180, 0, 256, 0, 256])
    return np.asarray(counts.ravel() / counts.sum(), np.float32)
