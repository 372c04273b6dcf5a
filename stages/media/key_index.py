"""Where the key frames of a file are, by the times at which they are shown.

An index says when frames are decoded; when they are shown is written in their packets alone, which
an edit list, a gap or a variable rate sets apart. So the key frames around a clip are read, not the
index believed. A file without a whole index is read once, packet by packet, none of them decoded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from handloom.errors import MediaError
from handloom.stages.media.container import SAME_S, Container, from_key_frame, why

# Formats whose index, where it is whole, lists all key frames.
INDEXED = {"mp4", "avi", "matroska"}

# A frame is shown at most so much later than it is decoded, in frames: as many may be waited for.
REORDERED = 16

# The last frame of a whole index begins at most this long before the end, seconds.
LAST_S = 1.0


@dataclass(frozen=True)
class KeyFrame:
    """A key frame of a file."""

    time_s: float
    """When it is shown."""
    stamp: int
    """Its timestamp in the index, or its packet's: seeking goes by it."""


class KeyIndex:
    """The key frames of an open file."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._stamps = _index(container)
        self._read: dict[int, KeyFrame | None] = {}
        if len(self._stamps) < 2 and not container.by_dts:  # an index of one frame may be none
            keys = _scanned(container)
            self._stamps = sorted(key.stamp for key in keys)
            self._read = {key.stamp: key for key in keys}
        tick = container.stream.time_base
        self._decoded_s = np.array([float(s * tick) for s in self._stamps]) - container.start_s

    def around(self, start_s: float, end_s: float) -> list[KeyFrame]:
        """Key frames by time, from the last one before a span to the first one after it."""
        late_s = REORDERED * self._container.frame_s
        first, end = np.searchsorted(self._decoded_s, [start_s - late_s, end_s])
        keys = self._shown(first, end)
        while first > 0 and not (keys and keys[0].time_s < start_s - SAME_S):
            first -= 1
            keys = self._shown(first, first + 1) + keys
        while end < len(self._stamps) and not (keys and keys[-1].time_s >= end_s - SAME_S):
            keys, end = keys + self._shown(end, end + 1), end + 1
        return sorted(keys, key=lambda key: key.time_s)

    def _shown(self, first: int, end: int) -> list[KeyFrame]:
        """Those of the index that are shown: an edit list may hide some."""
        keys = [self._key(stamp) for stamp in self._stamps[first:end]]
        return [key for key in keys if key is not None]

    def _key(self, stamp: int) -> KeyFrame | None:
        if stamp not in self._read:
            self._read[stamp] = _shown_key(self._container, stamp)
        return self._read[stamp]


def _index(container: Container) -> list[int]:
    """Timestamps of the key frames in the container's index; none where it is not whole."""
    file, stream = container.file, container.stream
    kind = set(file.format.name.split(","))
    if not kind & INDEXED or container.by_dts:
        return []
    if "matroska" in kind and file.duration:
        end = file.duration / av.time_base / stream.time_base
        file.seek(int(end), stream=stream)  # now it reads the index
    entries = list(stream.index_entries)
    if "matroska" not in kind and entries:
        length = (file.duration or 0) / av.time_base
        if length - float(entries[-1].timestamp * stream.time_base) + container.start_s > LAST_S:
            return []  # the index of the first fragment
    return [entry.timestamp for entry in entries if entry.is_keyframe]


def _scanned(container: Container) -> list[KeyFrame]:
    """The key frames that are shown, from all packets of a file; an edit list may hide the only."""
    container.open_again()
    name, keys = container.path.name, []
    try:
        for packet in container.packets():
            if packet.is_keyframe and packet.size and not packet.is_discard:
                stamp = packet.dts if packet.dts is not None else packet.pts
                keys.append(KeyFrame(container.time_s(packet) or 0.0, int(stamp or 0)))
    except (av.FFmpegError, OSError) as error:
        if not keys:
            raise MediaError(f"{name}: the file cannot be read ({why(error)})") from None
    return keys


def _shown_key(container: Container, stamp: int) -> KeyFrame | None:
    packet = next(_sought(container, stamp) or iter(()), None)
    time_s = container.time_s(packet) if packet is not None else None
    if packet is None or time_s is None or packet.is_discard:
        return None
    return KeyFrame(time_s, stamp)


def _sought(container: Container, stamp: int) -> Iterator[Any] | None:
    """Packets from the key frame with a timestamp on; None where seeking does not lead to it."""
    if not container.can_seek:
        return None
    try:
        container.file.seek(stamp, stream=container.stream)
        return _forward(from_key_frame(container.packets()), stamp)
    except (av.FFmpegError, OSError):
        return None


def _forward(packets: Iterator[Any], stamp: int) -> Iterator[Any] | None:
    for packet in packets:
        if packet.is_keyframe and packet.size:
            if stamp in (packet.dts, packet.pts):
                return chain([packet], packets)
            if packet.dts is not None and packet.dts > stamp:
                return None
    return None


def times_of(keys: list[KeyFrame]) -> npt.NDArray[np.float64]:
    """When key frames are shown, float64 [K], seconds."""
    return np.array([key.time_s for key in keys], np.float64)
