"""A video file as it is opened: the stream that is shown, since when, and its frames from a time.

Times are seconds from the start of the container, as players show them. Whatever a file's index
says, a walk begins at a key frame that was read and found to be shown early enough; where seeking
leads to none, at the start of the file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import av

from handloom.errors import MediaError
from handloom.stages.datasets.source import refuse_special
from handloom.tars import source_of

SAME_S = 1e-4
"""Times closer than this are the same: they have been rounded to microseconds and back."""

# Formats in which what follows a seek has the times that it has without one. MPEG program streams
# write times for some frames alone, and give them to others after a seek: they are read from the
# start, and so are formats that nobody has looked at.
SEEKABLE = frozenset({"mov", "matroska", "avi", "mpegts", "flv", "asf"})

# How much earlier a second and a third seek begin, seconds: where frames are shown later than they
# are decoded, and in formats that seek by guessing, the first may land behind the time.
BACK_S = (0.0, 2.0, 20.0)

# One picture of this size takes 200 MB, in several copies. Whatever a file says of itself,
# the decoder refuses larger ones.
MAX_PIXELS = 8192 * 8192


INVALID_DATA = 1094995529  # AVERROR_INVALIDDATA


@dataclass(frozen=True)
class Shown:
    """A decoded frame and the time at which it appears."""

    picture: Any
    """An `av.VideoFrame`."""
    time_s: float
    until_s: float
    """When the next one should appear, by this one's own duration."""


class Container:
    """An open file and a decoder of its video.

    Args:
        path: of the file.
        decoding: FFmpeg's decoder options.
        threads: of the decoder; 0 is one for each core.

    Attributes:
        stream: the video stream that a player would show: no cover picture.
        start_s: when the container starts, by the clock of its packets.

    Raises:
        MediaError: the file cannot be opened or holds no video.
    """

    def __init__(
        self, path: Path, decoding: dict[str, str] | None = None, threads: int = 1
    ) -> None:
        self.path, self._decoding, self._threads = path, decoding or {}, threads
        self._open()

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _open(self) -> None:
        self.file = opened(self.path)
        stream = shown_stream(self.file)
        if stream is None:
            self.file.close()
            raise MediaError(f"{self.path.name}: the file holds no video stream")
        # One by default: a worker has one core, and threads halve the speed of probing.
        stream.codec_context.thread_count = self._threads
        if self._threads != 1:
            stream.thread_type = "AUTO"
        formats = set(self.file.format.name.split(","))
        self.can_seek = bool(formats & SEEKABLE)
        # AVI says in which order frames are decoded; when B frames are shown has to be guessed.
        self.by_dts = formats == {"avi"} and bool(stream.codec_context.has_b_frames)
        decoding = {} if self.by_dts else self._decoding  # frames left out would move the others
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS), **decoding}
        self.stream = stream
        self._is_read = False
        self.tick_s = float(stream.time_base)
        self.start_s = start_s(self.file, stream)
        self.frame_s = float(1 / (stream.average_rate or stream.guessed_rate or 25))

    def frames(self) -> Iterator[Shown]:
        """All frames, in the order in which they are shown."""
        self.open_again()
        yield from map(intact, self._decoded(self.packets()))

    def first(self) -> tuple[Shown | None, bool]:
        """The first frame that is shown, and whether an edit list hides others before it."""
        self.open_again()
        packets = self.packets()
        head = next(packets, None)
        if head is None:
            return None, False
        frames = self._decoded(chain([head], packets))
        return next(map(intact, frames), None), bool(head.is_discard)

    def frames_from(self, time_s: float) -> Iterator[Shown]:
        """Frames from the one on screen at a time, or an earlier one, on.

        Raises:
            av.FFmpegError: a packet does not decode.
        """
        for back_s in BACK_S:
            if time_s - back_s <= self.frame_s:
                break
            frames = self._frames_after_seek(time_s - back_s)
            first = next(frames, None)
            if first is not None and first.time_s <= time_s + SAME_S:
                yield first
                yield from frames
                return
        yield from self.frames()

    def time_s(self, stamped: Any) -> float | None:
        """When a frame or packet is shown; None for raw streams, which do not say."""
        stamp = stamped.dts if self.by_dts or stamped.pts is None else stamped.pts
        return None if stamp is None else float(stamp * self.stream.time_base) - self.start_s

    def packets(self) -> Iterator[Any]:
        """Packets from where the file stands on."""
        self._is_read = True
        packets: Iterator[Any] = self.file.demux(self.stream)
        return packets

    def seek(self, time_s: float) -> Iterator[Any]:
        """Packets from a key frame on that should be shown at a time or before; none if unable."""
        if not self.can_seek:
            return iter(())
        try:
            self.file.seek(round((time_s + self.start_s) / self.tick_s), stream=self.stream)
        except (av.FFmpegError, OSError):
            return iter(())
        return from_key_frame(self.packets())

    def _frames_after_seek(self, time_s: float) -> Iterator[Shown]:
        packets = self.seek(time_s)
        key = next(packets, None)
        key_s = self.time_s(key) if key is not None else None
        if key_s is None or key_s > time_s + SAME_S:
            return
        for frame in self._decoded(chain([key], packets)):
            if frame.time_s >= key_s - SAME_S:  # earlier ones need what lies before the key frame
                yield intact(frame)

    def _decoded(self, packets: Iterator[Any]) -> Iterator[Shown]:
        """Frames of packets; those before a damaged packet come out before its error."""
        decoder, after_s = self.stream.codec_context, 0.0
        decoder.flush_buffers()
        failure: OSError | None = None
        for packet in chain(packets, [None]):
            if packet is not None and not packet.size:
                continue
            try:
                frames = decoder.decode(packet)
            except (av.FFmpegError, OSError) as error:
                failure, frames = error, decoder.decode(None)
            for frame in frames:
                lasts_s = float((frame.duration or 0) * self.tick_s) or self.frame_s
                time_s = self.time_s(frame)
                time_s = after_s if time_s is None else time_s
                after_s = time_s + lasts_s
                yield Shown(frame, time_s, after_s)
            if failure:
                raise failure

    def open_again(self) -> None:
        """Go back to the start of the file, in formats that cannot seek too.

        Whoever holds the old `stream` must not use it any more.
        """
        if not self._is_read:
            return
        self.file.close()
        self._open()


