"""Small frames of a video for the least decoding: key frames alone, or a walk on from one.

Which picture comes out for a time depends on the file alone, never on what was asked for before:
a walk begins at the last key frame before the time, with an empty decoder, and leaves out the same
frames (those that no other frame needs) whoever asks.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from handloom.errors import MediaError
from handloom.stages.media.video import TAIL_S, opened, upright, why

# Frames that nothing refers to are left out: 30 % of H.264's decoding time. Leaving out the
# deblocking filter as well would save 28 % more, but three in a hundred hands are lost with it.
FRUGAL = {"skip_frame": "noref"}

# 32 frames of 384x683 are 25 MB. Neighbouring clips share the last few.
FRAMES_KEPT = 32

# Walks that can be gone on with: a clip has about as many key frames to walk on from. A decoder
# holds a few full frames.
WALKS_KEPT = 3

SAME_S = 1e-4

# Formats whose index lists key frames by the very timestamps of their packets.
WHOLE_INDEX = {"mp4", "avi", "matroska"}


@dataclass(frozen=True)
class SmallFrame:
    """A frame shrunk on decoding, upright, with square pixels."""

    time_s: float
    """When it appears on screen, from the start of the video."""
    picture_hwc: npt.NDArray[np.uint8]


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
        self._shrink = _Shrinker(short_side)
        self._kept: OrderedDict[tuple[str, int], SmallFrame] = OrderedDict()
        file = _File(path)
        self._keys = file.index() or file.scan()
        self._pixel_aspect = file.pixel_aspect
        self._idle: list[_File] = [file]
        self.keys_s: npt.NDArray[np.float64] = np.array([key.time_s for key in self._keys])
        """When key frames are shown, ascending."""
        # Each has the file open for itself, and key frames have it once more: none loses its place.
        self._lone: _File | None = None
        self._walks: OrderedDict[_Key, _Walk] = OrderedDict()

    def close(self) -> None:
        """Close the file."""
        walked = [walk.file for walk in self._walks.values()]
        for file in [*self._idle, *walked, *([self._lone] if self._lone else [])]:
            file.close()
        self._walks.clear()

    def key_frame(self, index: int) -> SmallFrame:
        """The key frame shown at `keys_s[index]`, decoded without any other frame.

        Raises:
            MediaError: the file is damaged there or ends earlier.
        """
        return self._remembered(("key", index), lambda: self._lone_key(index))

    def frame_at(self, time_s: float) -> SmallFrame:
        """The frame on screen at a time, or the next where that one is left out of decoding.

        Raises:
            MediaError: the file is damaged there or ends earlier.
        """
        return self._remembered(("time", round(time_s * 1e6)), lambda: self._walked_to(time_s))

    def every_frame(
        self, start_s: float, end_s: float, short_side: int
    ) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
        """All frames that appear from one time to another, as (time in seconds, picture).

        Raises:
            MediaError: the file is damaged there.
        """
        index = max(0, int(np.searchsorted(self.keys_s, start_s + SAME_S, side="right")) - 1)
        file, shrink = _File(self._path, {}), _Shrinker(short_side)
        try:
            with _in_words(self._path):
                for frame in file.frames_from(self._keys[index]):
                    if frame.time_s > end_s:
                        return
                    if frame.time_s >= start_s:
                        yield frame.time_s, shrink(frame.picture, file.pixel_aspect)
        finally:
            file.close()

    def _remembered(self, slot: tuple[str, int], make: Callable[[], SmallFrame]) -> SmallFrame:
        if slot not in self._kept:
            self._kept[slot] = make()
        self._kept.move_to_end(slot)
        if len(self._kept) > FRAMES_KEPT:
            self._kept.popitem(last=False)
        return self._kept[slot]

    def _lone_key(self, index: int) -> SmallFrame:
        self._lone = self._lone or self._opened()
        with _in_words(self._path):
            frame = self._lone.lone(self._keys[index])
        if frame is None:
            raise self._no_frame(float(self.keys_s[index]))
        return self._small(frame)

    def _walked_to(self, time_s: float) -> SmallFrame:
        index = max(0, int(np.searchsorted(self.keys_s, time_s + SAME_S, side="right")) - 1)
        with _in_words(self._path):
            walk = self._walk_from(self._keys[index], time_s)
            try:
                frame = walk.to(time_s)
            except BaseException:
                walk.file.close()  # whoever runs into an error starts afresh
                raise
        self._walks[walk.key] = walk
        if frame is None:
            raise self._no_frame(time_s)
        return self._small(frame)

    def _walk_from(self, key: "_Key", time_s: float) -> "_Walk":
        """A walk from a key frame that has not passed a time; it is taken out of those kept."""
        walk = self._walks.pop(key, None)
        if walk is not None and walk.asked_s <= time_s:
            return walk
        if walk is None and len(self._walks) >= WALKS_KEPT:
            _, walk = self._walks.popitem(last=False)
        return _Walk(key, walk.file if walk else self._opened())

    def _opened(self) -> "_File":
        return self._idle.pop() if self._idle else _File(self._path)

    def _small(self, frame: "_Shown") -> SmallFrame:
        return SmallFrame(frame.time_s, self._shrink(frame.picture, self._pixel_aspect))

    def _no_frame(self, time_s: float) -> MediaError:
        return MediaError(f"{self._path.name}: no frame at {time_s:.2f} s, the file ends earlier")


@dataclass(frozen=True)
class _Key:
    """A key frame: when it is shown, and the timestamp that finds it."""

    time_s: float
    stamp: int
    scanned: bool
    """Whether the timestamp was read off the packet itself."""


@dataclass(frozen=True)
class _Shown:
    picture: Any
    time_s: float
    until_s: float


class _File:
    """An open file and its decoder."""

    def __init__(self, path: Path, decoding: dict[str, str] = FRUGAL) -> None:
        self._path, self._decoding = path, decoding
        self._open()
        self.pixel_aspect = float(self._stream.sample_aspect_ratio or 1) or 1.0
        self._start_s = float((self._stream.start_time or 0) * self._stream.time_base)
        self._frame_s = float(1 / (self._stream.average_rate or 25))

    def close(self) -> None:
        self._container.close()

    def index(self) -> list[_Key]:
        """The key frames in the container's index; none where it is not whole.

        MP4 counts in decoding time; key frames are shown as much later as the first one is.
        """
        kind = set(self._container.format.name.split(","))
        if not kind & WHOLE_INDEX:
            return []
        if "matroska" in kind and self._container.duration:
            end = self._container.duration / av.time_base / self._stream.time_base
            self._container.seek(int(end), stream=self._stream)  # now it reads the index
        stamps = [e.timestamp for e in self._stream.index_entries if e.is_keyframe]
        tick = float(self._stream.time_base)
        keys = [_Key((stamp - stamps[0]) * tick, stamp, scanned=False) for stamp in stamps]
        return keys if len(keys) > 1 else []  # an index of one frame may be none

    def scan(self) -> list[_Key]:
        """The same from all packets of a file without an index, none of them decoded."""
        self._reopen()
        with _in_words(self._path):
            packets = [p for p in self._container.demux(self._stream) if p.is_keyframe and p.size]
        if not packets:
            raise MediaError(f"{self._path.name}: the video stream holds no key frame")
        keys = [_Key(self._time_s(p), _stamp(p), scanned=True) for p in packets]
        return sorted(keys, key=lambda key: key.time_s)

    def lone(self, key: _Key) -> _Shown | None:
        """A key frame, its packet decoded alone."""
        packet = next(self._packets_from(key), None)
        if packet is None:
            return None
        decoder = self._stream.codec_context
        frames = [*decoder.decode(packet), *decoder.decode(None)]
        return self._shown(frames[0]) if frames else None

    def frames_from(self, key: _Key) -> Iterator[_Shown]:
        """Frames from a key frame on, as they are shown."""
        decoder = self._stream.codec_context
        for packet in self._packets_from(key):
            yield from map(self._shown, decoder.decode(packet))
        yield from map(self._shown, decoder.decode(None))

    def _shown(self, frame: Any) -> _Shown:
        lasts_s = float((frame.duration or 0) * self._stream.time_base) or self._frame_s
        time_s = self._time_s(frame)
        return _Shown(frame, time_s, time_s + lasts_s)

    def _packets_from(self, key: _Key) -> Iterator[Any]:
        """Packets from a key frame on, for a decoder that has been emptied."""
        packets = self._sought(key.stamp)
        first = next(packets, None)
        if first is None or (key.scanned and _stamp(first) != key.stamp):
            self._reopen()  # the format cannot seek, or lands behind the key frame
            packets = _from_key(self._container.demux(self._stream), key.stamp)
            first = next(packets, None)
        self._stream.codec_context.flush_buffers()
        if first is not None:
            yield first
            yield from packets

    def _sought(self, stamp: int) -> Iterator[Any]:
        try:
            self._container.seek(stamp, stream=self._stream)
        except (av.FFmpegError, OSError):
            return iter(())
        return _from_key(self._container.demux(self._stream), stamp)

    def _open(self) -> None:
        self._container, self._stream = opened(self._path, self._decoding).__enter__()

    def _reopen(self) -> None:
        self._container.close()
        self._open()

    def _time_s(self, frame: Any) -> float:
        """When a frame or packet is shown; raw streams do not say."""
        if frame.pts is None:
            return 0.0
        return float(frame.pts * self._stream.time_base) - self._start_s


class _Walk:
    """The frames from a key frame on, in the order in which they are shown."""

    def __init__(self, key: _Key, file: _File) -> None:
        self.key, self.file, self._frames = key, file, file.frames_from(key)
        self.asked_s = -np.inf
        self._frame: _Shown | None = None

    def to(self, time_s: float) -> _Shown | None:
        """The first frame that is still on screen after a time not before the last one asked."""
        self.asked_s = time_s
        while self._frame is None or self._frame.until_s <= time_s + SAME_S:
            following = next(self._frames, None)
            if following is None:
                break
            self._frame = following
        if self._frame is None or self._frame.until_s + TAIL_S < time_s:
            return None
        return self._frame


class _Shrinker:
    """Scales frames to a short side and turns them upright; keeps swscale's tables."""

    def __init__(self, short_side: int) -> None:
        self._short_side = short_side
        self._scale, self._colour = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: Any, pixel_aspect: float) -> npt.NDArray[np.uint8]:
        """RGB uint8 [H, W, 3] of a decoded frame."""
        width, height = self._size(frame.width * pixel_aspect, frame.height)
        if frame.format.name == "yuv420p":
            # Half the time of scaling and converting at once, which widens the chroma first.
            frame = self._scale.reformat(frame, width, height, interpolation="AREA", threads=1)
        small = self._colour.reformat(
            frame, width, height, "rgb24", interpolation="AREA", threads=1
        )
        picture_hwc: npt.NDArray[np.uint8] = np.asarray(small.to_ndarray(), np.uint8)
        return upright(picture_hwc, frame.rotation)

    def _size(self, width: float, height: float) -> tuple[int, int]:
        scale = min(1.0, self._short_side / min(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))


def _from_key(packets: Iterator[Any], timestamp: int) -> Iterator[Any]:
    """Packets from the first key frame with this timestamp or a later one."""
    found = False
    for packet in packets:
        found = found or (packet.is_keyframe and packet.size and _stamp(packet) >= timestamp)
        if found and packet.size:
            yield packet


def _stamp(packet: Any) -> int:
    """The timestamp that seeking goes by; 0 in raw streams, which have none."""
    stamp = packet.dts if packet.dts is not None else packet.pts
    return int(stamp or 0)


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path.name}: decoding stops ({why(error)})") from None
