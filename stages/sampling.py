"""Which frames of a clip are looked at, in which order, and when it is enough.

Frames are ordered by what they cost: key frames, which are decoded alone, then frames by time,
for which a decoder has to walk on from a key frame. Times lie on one grid for the whole video, so
that overlapping clips, and copies of a clip that begin a second later, share frames. The plan is a
function of the clip and the file's key frames alone.

When to stop is Wald's sequential probability ratio test (Annals of Mathematical Statistics 16,
1945). A clip with hands shows them in HAND_SHARE of its frames, another in FALSE_SHARE; each look
adds the logarithm of the ratio of the likelihoods of what was seen, until it passes either bound:

    hit   log(0.5 / 0.08) = +1.83       yes above log(0.965 / 0.04) = +3.18
    miss  log(0.5 / 0.92) = -0.61       no below  log(0.035 / 0.96) = -3.31

Two hits at the beginning are a clear yes, six misses are a clear no, a lone hit is a clear no after
nine misses. Parts of long videos are looked at quickly, with a HAND_SHARE of 0.6, at which four
misses are a clear no; in others there is no clear no after a hit. Looks may be counted as
independent because they are half a second apart: within a clip the correlation of MediaPipe's hits
is 0.50 at 0.1 s, 0.34 at 0.2 s and 0.09 at 0.5 s on real footage of hands at work. There hands are
found in 77 % of the frames (clip by clip from 5 to 100 %).
What is no hand is taken for one in 4 % of the frames without hands, of paws and grippers in up to
30 %: at a FALSE_SHARE of 0.01, where one hit is a yes, a robot's gripper is kept.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

HAND_SHARE = 0.5
QUICK_SHARE = 0.6
FALSE_SHARE = 0.08
FALSE_YES = 0.04
FALSE_NO = 0.035
CLEAR_NO = 6  # misses, after the table above

# Of a clip of minutes, decoded frames would fill the memory: 240 of 384x683 are 190 MB.
MOST_FRAMES = 240

# Key frames alone decide where there are this many in a clip: with one or two, hands that are
# seldom found are missed (on short real clips recall falls from 0.98 to 0.79).
ENOUGH_KEYS = 4

# Frames nearer to each other than this say the same.
APART_S = 0.4

# Stored for the other measures even where one look was enough: nearly free as key frames; by time
# the second is half a second further on, for motion.
STORED_KEYS = 4
STORED_BY_TIME = 2

SAME_S = 1e-4


@dataclass(frozen=True)
class Sample:
    """A frame to be decoded."""

    time_s: float
    key: int | None = None
    """Which key frame of the file it is, or None: the frame on screen at the time."""


@dataclass(frozen=True)
class Plan:
    """The frames of a clip in the order in which they are looked at."""

    samples: list[Sample]
    stored: int
    """How many are decoded in any case."""
    enough: int
    """How many suffice where none of them shows a hand."""


def every(start_s: float, end_s: float, per_second: float, at_least: int) -> Plan:
    """All frames of the time grid in a clip."""
    samples = [Sample(t) for t in _grid(start_s, end_s, 1 / per_second, at_least)]
    return Plan(samples, stored=len(samples), enough=len(samples))


def cheapest_first(
    start_s: float,
    end_s: float,
    keys_s: npt.NDArray[np.float64],
    per_second: float,
    at_least: int,
) -> Plan:
    """Key frames, then frames by time: where key frames are few, or leave hands in doubt.

    Args:
        start_s: start of the clip, seconds from the start of the video.
        end_s: its end.
        keys_s: float64 [K], ascending, when the file's key frames are shown.
        per_second: how close by-time samples lie at most.
        at_least: frames by time that a clip gets however short it is.
    """
    keys = _thinned(_apart(_inside(start_s, end_s, keys_s)))
    taken = np.array([key.time_s for key in keys])
    times = [
        time_s
        for time_s in _grid(start_s, end_s, 1 / per_second, at_least)
        if not np.any(np.abs(taken - time_s) < APART_S)
    ]
    samples = coarse_to_fine(keys) + forward(times)
    if len(keys) >= ENOUGH_KEYS:
        return Plan(samples, stored=STORED_KEYS, enough=len(keys))
    return Plan(samples, stored=STORED_BY_TIME, enough=len(samples))


def clear(hits: int, misses: int, quick: bool) -> bool:
    """Whether what was seen says yes or no clearly enough: the test in the module's docstring."""
    share = QUICK_SHARE if quick else HAND_SHARE
    ratio = hits * math.log(share / FALSE_SHARE)
    ratio += misses * math.log((1 - share) / (1 - FALSE_SHARE))
    yes = math.log((1 - FALSE_NO) / FALSE_YES)
    no = math.log(FALSE_NO / (1 - FALSE_YES))
    return ratio >= yes or (ratio <= no and (quick or hits == 0))


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


def forward(times_s: list[float]) -> list[Sample]:
    """As many times as make a clear no, spread over the clip, then those between.

    Each pass goes forward, and clips of a video follow each other: a frame is hardly decoded twice.
    Spread, because hands come and go: of five neighbouring frames the end of a clip is never seen.
    """
    first = {int((i + 0.5) * len(times_s) / CLEAR_NO) for i in range(CLEAR_NO)}
    order = sorted(range(len(times_s)), key=lambda i: (i not in first, i))
    return [Sample(times_s[i]) for i in order]


def _inside(start_s: float, end_s: float, keys_s: npt.NDArray[np.float64]) -> list[Sample]:
    first, end = np.searchsorted(keys_s, [start_s - SAME_S, end_s - SAME_S])
    return [Sample(float(keys_s[k]), int(k)) for k in range(first, end)]


def _apart(keys: list[Sample]) -> list[Sample]:
    kept: list[Sample] = []
    for key in keys:
        if not kept or key.time_s - kept[-1].time_s >= APART_S:
            kept.append(key)
    return kept


def _thinned(keys: list[Sample]) -> list[Sample]:
    return keys[:: math.ceil(len(keys) / MOST_FRAMES)] if keys else []


def _grid(start_s: float, end_s: float, step_s: float, at_least: int) -> list[float]:
    """Multiples of a step in a clip; of half or twice the step, and so on, if too few or many."""
    while (end_s - start_s) / step_s > MOST_FRAMES:
        step_s *= 2
    while True:
        first, end = math.ceil((start_s - SAME_S) / step_s), math.ceil((end_s - SAME_S) / step_s)
        if end - first >= at_least or step_s < 1 / 64:
            return [max(n * step_s, start_s) for n in range(first, end)] or [start_s]
        step_s /= 2
