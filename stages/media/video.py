"""Reading video files: what a file is, and its frames at given times.

Times are seconds from the start of the container, as players show them. Frames are those that
FFmpeg shows: edit lists, display matrix and pixel aspect applied, RGB uint8.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from handloom.errors import MediaError
from handloom.stages.media.container import MAX_PIXELS, SAME_S, Container, Shown, why
from handloom.stages.media.display import (
    Converter,
    FrameHWC,
    degrees_clockwise,
    display_matrix,
    is_mirrored,
    pixel_aspect,
)

# A frame may be asked for slightly after the last one: durations are rounded, frame rates vary.
TAIL_S = 0.5

# Without an index, seeking pays for a way of more seconds than this.
FAR_S = 4.0

FramesTHWC = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MediaFacts:
    """What probing finds in a file; width and height are of the stored picture, before rotation."""

    start_s: float
    """When the first picture is shown."""
    duration_s: float
    """When the last picture ends."""
    fps: float
    width: int
    height: int
    codec: str
    rotation: int
    """Degrees against the clock by which the stored picture is turned, 0 to 359."""
    pixel_aspect: float
    offset_s: float = 0.0
    """What the packets' clock says at the start of the container."""
    is_mirrored: bool = False
    is_cut: bool = False
    """Whether an edit list hides the first frames."""
    is_variable: bool = False
    """Whether frames last differently long."""


def probe(path: Path) -> MediaFacts:
    """Open a file, decode its first frame and measure its video stream.

    Of pictures so large that one would fill the memory nothing is decoded.

    Raises:
        MediaError: the file cannot be opened, holds no video, or its first frame does not decode.
    """
    with Container(path) as container:
        stream = container.stream
        if stream.width * stream.height > MAX_PIXELS:
            return MediaFacts(0.0, 0.0, 0.0, stream.width, stream.height, "", 0, 1.0)
        try:
            first, is_cut = container.first()
        except av.FFmpegError as error:
            raise MediaError(
                f"{path.name}: the first frame does not decode ({why(error)})"
            ) from None
        if first is None:
            raise MediaError(f"{path.name}: the video stream holds no frames")
        end_s = _end_s(container)
        stream, matrix = container.stream, display_matrix(first.picture)
        rates = float(stream.average_rate or 0), float(stream.guessed_rate or 0)
        return MediaFacts(
            start_s=first.time_s,
            duration_s=end_s,
            fps=float(stream.average_rate or stream.guessed_rate or 0),
            width=first.picture.width,
            height=first.picture.height,
            codec=stream.codec_context.codec.canonical_name,
            rotation=-degrees_clockwise(matrix) % 360,
            pixel_aspect=pixel_aspect(stream),
            offset_s=container.start_s,
            is_mirrored=is_mirrored(matrix),
            is_cut=is_cut,
            is_variable=abs(rates[0] - rates[1]) > 0.02 * max(rates),
        )


def shown_times(path: Path) -> npt.NDArray[np.float64]:
    """When the frames of a file are shown, float64 [T], ascending, by its packets.

    Raises:
        MediaError: the file cannot be read.
    """
    with Container(path) as container:
        try:
            times_s = {
                time_s
                for packet in container.packets()
                if packet.size and not packet.is_discard
                if (time_s := container.time_s(packet)) is not None
            }
        except av.FFmpegError as error:
            raise MediaError(f"{path.name}: the file breaks off ({why(error)})") from None
    return np.array(sorted(times_s), np.float64)


