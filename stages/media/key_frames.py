"""Small frames of a video for the least decoding: a walk on from the key frame before.

Which picture comes out for a time depends on the file alone, never on what was asked for before:
a walk begins at a key frame before the time, with an empty decoder, and leaves out the same frames
(those that no other frame needs) whoever asks.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from handloom.errors import MediaError
from handloom.stages.media.container import SAME_S, Container, Shown, why
from handloom.stages.media.display import FrameHWC, Shrinker, pixel_aspect
from handloom.stages.media.key_index import KeyIndex, times_of
from handloom.stages.media.video import TAIL_S

# Frames that nothing refers to are left out: 30 % of H.264's decoding time. Leaving out the
# deblocking filter as well would save 28 % more, but three in a hundred hands are lost with it.
FRUGAL = {"skip_frame": "noref"}

# 32 frames of 384x683 are 25 MB. Neighbouring clips share the last few.
FRAMES_KEPT = 32

# Walks that can be gone on with: a clip has about as many key frames to walk on from. A decoder
# holds a few full frames.
WALKS_KEPT = 3


@dataclass(frozen=True)
class SmallFrame:
    """A frame shrunk on decoding, upright, with square pixels."""

    time_s: float
    """When it appears on screen, from the start of the container."""
    picture_hwc: FrameHWC


class SmallVideo:
    """An open file that gives small frames by time.

    Args:
        path: a video file.
        short_side: pixels; frames that are smaller stay as they are.

    Raises:
        MediaError: the file cannot be opened or holds no video.
    """

    def __init__(self, path: Path, short_side: int) -> None:
        self._path = path
        self._shrink = Shrinker(short_side)
        self._kept: OrderedDict[int, SmallFrame] = OrderedDict()
        # The index has the file open for itself, and so has each walk: none loses its place.
        self._indexed = Container(path, FRUGAL)
        self._index = KeyIndex(self._indexed)
        self._walks: OrderedDict[float, _Walk] = OrderedDict()

    def close(self) -> None:
        """Close the file."""
        for container in [self._indexed, *(walk.container for walk in self._walks.values())]:
            container.close()
        self._walks.clear()

    def keys_around(self, start_s: float, end_s: float) -> npt.NDArray[np.float64]:
        """When key frames are shown, float64 [K], ascending: from the last one before a span to the
        first one after it."""
        return times_of(self._index.around(start_s, end_s))

    def frame_at(self, time_s: float) -> SmallFrame:
        """The frame on screen at a time, or the next where that one is left out of decoding.

        Raises:
            MediaError: the file is damaged there or ends earlier.
        """
        slot = round(time_s * 1e6)
        if slot not in self._kept:
            self._kept[slot] = self._walked_to(time_s)
        self._kept.move_to_end(slot)
        if len(self._kept) > FRAMES_KEPT:
            self._kept.popitem(last=False)
        return self._kept[slot]

    def every_frame(
        self, start_s: float, end_s: float, short_side: int
    ) -> Iterator[tuple[float, FrameHWC]]:
        """All frames that appear from one time to another, as (time in seconds, picture).

        Raises:
            MediaError: the file is damaged there.
        """
        shrink = Shrinker(short_side)
        with Container(self._path) as container, _in_words(self._path):
            for frame in container.frames_from(start_s):
                if frame.time_s > end_s:
                    return
                if frame.time_s >= start_s:
                    yield frame.time_s, shrink(frame.picture, pixel_aspect(container.stream))

    def _walked_to(self, time_s: float) -> SmallFrame:
        keys = times_of(self._index.around(time_s, time_s))
        before = keys[keys <= time_s + SAME_S]
        walk = self._walk_from(float(before[-1]) if len(before) else 0.0, time_s)
        try:
            with _in_words(self._path):
                frame = walk.to(time_s)
        except BaseException:
            walk.container.close()  # whoever runs into an error starts afresh
            raise
        self._walks[walk.key_s] = walk
        if frame is None:
            raise MediaError(
                f"{self._path.name}: no frame at {time_s:.2f} s, the file ends earlier"
            )
        aspect = pixel_aspect(self._indexed.stream)
        return SmallFrame(frame.time_s, self._shrink(frame.picture, aspect))

    def _walk_from(self, key_s: float, time_s: float) -> "_Walk":
        """A walk from a key frame that has not passed a time; it is taken out of those kept."""
        walk = self._walks.pop(key_s, None)
        if walk is not None and walk.asked_s <= time_s:
            return walk
        if walk is None and len(self._walks) >= WALKS_KEPT:
            _, walk = self._walks.popitem(last=False)
        return _Walk(key_s, walk.container if walk else Container(self._path, FRUGAL))


class _Walk:
    """The frames from a key frame on, in the order in which they are shown."""

    def __init__(self, key_s: float, container: Container) -> None:
        self.key_s, self.container = key_s, container
        self._frames: Iterator[Shown] | None = None
        self.asked_s = -np.inf
        self._frame: Shown | None = None

    def to(self, time_s: float) -> Shown | None:
        """The first frame that is still on screen after a time not before the last one asked."""
        self.asked_s = time_s
        if self._frames is None:
            self._frames = self.container.frames_from(time_s)
        while self._frame is None or self._frame.until_s <= time_s + SAME_S:
            following = next(self._frames, None)
            if following is None:
                break
            self._frame = following
        if self._frame is None or self._frame.until_s + TAIL_S < time_s:
            return None
        return self._frame


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path.name}: decoding stops ({why(error)})") from None
