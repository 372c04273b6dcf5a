"""Sampling plan of a clip: which frames are searched for hands, in which order, and when to stop.

Frames are ordered by what they cost: key frames, which are decoded alone, then frames by time,
for which a decoder has to walk on from a key frame. Times lie on one grid for the whole video, so
that overlapping clips, and copies of a clip that begin a second later, share frames. The plan is a
function of the clip and the file's key frames alone.

When to stop is Wald's sequential probability ratio test (Annals of Mathematical Statistics 16,
1945). A clip with hands shows them in HAND_SHARE of its frames, another in FALSE_SHARE; each frame
adds the logarithm of its likelihood ratio, until the sum passes either bound:

    hit   log(0.5 / 0.08) = +1.83       yes above log(0.95 / 0.05) = +2.94
    miss  log(0.5 / 0.92) = -0.61       no below  log(0.035 / 0.95) = -3.30

Two hits are a yes, with a miss among them too; six misses are a no. After a hit there is a no in
parts of long videos alone, where a lone hit is one after nine misses. Frames may be counted as
independent because they are half a second apart: within a clip the correlation of MediaPipe's hits
is 0.50 at 0.1 s, 0.34 at 0.2 s and 0.09 at 0.5 s on real footage of hands at work, where hands are
detected in 77 % of the frames (by clip from 5 to 100 %).

A part of a long video is seldom the only one with hands: of spans of 4 to 10 s of real footage 12 %
show hands in some of their frames and none in others. So the key frames before and after it, which
its neighbours share, count as misses as long as they show none; where one shows a hand, the three
frames of the clip that are nearest to it have to be without hands.
False hands are detected in 4 % of the frames without hands, of paws and grippers in up to 30 %: at
a FALSE_SHARE of 0.01, where one hit is a yes, a robot's gripper is kept.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

HAND_SHARE = 0.5
FALSE_SHARE = 0.08
FALSE_YES = 0.05
FALSE_NO = 0.035
MISSES_FOR_NO = 6  # by the table above

# Of a clip of minutes, decoded frames would fill the memory: 240 of 384x683 are 190 MB.
MOST_FRAMES = 240

# Key frames alone decide where there are this many in a clip: with one or two, hands that are
# seldom detected are missed (on short real clips recall falls from 0.98 to 0.79).
ENOUGH_KEYS = 4

# Frames nearer to each other than this show the same.
APART_S = 0.4

# Stored for the other measures even where one frame was enough: nearly free as key frames; by time
# the second is half a second further on, which shows whether anything moves.
STORED_KEYS = 4
STORED_BY_TIME = 2

# So many frames as near as this to a key frame are searched where none shows a hand. One that is
# farther costs more than all detections, and is worth it only where something speaks for a hand.
NEAR_S = 1.5
NEAR_FRAMES = 3

OUTSIDE_S = 10.0  # a key frame outside a clip is searched up to this far away
NEAREST = 3  # frames of the clip that are searched where it shows a hand

SAME_S = 1e-4


@dataclass(frozen=True)
class Sample:
    """A frame to be decoded."""

    time_s: float
    is_key: bool = False
    """Whether it is a key frame of the file, which is decoded alone."""


@dataclass(frozen=True)
class OutsideKey:
    """Key frame just outside the clip.

    If it shows no hand, fewer frames of the clip are enough; if it shows one, the nearest frames of
    the clip are searched too.
    """

    key: Sample
    nearest: list[Sample]


@dataclass(frozen=True)
class Plan:
    """The frames of a clip in the order in which they are searched."""

    samples: list[Sample]
    stored: int
    """Frames that are decoded in any case, of the first."""
    enough: int
    """Frames that are enough where none of them shows a hand."""
    outside: list[OutsideKey] = field(default_factory=list)
    """Key frames around a part of a long video."""


def whole_grid(start_s: float, end_s: float, per_second: float, at_least: int) -> Plan:
    """All frames of the time grid in a clip."""
    samples = [Sample(t) for t in _grid(start_s, end_s, 1 / per_second, at_least)]
    return Plan(samples, stored=len(samples), enough=len(samples))


def cheapest_first(
    start_s: float, end_s: float, keys_s: npt.NDArray[np.float64], per_second: float, at_least: int
) -> Plan:
    """Key frames, then frames by time, where key frames are few or leave hands in doubt.

    Args:
        start_s: start of the clip, seconds from the start of the video.
        end_s: its end.
        keys_s: float64 [K], ascending, when the file's key frames are shown, from the last one
            before the clip to the first one after it.
        per_second: frames by time a second, at most.
        at_least: frames by time that a clip gets however short it is.
    """
    keys, times = _keys_and_times(start_s, end_s, keys_s, per_second, at_least)
    samples = _keys_first(keys) + spread_out(times)
    if len(keys) >= ENOUGH_KEYS:
        return Plan(samples, stored=STORED_KEYS, enough=len(keys))
    return Plan(samples, stored=STORED_BY_TIME, enough=len(samples))


def nearest_first(
    start_s: float, end_s: float, keys_s: npt.NDArray[np.float64], per_second: float, at_least: int
) -> Plan:
    """The same for a part of a long video: frames by time in the order of the way from a key frame.

    Where key frames are few they are frames by time as well, so that the decoder can walk on from
    each. Two frames half a second apart tell nearly as much as two that are further apart, and a
    walk through a GOP of ten seconds costs more than all detections together.
    """
    keys, times = _keys_and_times(start_s, end_s, keys_s, per_second, at_least)
    if len(keys) >= ENOUGH_KEYS:
        samples = coarse_to_fine(keys) + spread_out(times)
        outside = _around(start_s, end_s, keys_s, keys)
        return Plan(samples, STORED_KEYS, len(keys), outside)
    # Decoding cost of a frame grows with its way from the key frame before it.
    ways_from_s = keys_s if len(keys_s) else np.zeros(1)  # an edit list may hide all key frames
    before = np.searchsorted(ways_from_s, np.array(times) + SAME_S, side="right") - 1
    way_s = times - ways_from_s[before.clip(0)]
    walked = [Sample(times[i]) for i in np.argsort(way_s, kind="stable")]
    first = _keys_first(keys)
    near = min(len(first) + int(np.count_nonzero(way_s <= NEAR_S)), NEAR_FRAMES)
    outside = _around(start_s, end_s, keys_s, [Sample(time_s) for time_s in times])
    return Plan(first + walked, STORED_BY_TIME, max(STORED_BY_TIME, near), outside)


def _keys_and_times(
    start_s: float, end_s: float, keys_s: npt.NDArray[np.float64], per_second: float, at_least: int
) -> tuple[list[Sample], list[float]]:
    """Key frames in a clip, and the times of the grid that are not near one."""
    keys = _keys_apart(start_s, end_s, keys_s)
    taken = np.array([key.time_s for key in keys])
    grid_s = _grid(start_s, end_s, 1 / per_second, at_least)
    return keys, [t for t in grid_s if not np.any(np.abs(taken - t) < APART_S)]


def is_decided(hits: int, misses: int, part: bool, outside: int = 0) -> bool:
    """Whether the sequential test of the module's docstring has ended, in a yes or a no.

    Args:
        hits: frames with a hand.
        misses: frames without one.
        part: whether the clip is a part of a long video.
        outside: key frames around the clip, which count as misses as long as there is no hit.
    """
    misses += 0 if hits else outside
    ratio = hits * math.log(HAND_SHARE / FALSE_SHARE)
    ratio += misses * math.log((1 - HAND_SHARE) / (1 - FALSE_SHARE))
    yes = math.log((1 - FALSE_NO) / FALSE_YES)
    no = math.log(FALSE_NO / (1 - FALSE_YES))
    return ratio >= yes or (ratio <= no and (part or not hits))


def coarse_to_fine(samples: list[Sample]) -> list[Sample]:
    """The middle first, then the middles of both halves, and so on."""
    order: list[Sample] = []
    spans = [(0, len(samples))]
    for first, end in spans:  # grows as it is walked
        if first < end:
            middle = (first + end) // 2
            order.append(samples[middle])
            spans += [(first, middle), (middle + 1, end)]
    return order


def spread_out(times_s: list[float]) -> list[Sample]:
    """Samples at so many times as make a no, spread over the clip, then at those between.

    Each pass goes forward, and clips of a video follow each other: a frame is hardly decoded twice.
    Spread, because hands come and go: five neighbouring frames leave out the end of a clip.
    """
    count = len(times_s)
    first = {int((i + 0.5) * count / MISSES_FOR_NO) for i in range(MISSES_FOR_NO)}
    return [Sample(times_s[i]) for i in sorted(range(count), key=lambda i: (i not in first, i))]


def _keys_first(keys: list[Sample]) -> list[Sample]:
    # A walk on from the only key frame decodes that one too; of two, one is seldom walked on from.
    return coarse_to_fine(keys) if len(keys) > 1 else [Sample(key.time_s) for key in keys]


def _keys_apart(start_s: float, end_s: float, keys_s: npt.NDArray[np.float64]) -> list[Sample]:
    """Key frames in a clip, `APART_S` from each other and at most `MOST_FRAMES`."""
    kept: list[Sample] = []
    first, end = np.searchsorted(keys_s, [start_s - SAME_S, end_s - SAME_S])
    for k in range(first, end):
        if not kept or keys_s[k] - kept[-1].time_s >= APART_S:
            kept.append(Sample(float(keys_s[k]), is_key=True))
    return kept[:: math.ceil(len(kept) / MOST_FRAMES) or 1]


def _around(
    start_s: float, end_s: float, keys_s: npt.NDArray[np.float64], samples: list[Sample]
) -> list[OutsideKey]:
    """The key frames before and after a clip with these samples, where they are not far away."""
    before = int(np.searchsorted(keys_s, start_s - SAME_S)) - 1
    after = int(np.searchsorted(keys_s, end_s - SAME_S))
    sides = (before, samples[:NEAREST]), (after, samples[-NEAREST:])
    return [
        OutsideKey(Sample(float(keys_s[k]), is_key=True), near)
        for k, near in sides
        if 0 <= k < len(keys_s) and max(start_s - keys_s[k], keys_s[k] - end_s) <= OUTSIDE_S
    ]


def _grid(start_s: float, end_s: float, step_s: float, at_least: int) -> list[float]:
    """Multiples of a step in a clip; of half or twice the step, and so on, if too few or many."""
    while (end_s - start_s) / step_s > MOST_FRAMES:
        step_s *= 2
    while True:
        first, end = math.ceil((start_s - SAME_S) / step_s), math.ceil((end_s - SAME_S) / step_s)
        if end - first >= at_least or step_s < 1 / 64:
            return [max(n * step_s, start_s) for n in range(first, end)] or [start_s]
        step_s /= 2