def intact(frame: Shown) -> Shown:
    """The frame itself; raises where its data are damaged, which FFmpeg covers up with a guess."""
    if frame.picture.is_corrupt:
        raise av.InvalidDataError(INVALID_DATA, "the picture is damaged")
    return frame


def opened(path: Path) -> Any:
    """A PyAV container of an ordinary file.

    Args:
        path: of a file, or of a member of a tar (`handloom/tars.py`).

    Raises:
        MediaError: the path leads to something else, or to no media file.
    """
    refuse_special(path)
    source = source_of(path)
    try:
        return av.open(source, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path.name}: not a readable video file ({why(error)})") from None


def shown_stream(file: Any) -> Any:
    """The video stream that players show, or None: FFmpeg's choice without cover pictures."""
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in file.streams.video if not s.disposition & cover]
    best = file.streams.best("video")
    if best is not None and not best.disposition & cover:
        return best
    return max(streams, key=lambda s: s.width * s.height, default=None)


def start_s(file: Any, stream: Any) -> float:
    """When a container starts: the earliest time of its streams, an MPEG-TS at 1.4 s often."""
    if file.start_time is not None:
        return float(file.start_time / av.time_base)
    return float((stream.start_time or 0) * stream.time_base)


def from_key_frame(packets: Iterator[Any]) -> Iterator[Any]:
    """Packets from the first key frame on."""
    for packet in packets:
        if packet.is_keyframe and packet.size:
            return chain([packet], packets)
    return iter(())


def why(error: OSError) -> str:
    """What FFmpeg or the system says is wrong, without the path."""
    return error.strerror or type(error).__name__  # str(error) would add the absolute path
