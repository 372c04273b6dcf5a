"""Which frames of a video belong to an episode, and which of them each of its rows shows.

A video of layout 3 holds many episodes. The part [from, to) that the episode table gives to one is
a border: no row shows a frame outside it. Borders are sums of steps with rounding errors, so each
counts as the frame that begins nearest to it. In layout 2 an episode has the whole file.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError
from handloom.stages.datasets.media import cached_by_file
from handloom.stages.media.video import shown_times

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SLACK_FRAMES = 2
"""How many frames an episode may have more or less than rows, as recorders lose the last ones."""
DIFFER = "frames_and_rows_differ"


@dataclass(frozen=True)
class FrameTimes:
    """When each frame of a video is shown.

    Attributes:
        times_s: float64 [N], ascending, as `Video.frames_at` counts them.
        period_s: from one frame to the next, the median.
    """

    times_s: Floats
    period_s: float

    @property
    def end_s(self) -> float:
        """When the last frame ends."""
        return float(self.times_s[-1]) + self.period_s

    def first_at(self, times_s: Floats) -> Integers:
        """The first frame that begins at a time or later, but for rounding; int64 [...]."""
        found = np.searchsorted(self.times_s, times_s - 0.5 * self.period_s)
        return np.asarray(found, np.int64)

    def nearest(self, times_s: Floats) -> Integers:
        """The frame that begins nearest to a time or before, int64 [...]."""
        found = np.searchsorted(self.times_s, times_s + 0.5 * self.period_s) - 1
        return np.asarray(found, np.int64)

    def middle(self, frames: Integers) -> Floats:
        """A time at which each frame is on screen, whatever the rounding."""
        until_s = np.append(self.times_s[1:], self.end_s)
        middles: Floats = (self.times_s[frames] + until_s[frames]) / 2
        return middles


@dataclass(frozen=True)
class Claims:
    """Parts of one video that the episode table gives to episodes.

    Attributes:
        episodes: int64 [N].
        from_s: float64 [N]; NaN where the table does not say.
        to_s: float64 [N]; NaN where the table does not say: up to the next one, or to the end.
        rows: int64 [N], lengths of the episodes.
    """

    episodes: Integers
    from_s: Floats
    to_s: Floats
    rows: Integers


@cached_by_file(maxsize=8)
def frame_times(path: Path) -> FrameTimes:
    """The times of a video's frames, by its packets; what an edit list hides is left out.

    Raises:
        MediaError: the file cannot be read or shows nothing.
    """
    times_s = shown_times(path)
    if not len(times_s):
        raise MediaError(f"{path.name} does not say when its frames are shown; write it again")
    gaps_s = np.diff(times_s)
    return FrameTimes(times_s, float(np.median(gaps_s)) if len(gaps_s) else 1.0)


def episode_frames_of(
    frames: FrameTimes, claims: Claims | None, episode: int, name: str
) -> tuple[int, int]:
    """The first frame of an episode and the one after its last.

    Args:
        frames: of the video.
        claims: of all episodes in it; None where it holds one episode alone.
        episode: whose frames are wanted.
        name: of the video, for messages.

    Raises:
        MediaError: the claim is no part of the video, or another episode claims frames of it.
    """
    count = len(frames.times_s)
    if claims is None:
        return 0, count
    i = int(np.flatnonzero(claims.episodes == episode)[0])
    from_s, to_s = claims.from_s, _ends_s(claims)
    if not (from_s[i] < to_s[i] and -0.5 * frames.period_s <= from_s[i]):
        raise _refused(name, claims, i, "which is no part of a video")
    if from_s[i] >= frames.end_s or (
        np.isfinite(to_s[i]) and to_s[i] > frames.end_s + 0.5 * frames.period_s
    ):
        raise _refused(name, claims, i, f"but the video ends at {frames.end_s:.3f} s")
    first, end = frames.first_at(from_s), frames.first_at(to_s)
    shared = (np.maximum(first, first[i]) < np.minimum(end, end[i])) & (from_s < to_s)
    shared[i] = False
    if shared.any():
        other = claims.episodes[np.argmax(shared)]
        raise _refused(name, claims, i, f"of which episode {other} has a part as well")
    if claims.rows.sum() == count:  # then the lengths alone say where each one begins
        # In the order of their numbers or of their starts: one wrong claim costs no other.
        orders = (claims.episodes < episode, from_s < from_s[i])
        before = [int(claims.rows[earlier].sum()) for earlier in orders]
        if first[i] not in before:
            why = f"which begins at frame {first[i]}, the episodes before it have {before[0]} rows"
            raise _refused(name, claims, i, why)
    return int(first[i]), int(end[i])


def times_of_rows(
    frames: FrameTimes, span: tuple[int, int], start_s: float, clock_s: Floats, fps: float
) -> tuple[Floats, tuple[str, ...]]:
    """When the frame of each row is on screen, float64 [T], and flags.

    Row i shows frame i of the span where there are as many, whatever the rows' clock says: robots
    are stamped by a real one, videos are written evenly. Otherwise rows find their frames by time,
    within the span: by their own clock, or by an even one where that alone fits.

    Args:
        frames: of the video.
        span: first frame of the episode, and the one after its last.
        start_s: at which the rows' clock is 0.
        clock_s: float64 [T], seconds from the episode's start to each of all its rows.
        fps: rows a second.

    Raises:
        MediaError: the span is longer or shorter than the episode by more than SLACK_FRAMES.
    """
    (first, end), rows = span, len(clock_s)
    if end - first == rows:
        return frames.middle(np.arange(first, end)), ()
    if first == end:
        raise MediaError(f"holds no frame of the episode, which has {rows} rows; download it again")
    lasts_s = float(frames.times_s[end - 1] - frames.times_s[first]) + frames.period_s
    slack_s = (SLACK_FRAMES + 0.01) * max(frames.period_s, 1 / fps)
    for row_times_s in (clock_s, np.arange(rows) / fps):
        if abs(row_times_s[-1] + 1 / fps - lasts_s) <= slack_s:
            numbers = frames.nearest(start_s + row_times_s).clip(first, end - 1)
            same_rate = 0.7 < frames.period_s * fps < 1.4
            return frames.middle(numbers), (DIFFER,) * same_rate
    raise MediaError(
        f"has {end - first} frames in {lasts_s:.3f} s for this episode, its table {rows} rows at "
        f"{fps:g} a second; the recording was interrupted, or the files are of different releases"
    )


def _ends_s(claims: Claims) -> Floats:
    """Where each claim ends: as stated, else where the next one begins, else with the video."""
    ends_s = claims.to_s.copy()
    for i in np.flatnonzero(np.isnan(ends_s)):
        later = claims.from_s[claims.from_s > claims.from_s[i]]
        ends_s[i] = later.min() if len(later) else np.inf
    return ends_s


def _refused(name: str, claims: Claims, i: int, why: str) -> MediaError:
    return MediaError(
        f"{name}: the episode table gives {claims.from_s[i]:.3f} to {claims.to_s[i]:.3f} s to "
        f"episode {claims.episodes[i]}, {why}; the table and the video are of different releases, "
        "download both again"
    )
