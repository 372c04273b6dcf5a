"""Sampling plan of a clip: which frames are searched for hands, in which order, and when to stop.

Two frames a second, because hands come and go: of spans of 3 to 5 s of real footage with hands, a
fifth shows a detected hand in one or two of its six to ten frames. Times lie on one grid for the
whole video, so that overlapping clips, and copies of a clip that begin a second later, share
frames. The plan is a function of the clip and the file's key frames alone.

The search stops early for a yes alone: at ENOUGH_HITS hits, as soon as SURE_SHARE of the planned
frames show one. Every lower threshold then decides as after a search of all frames.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handloom.stages.media.container import SAME_S

ENOUGH_HITS = 3
SURE_SHARE = 0.25

# Of a clip of minutes, decoded frames would fill the memory: 240 of 384x683 are 190 MB.
MOST_FRAMES = 240

# Stored for the other measures even where fewer were enough.
STORED = 4


@dataclass(frozen=True)
class Plan:
    """The frames of a clip in the order in which they are searched."""

    times_s: list[float]

    def is_clear(self, hits: int) -> bool:
        """Whether so many frames with a hand are a yes, whatever the others show."""
        return hits >= max(ENOUGH_HITS, SURE_SHARE * len(self.times_s))


def whole_grid(start_s: float, end_s: float, per_second: float, at_least: int) -> Plan:
    """All frames of the time grid in a clip, in the order of time."""
    return Plan(_grid(start_s, end_s, 1 / per_second, at_least))


def nearest_first(
    start_s: float, end_s: float, keys_s: npt.NDArray[np.float64], per_second: float, at_least: int
) -> Plan:
    """Frames of a part of a long video in the order of what they cost.

    Decoding cost of a frame grows with its way from the key frame before it.

    Args:
        start_s: start of the clip, seconds from the start of the video.
        end_s: its end.
        keys_s: float64 [K], ascending, when the file's key frames are shown, from the last one
            before the clip to the first one after it.
        per_second: frames by time a second, at most.
        at_least: frames by time that a clip gets however short it is.
    """
    grid_s = np.array(_grid(start_s, end_s, 1 / per_second, at_least))
    ways_from_s = keys_s if len(keys_s) else np.zeros(1)  # an edit list may hide all key frames
    before = np.searchsorted(ways_from_s, grid_s + SAME_S, side="right") - 1
    way_s = grid_s - ways_from_s[before.clip(0)]
    return Plan([float(grid_s[i]) for i in np.argsort(way_s, kind="stable")])


def _grid(start_s: float, end_s: float, step_s: float, at_least: int) -> list[float]:
    """Middles of the video's steps in a clip; of half or twice the step, and so on, if too few or
    many. Middles, because the first frame of a file is often black or a still."""
    while (end_s - start_s) / step_s > MOST_FRAMES:
        step_s *= 2
    while True:
        first, end = (math.ceil((t - SAME_S) / step_s - 0.5) for t in (start_s, end_s))
        if end - first >= at_least or step_s < 1 / 64:
            times_s = [max((n + 0.5) * step_s, start_s) for n in range(first, end)]
            return times_s or [start_s]
        step_s /= 2
