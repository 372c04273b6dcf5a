"""Where the frames of a window lie among the stored frames of a clip, in real time.

A robot that was recorded at 3 Hz and stored at 10 Hz shows each picture for three or four steps:
windows count its distinct pictures. Shapes: B windows, F frames of a window.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from handloom.tokenize.shards.format import Integers

# Seconds from one frame to the next where none are asked for; stage 2 has a frame every five steps
# at 10 Hz.
SPACING_S = 0.5
ROUNDING = 1e-6  # of a frame; resampled episodes were cut with the same tolerance


@dataclass(frozen=True)
class Pace:
    """The frames of a window, counted in distinct pictures from its first one.

    Attributes:
        offsets: of each frame, ascending from 0; empty where two frames would be one picture.
        shown: distinct pictures per stored frame, above 0, at most 1.
        spacing_s: seconds from frame to frame; None where the clip's own times say it.
        picture_s: seconds from picture to picture, likewise.
    """

    offsets: tuple[int, ...]
    shown: float = 1.0
    spacing_s: float | None = None
    picture_s: float | None = None

    @classmethod
    def as_stored(cls, frames: int) -> Self:
        """Consecutive frames, whatever time lies between them."""
        return cls(tuple(range(frames)))

    @classmethod
    def every(cls, spacing_s: float, frames: int, stored_hz: float, source_hz: float) -> Self:
        """The pictures nearest to moments that lie `spacing_s` apart.

        A frame is at most half of the time between two pictures from its moment.

        Args:
            spacing_s: seconds between moments.
            frames: of a window.
            stored_hz: frames a second in the shards.
            source_hz: pictures a second that the source had.
        """
        pictures_hz = min(stored_hz, source_hz)
        moments = np.arange(frames) * (spacing_s * pictures_hz)
        offsets = np.floor(moments + 0.5 + ROUNDING).astype(np.int64)
        distinct = bool((np.diff(offsets) > 0).all())
        found = tuple(offsets.tolist()) if distinct else ()
        return cls(found, pictures_hz / stored_hz, spacing_s, 1 / pictures_hz)

    @property
    def needed(self) -> int:
        """Distinct pictures that a clip must have."""
        return self.offsets[-1] + 1 if self.offsets else 0

    def pictures(self, stored: Integers) -> Integers:
        """Distinct pictures of clips by their numbers of stored frames."""
        counts = np.floor((stored - 1) * self.shown + ROUNDING).astype(np.int64) + 1
        return np.where(stored > 0, counts, 0)

    def windows(self, stored: Integers) -> Integers:
        """Windows of clips by their numbers of stored frames: one begins at each picture."""
        if not self.offsets:
            return np.zeros_like(stored)
        return np.maximum(self.pictures(stored) - self.offsets[-1], 0)


class Paces:
    """A few paces as tables, to find the stored frames of windows that have different ones."""

    def __init__(self, paces: list[Pace], frames: int) -> None:
        rows = [pace.offsets or (0,) * frames for pace in paces]
        self._offsets = np.array(rows, np.int64).reshape(-1, frames)
        self._shown = np.array([pace.shown for pace in paces], np.float64)
        self.spacing_s = [pace.spacing_s for pace in paces]
        self.consecutive = bool((self._shown == 1).all()) and all(
            pace.offsets == tuple(range(frames)) for pace in paces if pace.offsets
        )

    def frames(self, pace: Integers, first: Integers) -> Integers:
        """Stored frames of windows, int64 [B, F], from their pace and first picture.

        Of the stored frames that show a picture it is the first one.
        """
        pictures: Integers = first[:, None] + self._offsets[pace]
        shown = self._shown[pace]
        if (shown == 1).all():
            return pictures
        stored = np.ceil((pictures - ROUNDING) / shown[:, None]).astype(np.int64)
        return np.where(shown[:, None] == 1, pictures, stored)


def pace_of(
    meta: Mapping[str, Any], dense_s: float | None, spacing_s: float | None, frames: int
) -> Pace:
    """The pace of one clip.

    Args:
        meta: of the clip; empty where it does not matter.
        dense_s: seconds between stored frames, where the manifest says them.
        spacing_s: that is asked for, if any.
        frames: of a window.
    """
    wanted = SPACING_S if spacing_s is None else spacing_s
    if "action_kind" in meta:
        hz = float(meta["fps"])
        return Pace.every(wanted, frames, hz, float(meta.get("source_hz") or hz))
    if dense_s is not None:
        return Pace.every(wanted, frames, 1 / dense_s, 1 / dense_s)
    times_s: npt.NDArray[np.float64] = np.array(meta.get("frame_times_s", ()), np.float64)
    if spacing_s is None or len(times_s) < 2:
        return Pace.as_stored(frames)
    hz = (len(times_s) - 1) / float(times_s[-1] - times_s[0])
    # Times are stored in thousandths: clips whose frames lie equally far apart share a pace.
    return Pace.every(wanted, frames, hz, hz) if math.isfinite(hz) else Pace(())
