"""Reading video files: what a file is, and its frames at given times.

Times are seconds from the first frame of the file's best video stream. Frames come out upright
(rotation metadata applied) with square pixels, RGB uint8.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from handloom.errors import MediaError

# A frame may be asked for slightly after the last one: durations are rounded, frame rates vary.
TAIL_S = 0.5

FramesTHWC = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MediaFacts:
    """What probing finds in a file; width and height are of the stored picture, before rotation."""

    duration_s: float
    fps: float
    width: int
    height: int
    codec: str
    rotation: int
    pixel_aspect: float


def probe(path: Path) -> MediaFacts:
    """Open a file, decode its first frame and measure its video stream.

    Raises:
        MediaError: the file cannot be opened, holds no video, or its first frame does not decode.
    """
    with opened(path) as (container, stream):
        try:
            frame = next(container.decode(stream), None)
        except av.FFmpegError as error:
            reason = why(error)
            raise MediaError(f"{path.name}: the first frame does not decode ({reason})") from None
        if frame is None:
            raise MediaError(f"{path.name}: the video stream holds no frames")
        return MediaFacts(
            duration_s=_duration_s(path, container, stream),
            fps=float(stream.average_rate or stream.guessed_rate or 0),
            width=frame.width,
            height=frame.height,
            codec=stream.codec_context.codec.canonical_name,
            rotation=int(frame.rotation) % 360,
            pixel_aspect=float(stream.sample_aspect_ratio or 1) or 1.0,
        )


class Video:
    """An open file that gives frames by time; neighbouring requests share one decoder.

    decord reads what it can; files it cannot open (AV1, GIF, a broken tail) go to PyAV.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts = probe(path)
        self._decord = _DecordReader.open(path, self.facts)

    def frames_at(self, times_s: npt.NDArray[np.float64]) -> FramesTHWC:
        """The frame on screen at each time.

        Args:
            times_s: float64 [T], ascending.

        Returns:
            uint8 [T, H, W, 3] RGB.

        Raises:
            MediaError: the file is damaged there or ends earlier.
        """
        frames = self._decord.frames_at(times_s) if self._decord else None
        if frames is None:
            self._decord = None
            frames = np.stack(list(_pyav_frames_at(self.path, times_s)))
        return _square_pixels(frames, self.facts)


class _DecordReader:
    def __init__(self, reader: Any, starts_s: npt.NDArray[np.float64], ends_s: float) -> None:
        self._reader, self._starts_s, self._end_s = reader, starts_s, ends_s

    @staticmethod
    def open(path: Path, facts: MediaFacts) -> "_DecordReader | None":
        """A reader, or None where decord cannot read the file as PyAV's probe saw it."""
        import decord  # loads its own FFmpeg: only when frames are wanted

        try:
            reader = decord.VideoReader(str(path), num_threads=1)
            spans = np.asarray(reader.get_frame_timestamp(np.arange(len(reader))), np.float64)
        except (decord.DECORDError, RuntimeError):
            return None
        starts, end = spans[:, 0] - spans[0, 0], float(spans[-1, 1] - spans[0, 0])
        sane = bool(np.all(np.diff(starts) > 0)) and abs(end - facts.duration_s) < TAIL_S
        return _DecordReader(reader, starts, end) if sane else None

    def frames_at(self, times_s: npt.NDArray[np.float64]) -> FramesTHWC | None:
        """The frames, or None where decord fails."""
        import decord

        if times_s[-1] > self._end_s + TAIL_S:
            return None
        indices = np.searchsorted(self._starts_s, times_s + 1e-4, side="right") - 1
        try:
            frames: FramesTHWC = self._reader.get_batch(indices.clip(0)).asnumpy()
        except decord.DECORDError:
            return None
        return frames