class Video:
    """An open file that gives frames by time; neighbouring requests share one decoder."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        self.path = path
        self._container = Container(path, threads=threads)
        self._pixel_aspect = pixel_aspect(self._container.stream)
        self._keys_s = _indexed_keys(self._container)
        self._convert = Converter()
        self._frames: Iterator[Shown] = iter(())
        self._shown: Shown | None = None
        self._next: Shown | None = None
        self._failure: OSError | None = None

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def frames_at(self, times_s: Sequence[float] | npt.NDArray[np.float64]) -> FramesTHWC:
        """The frames on screen at some times, uint8 [T, H, W, 3]; see `each_frame`."""
        return np.stack(list(self.each_frame(times_s)))

    def each_frame(self, times_s: Sequence[float] | npt.NDArray[np.float64]) -> Iterator[FrameHWC]:
        """The frame on screen at each time, one after the other.

        Args:
            times_s: [T], best ascending.

        Yields:
            uint8 [H, W, 3] RGB.

        Raises:
            MediaError: the file is damaged there or ends earlier.
        """
        for time_s in times_s:
            # Not kept in a name: a decoded frame may take 200 MB.
            yield self._convert(self._walk_to(float(time_s)).picture, self._pixel_aspect)

    def _walk_to(self, time_s: float) -> Shown:
        if self._shown is None or not self._is_ahead(time_s):
            self._frames, self._failure = self._container.frames_from(time_s), None
            self._shown, self._next = self._following(), self._following()
        while self._next is not None and self._next.time_s <= time_s + SAME_S:
            self._shown, self._next = self._next, self._following()
        tail_s = 0.0 if self._failure else TAIL_S
        if self._shown is None or (
            self._next is None and time_s + SAME_S >= self._shown.until_s + tail_s
        ):
            raise self._no_frame(time_s)
        return self._shown

    def _following(self) -> Shown | None:
        """The next frame; None at the end, and where decoding fails."""
        try:
            return next(self._frames, None)
        except (av.FFmpegError, OSError) as error:
            self._failure = error
            return None

    def _no_frame(self, time_s: float) -> MediaError:
        name, end_s = self.path.name, self._shown.until_s if self._shown else 0.0
        shown, self._shown = self._shown, None  # whoever asks next starts afresh
        if self._failure:
            where = f" at {end_s:.2f} s" if shown else ""
            return MediaError(f"{name}: decoding stops{where} ({why(self._failure)})")
        if shown is None:
            return MediaError(f"{name}: the video stream holds no frames")
        return MediaError(f"{name}: no frame at {time_s:.2f} s, the picture ends at {end_s:.2f} s")

    def _is_ahead(self, time_s: float) -> bool:
        """Whether the way to a time is best gone on from here."""
        assert self._shown is not None
        here_s = self._shown.time_s
        if time_s < here_s - SAME_S:
            return False
        if not len(self._keys_s):
            return time_s - here_s < FAR_S
        first, last = np.searchsorted(self._keys_s, [here_s + SAME_S, time_s + SAME_S])
        return bool(first == last)


def frames_once(
    path: Path, times_s: npt.NDArray[np.float64], threads: int = 1
) -> Iterator[FrameHWC]:
    """The frame on screen at each time, from a file that is opened for these frames alone.

    Args:
        path: a video file.
        times_s: float64 [T], ascending.
        threads: of the decoder; 0 is one for each core. They change no pixel.

    Yields:
        uint8 [H, W, 3] RGB, one at a time.

    Raises:
        MediaError: the file cannot be opened, is damaged there or ends earlier.
    """
    video = Video(path, threads)
    try:
        yield from video.each_frame(times_s)
    finally:
        video.close()


def _indexed_keys(container: Container) -> npt.NDArray[np.float64]:
    """About when the key frames of an index lie, ascending: by their times of decoding."""
    stamps = [e.timestamp for e in container.stream.index_entries if e.is_keyframe]
    return np.sort(np.array(stamps, np.float64) * container.tick_s - container.start_s)


def _end_s(container: Container) -> float:
    """When the last picture ends, from the table of an MP4 or from the last packets of a file."""
    stream = container.stream
    if stream.duration and "mp4" in container.file.format.name:
        end = (stream.start_time or 0) + stream.duration
        return float(end * stream.time_base) - container.start_s
    length_s = (container.file.duration or 0) / av.time_base
    ends = _ends_s(container, length_s - TAIL_S) or _ends_s(container, 0.0)
    if not ends:
        kind = container.file.format.name
        raise MediaError(
            f"{container.path.name}: a raw {kind} stream, which says no times: put it into a "
            "container, `ffmpeg -r RATE -i FILE -c copy FILE.mp4`"
        )
    if len(ends) < 2 and length_s <= container.frame_s:
        raise MediaError(f"{container.path.name}: a still picture, not a video")
    return max(ends)


def _ends_s(container: Container, from_s: float) -> list[float]:
    """When the frames from about a time on end, by their packets."""
    if from_s > 0:
        packets = container.seek(from_s)
    else:
        container.open_again()
        packets = container.packets()
    tick = container.stream.time_base
    waits = container.stream.codec_context.reorder_depth if container.by_dts else 0
    ends = []
    try:
        for packet in packets:
            time_s = container.time_s(packet)
            if packet.size and time_s is not None:
                lasts_s = float((packet.duration or 0) * tick) or container.frame_s
                ends.append(time_s + lasts_s + waits * container.frame_s)
    except (av.FFmpegError, OSError) as error:
        if not ends:
            reason = why(error)
            raise MediaError(f"{container.path.name}: the file breaks off ({reason})") from None
    return ends


_open = threading.local()


def open_video(path: Path) -> Video:
    """The video at path; the last one stays open, since a video's clips come one after another.

    Each thread has its own: a decoder must not be shared.
    """
    if getattr(_open, "path", None) != path:
        _open.path = None  # should opening fail
        _open.video = Video(path)
        _open.path = path
    video: Video = _open.video
    return video