def _pyav_frames_at(path: Path, times_s: npt.NDArray[np.float64]) -> Iterator[FramesTHWC]:
    """Walk forward from the key frame before the first time, yielding one frame for each time."""
    with opened(path) as (container, stream):
        start_s = float((stream.start_time or 0) * stream.time_base)
        if times_s[0] > 2.0 and container.duration:  # GIF and raw streams cannot seek
            container.seek(int((times_s[0] + start_s) / stream.time_base), stream=stream)
        wanted = list(times_s)
        shown, end_s = None, 0.0
        for frame in _decoded(path, container, stream):
            time_s = float(frame.pts * stream.time_base) - start_s if frame.pts is not None else 0.0
            while wanted and shown is not None and wanted[0] + 1e-4 < time_s:
                yield upright(shown.to_ndarray(format="rgb24"), shown.rotation)
                wanted.pop(0)
            if not wanted:
                return
            shown, end_s = frame, time_s + float((frame.duration or 0) * stream.time_base)
        while wanted and shown is not None and wanted[0] <= end_s + TAIL_S:
            yield upright(shown.to_ndarray(format="rgb24"), shown.rotation)
            wanted.pop(0)
        if wanted:
            raise MediaError(
                f"{path.name}: no frame at {wanted[0]:.2f} s, the picture ends at {end_s:.2f} s"
            )


def _decoded(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    try:
        yield from container.decode(stream)
    except av.FFmpegError as error:
        raise MediaError(f"{path.name}: decoding stops ({why(error)})") from None


class opened:
    """Context manager: a PyAV container and its best video stream.

    Args:
        path: a video file.
        decoding: FFmpeg's decoder options.

    Raises:
        MediaError: the file cannot be opened or holds no video.
    """

    def __init__(self, path: Path, decoding: dict[str, str] | None = None) -> None:
        self.path, self._decoding = path, decoding or {}

    def __enter__(self) -> tuple[Any, Any]:
        try:
            self.container = av.open(str(self.path), metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            reason = why(error)
            raise MediaError(f"{self.path.name}: not a readable video file ({reason})") from None
        stream = self.container.streams.best("video")
        if stream is None:
            self.container.close()
            raise MediaError(f"{self.path.name}: the file holds no video stream")
        stream.codec_context.thread_count = 1  # a worker has one core; threads halve probing
        stream.codec_context.options = self._decoding
        return self.container, stream

    def __exit__(self, *_: object) -> None:
        self.container.close()


def _duration_s(path: Path, container: Any, stream: Any) -> float:
    """Length of the video stream; containers without one are read to their last packet."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        start_s = float((stream.start_time or 0) * stream.time_base)
        return float(Fraction(container.duration, av.time_base)) - start_s
    with opened(path) as (again, video):
        try:
            ends = [
                float((p.pts + (p.duration or 0)) * video.time_base)
                for p in again.demux(video)
                if p.pts is not None
            ]
        except av.FFmpegError as error:
            raise MediaError(f"{path.name}: the file breaks off ({why(error)})") from None
    if len(ends) < 2:
        raise MediaError(f"{path.name}: a still picture, not a video")
    return max(ends)


def upright(picture_hwc: npt.NDArray[np.uint8], degrees: float) -> npt.NDArray[np.uint8]:
    """A picture turned by a frame's rotation metadata, in quarters, against the clock."""
    return np.ascontiguousarray(np.rot90(picture_hwc, k=int(degrees) // 90 % 4))


def _square_pixels(frames: FramesTHWC, facts: MediaFacts) -> FramesTHWC:
    if abs(facts.pixel_aspect - 1) < 0.01:
        return frames
    height, width = frames.shape[1:3]
    if facts.rotation % 180:
        size = width, round(height * facts.pixel_aspect)
    else:
        size = round(width * facts.pixel_aspect), height
    return np.stack([np.asarray(Image.fromarray(f).resize(size)) for f in frames])


def why(error: OSError) -> str:
    """What FFmpeg or the system says is wrong, without the path."""
    return error.strerror or type(error).__name__  # str(error) would add the absolute path


_open: dict[Path, Video] = {}


def open_video(path: Path) -> Video:
    """The video at path; the last one stays open, since a video's clips come one after another."""
    if path not in _open:
        _open.clear()
        _open[path] = Video(path)
    return _open[path]
